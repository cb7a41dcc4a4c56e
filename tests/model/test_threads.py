"""Threads, and other programs of NumPyro in the process: one at a time, or a sentence."""

from __future__ import annotations

import threading

import pytest
from numpyro import handlers

import ssmscan
from tests.model.zoo import CASES, Y, local_level


def test_two_threads_trace_each_its_own_model():
    names = ("local_level", "named_by_index")
    alone = {n: ssmscan.trace(CASES[n].model, *CASES[n].args) for n in names}
    found, barrier = [], threading.Barrier(2)

    def work(name: str) -> None:
        case = CASES[name]
        barrier.wait()
        for _ in range(3):
            try:
                found.append((name, ssmscan.trace(case.model, *case.args)))
            except BaseException as error:
                found.append((name, error))

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all(getattr(ssm, "program", ssm) is alone[name].program for name, ssm in found)


def test_a_model_of_numpyro_in_another_thread_is_not_taken_for_ours():
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        with handlers.seed(rng_seed=0):
            inside.set()
            done.wait()

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    try:
        with pytest.raises(ssmscan.ModelError, match=r"handler\(s\) seed are active.*If another thread is running"):
            ssmscan.trace(local_level, Y)
    finally:
        done.set()
        thread.join()
    assert ssmscan.trace(local_level, Y).num_steps == 12

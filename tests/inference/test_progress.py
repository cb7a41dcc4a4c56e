import io
import time
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tqdm

from ssmscan.inference import progress
from ssmscan.inference.progress import compile_chunk, run_chunks


@dataclass(frozen=True)
class Walk:
    """A random walk with the drift in the operand."""

    spread: float = 1.0

    def __call__(self, drift, state):
        key, key_step = jax.random.split(state["key"])
        x = state["x"] + drift + self.spread * jax.random.normal(key_step, state["x"].shape)
        return {"key": key, "x": x}, {"x": x, "sign": jnp.sign(x)}


@pytest.fixture
def start():
    return {"key": jax.random.key(0), "x": jnp.zeros(3)}


DRIFT = np.float32(0.1)


def drift():
    return jnp.asarray(DRIFT, jnp.result_type(float))


class Interrupting(progress.tqdm):
    """A progress bar on which the user presses Control-C at the third update."""

    def update(self, n=1):
        self.updates = getattr(self, "updates", 0) + 1
        if self.updates == 3:
            raise KeyboardInterrupt
        return super().update(n)


def test_draws_do_not_depend_on_how_the_run_was_cut(start, monkeypatch):
    chunk = compile_chunk(Walk(), drift(), start)
    whole = run_chunks(chunk, drift(), start, 50, label="walk")
    monkeypatch.setattr(progress, "SECONDS_PER_CHUNK", 0.0)
    single = run_chunks(chunk, drift(), start, 50, label="walk")
    assert whole.done == single.done == 50
    np.testing.assert_array_equal(whole.outputs["x"], single.outputs["x"])
    np.testing.assert_array_equal(whole.state["x"], single.state["x"])


def test_the_chunks_take_the_steps_of_a_plain_loop(start):
    chunk = compile_chunk(Walk(), drift(), start)
    run = run_chunks(chunk, drift(), start, 20, label="walk")
    state, expected, step = start, [], jax.jit(Walk())
    for _ in range(20):
        state, output = step(drift(), state)
        expected.append(output["x"])
    np.testing.assert_allclose(run.outputs["x"], np.stack(expected), rtol=1e-6)


def test_two_runs_in_a_row_are_one_run(start):
    chunk = compile_chunk(Walk(), drift(), start)
    whole = run_chunks(chunk, drift(), start, 30, label="walk")
    first = run_chunks(chunk, drift(), start, 12, label="walk")
    second = run_chunks(chunk, drift(), first.state, 18, label="walk")
    both = np.concatenate([first.outputs["x"], second.outputs["x"]])
    np.testing.assert_array_equal(whole.outputs["x"], both)


def test_an_interrupt_keeps_what_is_done(start, monkeypatch):
    chunk = compile_chunk(Walk(), drift(), start)
    whole = run_chunks(chunk, drift(), start, 50, label="walk")
    monkeypatch.setattr(progress, "SECONDS_PER_CHUNK", 0.0)
    monkeypatch.setattr(progress, "tqdm", Interrupting)
    run = run_chunks(chunk, drift(), start, 50, label="walk")
    assert run.interrupted
    assert run.done == 3
    np.testing.assert_array_equal(run.outputs["x"], whole.outputs["x"][:3])
    rest = run_chunks(chunk, drift(), run.state, 0, label="walk")
    assert rest.done == 0
    assert rest.outputs["x"].shape == (0, 3)


def test_the_buffer_bounds_the_chunk(start, monkeypatch):
    monkeypatch.setattr(progress, "BUFFER_BYTES", 100)
    chunk = compile_chunk(Walk(2.0), drift(), start)
    size = 6 * jnp.zeros(()).dtype.itemsize
    assert chunk.capacity == 100 // size
    assert run_chunks(chunk, drift(), start, 23, label="walk").done == 23


def test_the_same_step_compiles_once_whatever_the_data(start):
    compiled = []

    def listen(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    compile_chunk(Walk(3.0), drift(), start)
    other, other_drift = {"key": jax.random.key(1), "x": jnp.ones(3)}, 2 * drift()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        compile_chunk(Walk(3.0), other_drift, other)
        assert len(compiled) == 0
        compile_chunk(Walk(4.0), other_drift, other)
        assert len(compiled) == 1
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_off_a_terminal_only_a_long_phase_says_what_it_is_once(monkeypatch, capsys):
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.02)
    for text, seconds, show in (("short", 0.0, True), ("hidden", 0.1, False), ("NUTS: compiling", 0.1, True)):
        with progress.phase(text, progress=show):
            time.sleep(seconds)
    with progress.phase("walk", total=50) as bar:
        time.sleep(0.1)
        bar.update(50)
    assert capsys.readouterr().err == "NUTS: compiling ...\nwalk: 50 steps ...\n"


def test_a_terminal_shows_a_phase_while_it_lasts(capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "tqdm", partial(tqdm.tqdm, file=terminal))
        with progress.phase("PMMH: compiling"):
            during = terminal.getvalue()
    assert "PMMH: compiling" in during
    assert terminal.getvalue().endswith("\r") and not capsys.readouterr().err


def test_a_deadline_and_enough_end_a_run_between_chunks(start):
    chunk = compile_chunk(Walk(), drift(), start)
    late = run_chunks(chunk, drift(), start, 50, label="walk", deadline=0.0)
    assert (late.done, late.interrupted) == (0, False)
    first = run_chunks(chunk, drift(), start, 50, label="walk", enough=lambda outputs: True)
    assert (first.done, first.interrupted) == (1, False)
    none = progress.no_steps(Walk(), drift(), start)
    assert (none.done, none.interrupted, none.outputs["x"].shape) == (0, True, (0, 3))

"""Certificates of sound models pass, and each planted fault is objected to by the check that must see it."""

import time

import jax
import numpy as np
import pytest

import ssmscan
from ssmscan.certification.certificate import Outcome
from ssmscan.certification.certify import certify
from ssmscan.certification.exact_draws import find_places
from ssmscan.certification.kernels import GibbsCheck, NUTSCheck, Operand
from ssmscan.certification.likelihood import LikelihoodCheck, compare_positions
from ssmscan.certification.replicates import (
    compare_before_and_after,
    find_scales,
    names_of_statistics,
    run_replicates,
)
from tests.certification.__main__ import certified
from tests.certification.faults import FAULTS, forgotten_weights
from tests.certification.models import READINGS, SOUND, autoregression, traced

WITHOUT = ("agreement", "calibration")


def positions_of_likelihoods(ssm, seed):
    places = find_places(ssm)
    key = jax.random.key(seed)
    operand = Operand(ssm, find_scales(key, ssm, places)[0])
    check, never = LikelihoodCheck(places), lambda: time.perf_counter() + 1e6
    return run_replicates(check, operand, key, 1000, never, label="", progress=False).usable()


@pytest.mark.slow
def test_an_estimate_is_one_of_its_like_and_one_of_forgotten_weights_is_not():
    run = positions_of_likelihoods(ssmscan.trace(autoregression, READINGS), 0)
    assert run.number == 1000
    assert compare_positions(run.outputs["position"], run.outputs["logs"], 1e-4, 1.28).passed
    with forgotten_weights():
        run = positions_of_likelihoods(ssmscan.trace(autoregression, READINGS), 0)
        assert not compare_positions(run.outputs["position"], run.outputs["logs"], 1e-4, 1.28).passed


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("check", "fault"),
    [(NUTSCheck, "NUTS without the density of noise"), (GibbsCheck, "conditional SMC ends anywhere")],
)
def test_samplers_pass_on_data_with_gaps_and_faults_are_seen_there(check, fault):
    y = np.where(np.arange(5) % 2 == 1, np.nan, READINGS[:5])

    def shift():
        ssm, key = ssmscan.trace(autoregression, y), jax.random.key(0)
        places, never = find_places(ssm), lambda: time.perf_counter() + 1e6
        operand = Operand(ssm, find_scales(key, ssm, places)[0])
        run = run_replicates(check(places), operand, key, 4000, never, label="", progress=False).usable()
        before, after, data = (run.outputs[name] for name in ("before", "after", "data"))
        names = names_of_statistics(ssm, places, before.shape[1])
        return compare_before_and_after(before, after, data, names, 1e-4, 1.28)

    assert shift().passed
    with FAULTS[fault].plant():
        assert not shift().passed


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("gaps", [False, True])
def test_a_sound_model_passes(gaps, seed):
    y = READINGS.copy()
    y[4:6] = np.nan if gaps else y[4:6]
    found = certified(ssmscan.trace(autoregression, y), seed, 60.0, WITHOUT)
    assert found.passed and not found.interrupted, str(found)
    assert {f.outcome for f in found.findings} <= {Outcome.PASSED}


@pytest.mark.heavy
@pytest.mark.parametrize("name", FAULTS)
def test_each_planted_fault_is_seen_by_the_check_that_must_see_it(name):
    fault = FAULTS[name]
    without = WITHOUT if fault.seen_by != "calibration" else ("agreement",)
    with fault.plant():
        found = certified(ssmscan.trace(autoregression, READINGS), 0, 60.0, without)
    assert fault.seen_by in found.failed, str(found)


@pytest.mark.heavy
@pytest.mark.parametrize("name", SOUND)
def test_models_of_six_kinds_pass(name):
    found = certify(traced(name), progress=False)
    assert found.passed, str(found)

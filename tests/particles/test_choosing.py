"""`choose_proposal` looks ahead where that pays and can be trusted, and says why not elsewhere."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest

import ssmscan
from ssmscan.particles.choosing import Findings, Measured, efficiency
from ssmscan.particles.mode_search import APART, COMPARABLE, STARTS, Mode, count_modes
from tests.particles.bimodal import ONE_MODE, SEVERAL_MODES

KEY = jax.random.key(0)


def measured(mean=-100.0, sd=1.0, seconds=1e-3, heavy=0.0):
    """Return estimates of exactly this mean and standard deviation of the logarithm."""
    z = np.random.default_rng(0).normal(size=64)
    return Measured(mean + sd * (z - z.mean()) / z.std(ddof=1), seconds, heavy)


def findings(ahead, plain=None, modes=((6, 0),), num_particles=None):
    return Findings(num_particles, plain or measured(sd=3.0), ahead, list(modes), 1e-4)


GOOD = measured(mean=-99.0, sd=0.1, seconds=2e-3)


def test_it_is_taken_where_it_pays_and_nothing_speaks_against_it():
    found = findings(GOOD)
    assert found.look_ahead and found.gain > 5
    assert found.reason().startswith("LookAhead. With 64 particles the standard deviation of the log likelihood")
    assert "is 3 with Bootstrap, in 1 ms, and 0.1 with LookAhead, in 2 ms" in found.reason()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (findings(measured(-103.0, 0.1)), r"estimates are lower than those of Bootstrap, by 3\.0 \+- 0\.4 on"),
        (findings(GOOD._replace(heavy=0.5)), "50% of its runs have heavy-tailed weights"),
        (findings(GOOD, modes=[(6, 0), (5, 2)]), "2 of 11 searches from random paths found another mode"),
        (findings(GOOD._replace(log_likelihood=np.append(GOOD.log_likelihood, -np.inf))), "an estimate of it is -inf"),
        (findings(measured(-99.0, 0.9, 5e-3), measured(-99.0, 1.0)), "It is taken from 1.5 times on"),
    ],
)
def test_each_thing_that_speaks_against_it_is_enough_and_is_said(found, said):
    assert not found.look_ahead
    assert found.reason().startswith("Bootstrap") and re.search(said, found.reason())


def test_a_bootstrap_filter_that_starves_is_no_reason_to_distrust():
    assert findings(GOOD, measured(-180.0, 20.0)).look_ahead
    nothing = Measured(np.full(64, -np.inf), 1e-3, 0.0)
    assert findings(GOOD, nothing).look_ahead
    # Both find the same, and the noise of the one is small enough for a factor of two to show.
    assert findings(measured(-100.1, 0.05), measured(-100.0, 0.6)).doubts() == []
    assert len(findings(measured(-100.7, 0.05), measured(-100.0, 0.6)).doubts()) == 1


def test_a_given_number_of_particles_is_what_counts():
    few = measured(sd=1.1, seconds=1e-4)
    ahead = measured(mean=-99.5, sd=0.1, seconds=2e-4)
    assert findings(ahead, few, num_particles=8).gain > 2 * findings(ahead, few).gain
    assert "with 8 particles instead of 8" in findings(ahead, few, num_particles=8).reason()


def test_the_efficiency_of_an_exact_random_walk_is_known():
    np.testing.assert_allclose(efficiency(0.0), 2.38**2 * 0.2338, rtol=1e-3)
    assert efficiency(0.0) > efficiency(1.2) > efficiency(3.0) > 0


def test_modes_are_told_apart_by_their_noise_and_their_mass():
    noise = np.zeros((STARTS, 4))
    height, settled = np.zeros(STARTS), np.ones(STARTS, bool)
    assert count_modes(Mode(noise, height, settled)) == (6, 0)
    noise[2, 1] = 1.1 * APART
    assert count_modes(Mode(noise, height, settled)) == (6, 1)
    height[2] = -1.1 * COMPARABLE
    assert count_modes(Mode(noise, height, settled)) == (6, 0)
    height[2] = 1.1 * COMPARABLE
    assert count_modes(Mode(noise, height, settled)) == (6, 0)
    settled[2] = False
    assert count_modes(Mode(noise, height, settled)) == (5, 0)
    panel = Mode(np.stack([noise] * 2), np.zeros((2, STARTS)), np.ones((2, STARTS), bool))
    assert count_modes(panel) == (12, 2) and count_modes(None) == (0, 0)


def test_under_a_trace_it_refuses():
    ssm, theta = ONE_MODE["linear"]()
    for wrong in (jax.jit, jax.vmap):
        with pytest.raises(ValueError, match="choose_proposal runs filters and looks at the clock"):
            wrong(lambda key: (ssmscan.choose_proposal(key, ssm, theta), key)[1])(jax.random.split(KEY, 2))
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda: ssmscan.choose_proposal(KEY, ssm, theta))()


@pytest.mark.slow
def test_one_model_of_each_kind():
    ssm, theta = ONE_MODE["linear"]()
    proposal, reason = ssmscan.choose_proposal(KEY, ssm, theta)
    assert proposal == ssmscan.LookAhead() and reason.startswith("LookAhead.")
    ssm, theta = SEVERAL_MODES["kitagawa"]()
    proposal, reason = ssmscan.choose_proposal(KEY, ssm, theta)
    assert proposal == ssmscan.Bootstrap() and "lower than those of Bootstrap" in reason


@pytest.mark.heavy
@pytest.mark.parametrize("name", SEVERAL_MODES)
def test_where_there_are_several_modes_it_is_never_taken(name):
    ssm, theta = SEVERAL_MODES[name]()
    for seed in range(20):
        proposal, reason = ssmscan.choose_proposal(jax.random.key(seed), ssm, theta)
        assert proposal == ssmscan.Bootstrap() and "cannot be trusted" in reason, reason


@pytest.mark.heavy
@pytest.mark.parametrize("name", ONE_MODE)
def test_where_there_is_one_mode_it_is_always_trusted(name):
    ssm, theta = ONE_MODE[name]()
    for seed in range(20):
        assert "cannot be trusted" not in ssmscan.choose_proposal(jax.random.key(seed), ssm, theta)[1]

"""PMMH takes the proposal that is worth more, says why, and samples as if it knew the likelihood."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import ssmscan
from ssmscan.inference import pilot
from ssmscan.inference.default_estimator import PLAIN
from ssmscan.inference.pilot import Aim, Pilot
from ssmscan.particles.draws import as_key
from tests.inference.looking_ahead import case, report, run
from tests.inference.test_pmmh import FEW, SMALL
from tests.truth import z_threshold

SHORT = replace(SMALL, num_samples=20, num_warmup=80, num_particles=None, num_paths=4, target_sd=1.2, estimator=None)
KEY = jax.random.key(0)


@pytest.fixture
def chosen(monkeypatch):
    """Where a proposal is chosen, and what is then taken in place of measuring."""
    asked = []

    def choose(key, ssm, theta, *, num_particles):
        asked.append((theta, num_particles))
        return ssmscan.LookAhead(), "LookAhead. Because."

    monkeypatch.setattr(pilot, "choose_proposal", choose)
    monkeypatch.setattr(pilot, "PRIOR_DRAWS", 8)
    return asked


@pytest.mark.parametrize(
    ("sd", "size", "asked"), [(0.9, True, []), (1.3, True, [None]), (1.1, False, []), (1.3, False, [100])]
)
def test_a_proposal_is_chosen_where_the_bootstrap_filter_needs_many_particles(
    linear, chosen, monkeypatch, sd, size, asked
):
    found = Pilot(as_key(KEY), linear, PLAIN, 4, 60.0, progress=False)
    found.aim = Aim(1.2, size, True)
    used = []
    monkeypatch.setattr(found, "replicate", lambda centre: sd)
    monkeypatch.setattr(found, "use", used.append)
    found.choose({name: np.zeros(()) for name in ("rho", "q")})
    assert [number for _, number in chosen] == asked and [one.num_particles for one in used] == [
        16 if size else 100 for _ in asked
    ]
    assert all(one.proposal == ssmscan.LookAhead() for one in used)
    assert found.choice == "LookAhead. Because" if asked else "are enough here" in found.choice


@pytest.mark.slow
def test_with_an_estimator_of_the_user_nothing_is_chosen(linear, chosen, monkeypatch):
    monkeypatch.setattr(pilot, "FEW", 0)
    notes = replace(SHORT, estimator=FEW).run(KEY, linear).notes
    assert not any(word in note for note in notes for word in ("Bootstrap", "LookAhead")) and chosen == []


@pytest.mark.slow
def test_what_is_chosen_is_used_from_then_on_and_said(linear, chosen, monkeypatch):
    monkeypatch.setattr(pilot, "FEW", 0)
    found = SHORT.run(KEY, linear)
    ((theta, num_particles),) = chosen
    assert set(theta) == {"rho", "q"} and 0 < theta["rho"] < 1 and num_particles is None
    assert found.settings["used"]["proposal"]["type"] == "LookAhead" and found.settings["estimator"] is None
    assert found.settings["used"]["num_particles"] == 16 and "LookAhead. Because" in found.notes
    # The model is linear and Gaussian: the estimates have no noise.
    assert "standard deviation of the log likelihood estimate 0.00 at the centre" in found.notes[0]
    assert found.states["x"].shape[:2] == (4, 4) and not any("differ" in note for note in found.notes)


@pytest.mark.heavy
@pytest.mark.parametrize("counted", [False, True])
def test_eight_particles_that_look_ahead_are_as_good_as_the_likelihood(counted):
    one, sizes = case(counted), []
    for seed in range(3):
        found = run(seed, counted, None)
        assert found.settings["used"]["proposal"]["type"] == "LookAhead"
        here, there = (report(result, one.means) for result in (found, run(seed, counted, one.likelihood)))
        sizes.append([[size for size, _ in each.values()] for each in (here, there)])
        assert all(abs(z) < z_threshold(6) for _, z in (*here.values(), *there.values()))
        stuck = report(run(seed, counted, ssmscan.ParticleFilter(8)), one.means)
        assert max(size for size, _ in stuck.values()) < 100
    ahead, exact = np.sum(sizes, (0, 2))
    assert ahead > 0.8 * exact

"""The evidence by the traced parts against forward runs of NumPyro, and that a wrong model fails it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.model.statespace import forward_runs
from ssmscan.model.statespace.dynamics import LoopDynamics
from tests.truth import z_threshold

KEY, Y = jax.random.key(0), jnp.array([0.3, -0.2, 0.8])


def initial(y):
    q = numpyro.sample("q", dist.LogNormal(0.0, 0.5))
    x0 = numpyro.sample("x0", dist.Normal(0.0, 2.0))

    def step(x, yt):
        x = numpyro.sample("x", dist.Normal(x, q))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
        return x, x

    scan(step, x0, y)


def joined_after(y):
    _, path = scan(lambda x, _: (numpyro.sample("x", dist.Normal(x, 1.0)),) * 2, 0.0, None, length=len(y))
    numpyro.sample("y", dist.Normal(jnp.cumsum(path), 1.0), obs=y)


def two_loops(y):
    def step(x, v):
        x = numpyro.sample("x", dist.Normal(x, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=v)
        return x, None

    scan(step, 0.0, y)
    _, path = scan(lambda c, _: (c, numpyro.sample("z", dist.Gamma(2.0, 1.0))), 0.0, None, length=len(y))
    numpyro.sample("v", dist.Normal(path, 1.0), obs=y + 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("model", [initial, joined_after, two_loops])
def test_a_model_that_was_understood_has_the_evidence_of_its_forward_runs(model):
    found = ssmscan.trace(model, Y).check(KEY, simulate=1000)
    assert found.evidence.passed and found.evidence.effective >= 0.49
    assert found.evidence.power > 0.25 and found.evidence.visible < 1.0
    assert "1000 forward runs of NumPyro, z =" in str(found)


@pytest.mark.slow
def test_an_initial_state_drawn_from_another_law_is_seen_where_no_density_shows_it(monkeypatch):
    ssm, init = ssmscan.trace(initial, Y), LoopDynamics.init
    narrow = lambda self, noise: init(self, jax.tree.map(lambda e: 0.3 * e, noise))  # noqa: E731
    monkeypatch.setattr(LoopDynamics, "init", narrow)
    by_parts = forward_runs._by_parts
    monkeypatch.setattr(forward_runs, "_by_parts", lambda *args: by_parts.__wrapped__(*args))
    assert ssm.check(KEY).passed
    with pytest.raises(ssmscan.ModelError, match="forward runs of NumPyro, z = .*the model was not understood"):
        ssm.check(KEY, simulate=1000, theta={"q": 0.5})


def test_data_are_simulated_where_an_argument_is_observed():
    old, new = np.array([1.0, np.nan]), np.array([3.0, 4.0])
    y, x = forward_runs.simulated_arguments({"y": old}, {"y": new}, [jnp.asarray(old), jnp.asarray(new)])
    assert y.tolist() == [3.0, 4.0] and x.tolist() == [3.0, 4.0]
    assert forward_runs.simulated_arguments({"y": old}, {}, [x]) == [x]


def samples(rng, spread, shift=0.0):
    return rng.normal(-100, spread, 1000), rng.normal(-100 + shift, spread, 1000)


def test_the_same_law_is_never_refused_and_another_mean_is():
    rng = np.random.default_rng(0)
    found = [forward_runs.compared(*samples(rng, spread)) for spread in (0.5, 3.0, 30.0) for _ in range(100)]
    assert max(abs(f.z) for f in found) < z_threshold(len(found))
    assert np.mean([f.z**2 for f in found]) == pytest.approx(1.0, abs=0.35)  # four standard errors
    assert found[0].power == 1.0 > found[100].power > found[200].power
    for spread in (0.5, 3.0, 30.0):
        visible = forward_runs.compared(*samples(rng, spread)).visible
        assert not forward_runs.compared(*samples(rng, spread, 2 * visible)).passed


def test_runs_without_a_density_count_as_zero():
    ours, theirs = np.full(1000, -np.inf), np.full(1000, -np.inf)
    assert "nothing was compared" in str(forward_runs.compared(ours, theirs))
    ours[:300] = -2.0
    assert not forward_runs.compared(ours, theirs).passed
    theirs[:290] = -2.0
    found = forward_runs.compared(ours, theirs)
    assert found.passed and found.parts == pytest.approx(np.log(0.3) - 2)

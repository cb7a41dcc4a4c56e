"""Deterministics outside the loop: of the parameters at every draw, of the states at every path."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.inference import deterministics
from ssmscan.inference.deterministics import with_deterministics
from ssmscan.results.data import Costs
from ssmscan.results.result import Result, load
from tests.model.zoo import Y

CHAINS, DRAWS, T = 2, 5, 12
KEPT = np.array([0, 3])
KEY = jax.random.key(0)


def model(y):
    """A random walk; deterministics before the loop, in it, after it, and of a forecast."""
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    numpyro.deterministic("variance", q**2)
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))
    numpyro.deterministic("doubled", 2 * x0)

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(x, q))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, x

    last, path = scan(transition, x0, y)
    numpyro.deterministic("volatility", jnp.exp(path / 2))
    numpyro.deterministic("end", last + q)
    _, ahead = scan(lambda x, _: (numpyro.sample("ahead", dist.Normal(x, q)),) * 2, last, jnp.arange(3))
    numpyro.deterministic("forecast", ahead)


def made_by_hand(ssm):
    rng = np.random.default_rng(0)
    sites = {site.name: site.shape for site in ssm.innovations}
    return Result(
        engine="made by hand",
        draws={site.name: rng.uniform(size=(CHAINS, DRAWS)) for site in ssm.parameters},
        states={name: rng.normal(size=(CHAINS, len(KEPT), T, *shape)) for name, shape in sites.items()}
        | {site.name: rng.normal(size=(CHAINS, len(KEPT))) for site in ssm.initial},
        state_draws=KEPT,
        sample_stats={},
        independent_runs=False,
        log_evidence=None,
        log_evidence_error=None,
        costs=Costs(0.0, 0.0, 0.0),
        settings={},
        versions={},
        observed={},
        initial=tuple(site.name for site in ssm.initial),
    )


@pytest.fixture(scope="module")
def ssm():
    return ssmscan.trace(model, jnp.asarray(Y))


@pytest.fixture(scope="module")
def result(ssm):
    return with_deterministics(ssm, made_by_hand(ssm))


def assert_computed(result):
    q, x = result.draws["q"], result.states["x"]
    assert set(result.deterministics) == {"variance"} and result.deterministics["variance"].shape == q.shape
    np.testing.assert_allclose(result.deterministics["variance"], q**2, rtol=1e-5)
    assert set(result.states) == {"x", "x0", "doubled", "volatility", "end"}
    assert set(result.initial) == {"x0", "doubled", "end"}
    np.testing.assert_allclose(result.states["volatility"], np.exp(x / 2), rtol=1e-5)
    np.testing.assert_allclose(result.states["doubled"], 2 * result.states["x0"], rtol=1e-5)
    np.testing.assert_allclose(result.states["end"], x[..., -1] + q[:, result.state_draws], rtol=1e-5)


def test_they_come_back_with_draws_and_paths(result):
    """What a forecast reaches does not: `predict` draws it."""
    assert_computed(result)


def test_a_theta_does_not_hold_them_and_the_summary_neither(ssm, result):
    assert set(ssm.canonical(result.mean())) == {"q"}
    assert [row[0] for row in result.summary().rows] == ["q"]
    assert "computed    variance" in repr(result)


def test_they_are_written_to_the_file_and_to_arviz(result, tmp_path):
    again = load(result.save(tmp_path / "result.nc"))
    np.testing.assert_array_equal(again.deterministics["variance"], result.deterministics["variance"])
    assert_computed(again)
    assert {"q", "variance"} <= set(result.to_arviz()["posterior"].data_vars)


def test_control_c_leaves_them_out_and_keeps_the_draws(ssm, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(deterministics, "map_draws", interrupted)
    result = with_deterministics(ssm, made_by_hand(ssm))
    assert result.interrupted and not result.deterministics and set(result.draws) == {"q"}


def test_a_model_without_any_gets_its_result_back():
    """Nothing is computed or compiled."""

    def plain(y):
        q = numpyro.sample("q", dist.HalfNormal(1.0))

        def transition(x, y):
            x = numpyro.sample("x", dist.Normal(x, q))
            return x, numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

        scan(transition, 0.0, y)

    ssm = ssmscan.trace(plain, jnp.asarray(Y))
    result = made_by_hand(ssm)
    assert with_deterministics(ssm, result) is result


def test_those_of_independent_loops_belong_to_their_loop():
    def two_loops(y):
        q = numpyro.sample("q", dist.HalfNormal(1.0))
        numpyro.deterministic("variance", q**2)
        for name in ("a", "b"):

            def transition(x, y, name=name):
                x = numpyro.sample(f"x_{name}", dist.Normal(x, q))
                numpyro.sample(f"y_{name}", dist.Normal(x, 1.0), obs=y)
                return x, None

            last, _ = scan(transition, 0.0, y)
            numpyro.deterministic(f"end_{name}", last)

    ssm = ssmscan.trace(two_loops, jnp.asarray(Y))
    states = {f"x_{name}": jnp.arange(12.0) + k for k, name in enumerate("ab")}
    found = ssm.deterministics({"q": 2.0}, states)
    assert {name: float(value) for name, value in found.items()} == {"variance": 4.0, "end_a": 11.0, "end_b": 12.0}
    assert set(ssm.deterministics({"q": 2.0})) == {"variance"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "engine",
    [
        ssmscan.NUTS(num_warmup=20, num_samples=10, num_chains=2, num_paths=4, progress=False),
        ssmscan.PMMH(num_warmup=16, num_samples=10, num_chains=2, num_particles=20, num_paths=4, progress=False),
        ssmscan.TemperedSMC(num_particles=40, num_runs=2, num_paths=4, progress=False),
    ],
    ids=lambda engine: type(engine).__name__,
)
def test_every_sampler_returns_them(ssm, engine):
    found = engine.run(KEY, ssm)
    assert_computed(found)
    assert "variance" not in ssmscan.compare(a=found, b=engine.run(jax.random.key(1), ssm)).__repr__()

"""A small world to make mistakes in: models, data, results of filters and engines, each made once."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.results.data import Costs
from ssmscan.results.result import Result

T = 4
Y = np.array([0.3, -0.2, 0.7, 1.4])
THETA = {"s": 0.5}
KEY = jax.random.key(0)


def level(y):
    """One parameter, an initial site, a loop."""
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(x, s))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, x

    scan(step, x0, y)


def slope(y):
    """The same with other names."""
    q = numpyro.sample("q", dist.HalfNormal(1.0))

    def step(v, y):
        v = numpyro.sample("v", dist.Normal(v, q))
        numpyro.sample("z", dist.Normal(v, 1.0), obs=y)
        return v, v

    scan(step, 0.0, y)


def loops(y):
    """Two loops that share a parameter."""
    s = numpyro.sample("s", dist.HalfNormal(1.0))

    def loop(name):
        def step(x, y):
            x = numpyro.sample(f"x_{name}", dist.Normal(x, s))
            numpyro.sample(f"y_{name}", dist.Normal(x, 1.0), obs=y)
            return x, x

        scan(step, 0.0, y)

    loop("a")
    loop("b")


def random_model(y):
    """No function of its arguments."""
    numpyro.sample("x", dist.Normal(np.random.default_rng().normal(), 1.0), obs=y)


def without_return(y):
    """A transition that returns nothing."""

    def step(x, y):
        numpyro.sample("x", dist.Normal(x, 1.0))

    scan(step, 0.0, y)


@cache
def model() -> Any:
    """`level`, traced."""
    return ssmscan.trace(level, Y)


@cache
def other() -> Any:
    """`slope`, traced."""
    return ssmscan.trace(slope, Y)


@cache
def two_loops() -> Any:
    """`loops`, traced."""
    return ssmscan.trace(loops, Y)


def _run(store: Any, ssm: Any, theta: Any) -> Any:
    return ssmscan.ParticleFilter(8, store=store).run(KEY, ssm, theta)


@cache
def filtered() -> Any:
    """A run that keeps no paths."""
    return _run(ssmscan.FinalCloud(), model(), THETA)


@cache
def filtered_full() -> Any:
    """A run that keeps everything."""
    return _run(ssmscan.FullHistory(), model(), THETA)


@cache
def filtered_other() -> Any:
    """A run of another model."""
    return _run(ssmscan.FullHistory(), other(), {"q": 0.5})


@cache
def batch_of_filtered() -> Any:
    """Three runs at once."""
    settings = ssmscan.ParticleFilter(8, store=ssmscan.FullHistory())
    return jax.vmap(lambda key: settings.run(key, model(), THETA))(jax.random.split(KEY, 3))


@cache
def online() -> Any:
    """A filter before its first step."""
    return ssmscan.ParticleFilter(8).start(KEY, model(), THETA)


def _result(draws: dict, states: dict, paths: int, **changes: Any) -> Result:
    return Result(
        engine="NUTS",
        draws=draws,
        states=states,
        state_draws=np.arange(paths),
        sample_stats={},
        independent_runs=False,
        log_evidence=None,
        log_evidence_error=None,
        costs=Costs(1.0, 2.0, 3.0),
        settings={},
        versions={},
        observed={"y": Y},
        **changes,
    )


@cache
def result(seed: int = 0) -> Result:
    """Draws of `level`, as an engine returns them."""
    rng = np.random.default_rng(seed)
    draws = {"s": np.abs(rng.normal(size=(2, 40)))}
    states = {"x": rng.normal(size=(2, 5, T)), "x0": rng.normal(size=(2, 5))}
    return _result(draws, states, 5, initial=("x0",))


@cache
def result_of_other() -> Result:
    """Draws of `slope`."""
    rng = np.random.default_rng(1)
    return _result({"q": np.abs(rng.normal(size=(2, 40)))}, {"v": rng.normal(size=(2, 5, T))}, 5)


@cache
def result_without_paths() -> Result:
    """Draws of `level` without states."""
    return _result({"s": np.abs(np.random.default_rng(2).normal(size=(2, 40)))}, {}, 0)


@cache
def comparison() -> Any:
    """Two results, compared."""
    return ssmscan.compare(a=result(0), b=result(3))


def noise() -> dict[str, Any]:
    """Base noise of `level`."""
    return {"x0": jnp.zeros(()), "x": jnp.zeros(T)}


def density(moved: Any) -> Any:
    """Use a NumPyro model: its joint density at a draw of its own."""
    seeded = numpyro.handlers.trace(numpyro.handlers.seed(moved, 0)).get_trace(Y)
    return {name: site["value"] for name, site in seeded.items() if site["type"] == "sample"}

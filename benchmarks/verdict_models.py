"""Eight models with data, as users write them, on which the time to a verdict is measured.

| name | states | parameters | data |
|---|---|---|---|
| demonstration | log variance, AR(1) | 3 | GBP/USD 1997, 250 returns |
| log_sp500_small | the same, priors with heavy tails | 3 | 100 returns around March 2020 |
| GBP/USD 750 | as in the demonstration | 3 | all 750 returns |
| Nile | level of a random walk | 2 | 100 annual flows |
| Poisson trend | log-rate, a random walk with drift | 2 | 120 counts, made by `made_up` |
| SIR | counts of infections and recoveries | 3 | 10 reports, those of the contract |
| three regimes | one of three levels | 9 | 300 readings, made by `made_up` |
| panel of 10 | ten log-rates, AR(1) | 3 | 50 counts each, made by `made_up` |

Infections and recoveries are Binomial: NUTS cannot run there.  Regimes are summed out by NUTS, and are particles
elsewhere; levels increase, so that they have names.  NumPy makes the data, with seed 0 and the parameters in `MODELS`.

    python benchmarks/verdict_models.py [NAME ...]        what `trace` finds, and what each engine needs
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import datasets
from ssmscan.stochastic_volatility import stochastic_volatility

# ---- models --------------------------------------------------------------------------------------


def log_sp500_small(returns):
    """Stochastic volatility with the priors of inference-gym."""
    mu = numpyro.sample("mu", dist.Cauchy(0.0, 5.0))
    b = numpyro.sample("b", dist.Beta(20.0, 1.5))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.0))
    phi = 2.0 * b - 1.0
    h_0 = numpyro.sample("h_0", dist.Normal(mu, sigma / jnp.sqrt(1.0 - phi**2)))

    def day(h, y):
        h = numpyro.sample("h", dist.Normal(mu + phi * (h - mu), sigma))
        numpyro.sample("y", dist.Normal(0.0, jnp.exp(h / 2.0)), obs=y)
        return h, None

    scan(day, h_0, returns)


def nile(flow):
    """A level that wanders, and its measurement."""
    sd_level = numpyro.sample("sd_level", dist.HalfNormal(100.0))
    sd_flow = numpyro.sample("sd_flow", dist.HalfNormal(200.0))
    level_0 = numpyro.sample("level_0", dist.Normal(1000.0, 500.0))

    def year(level, y):
        level = numpyro.sample("level", dist.Normal(level, sd_level))
        numpyro.sample("flow", dist.Normal(level, sd_flow), obs=y)
        return level, None

    scan(year, level_0, flow)


def poisson_trend(counts):
    """Counts whose log-rate drifts and wanders."""
    drift = numpyro.sample("drift", dist.Normal(0.0, 0.1))
    sd_level = numpyro.sample("sd_level", dist.HalfNormal(0.3))
    level_0 = numpyro.sample("level_0", dist.Normal(2.0, 1.0))

    def week(level, y):
        level = numpyro.sample("level", dist.Normal(level + drift, sd_level))
        numpyro.sample("count", dist.Poisson(jnp.exp(level)), obs=y)
        return level, None

    scan(week, level_0, counts)


def sir(cases, population=200):
    """Infections and recoveries of a small town, of which a share is reported."""
    beta = numpyro.sample("beta", dist.LogNormal(-0.3, 0.3))
    gamma = numpyro.sample("gamma", dist.Beta(4, 8))
    rho = numpyro.sample("rho", dist.Beta(5, 5))

    def day(state, y):
        infected = numpyro.sample(
            "infected", dist.Binomial(state["S"], probs=1 - jnp.exp(-beta * state["I"] / population))
        )
        recovered = numpyro.sample("recovered", dist.Binomial(state["I"], probs=gamma))
        state = {
            "S": state["S"] - infected,
            "I": state["I"] + infected - recovered,
            "R": state["R"] + recovered,
        }
        numpyro.sample("cases", dist.Poisson(rho * infected + 0.1), obs=y)
        return state, None

    scan(day, {"S": jnp.array(population - 5), "I": jnp.array(5), "R": jnp.array(0)}, cases)


def three_regimes(current):
    """The current through a channel with three states, read with a known error."""
    sticky = jnp.array([[16.0, 2.0, 2.0], [2.0, 16.0, 2.0], [2.0, 2.0, 16.0]])
    move = numpyro.sample("move", dist.Dirichlet(sticky).to_event(1))
    lowest = numpyro.sample("lowest", dist.Normal(0.0, 1.0))
    gaps = numpyro.sample("gaps", dist.LogNormal(0.0, 0.5).expand([2]).to_event(1))
    levels = jnp.concatenate([lowest[None], lowest + jnp.cumsum(gaps)])

    def reading(regime, y):
        regime = numpyro.sample("regime", dist.Categorical(move[regime]))
        numpyro.sample("current", dist.Normal(levels[regime], 0.5), obs=y)
        return regime, None

    scan(reading, 0, current)


def panel_of_ten(counts):
    """Ten log-rates that share their law."""
    mean = numpyro.sample("mean", dist.Normal(1.0, 1.0))
    rho = numpyro.sample("rho", dist.Beta(8.0, 2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(0.5))
    with numpyro.plate("series", 10):
        start = numpyro.sample("start", dist.Normal(mean, sigma / jnp.sqrt(1.0 - rho**2)))

    def month(rate, y):
        with numpyro.plate("series", 10):
            rate = numpyro.sample("rate", dist.Normal(mean + rho * (rate - mean), sigma))
            numpyro.sample("count", dist.Poisson(jnp.exp(rate)), obs=y)
        return rate, None

    scan(month, start, counts)


# ---- data ----------------------------------------------------------------------------------------


def trend_counts(rng: np.random.Generator) -> np.ndarray:
    """Counts of 120 weeks: the log-rate drifts by 0.01 a week and wanders with sd 0.15."""
    return rng.poisson(np.exp(2.0 + np.cumsum(rng.normal(0.01, 0.15, 120)))).astype(float)


def channel_currents(rng: np.random.Generator) -> np.ndarray:
    """Readings of levels -1, 0.5 and 2, in 300 steps, with error 0.5."""
    rows = np.array([[0.92, 0.06, 0.02], [0.05, 0.90, 0.05], [0.03, 0.09, 0.88]])
    regime, found = 0, []
    for _ in range(300):
        regime = int(rng.choice(3, p=rows[regime]))
        found.append(rng.normal((-1.0, 0.5, 2.0)[regime], 0.5))
    return np.array(found)


def panel_counts(rng: np.random.Generator) -> np.ndarray:
    """Counts (50, 10): log-rates of mean 1.2, autocorrelation 0.85, and innovations of sd 0.3."""
    rate, found = 1.2 + rng.normal(0.0, 0.3 / np.sqrt(1 - 0.85**2), 10), []
    for _ in range(50):
        rate = 1.2 + 0.85 * (rate - 1.2) + rng.normal(0.0, 0.3, 10)
        found.append(rng.poisson(np.exp(rate)))
    return np.array(found, float)


def made_up(draw: Callable[[np.random.Generator], np.ndarray]) -> np.ndarray:
    """Make data, the same at every call."""
    return draw(np.random.default_rng(0))


class Written(NamedTuple):
    """A model and its data.

    Attributes:
        model: the NumPyro function.
        data: returns its one argument.
        parameter: the scalar parameter in which faults are planted.
    """

    model: Callable[..., None]
    data: Callable[[], np.ndarray]
    parameter: str

    def traced(self) -> ssmscan.StateSpaceModel:
        """Take the model apart."""
        return ssmscan.trace(self.model, self.data())


MODELS: dict[str, Written] = {
    "demonstration": Written(stochastic_volatility, lambda: datasets.gbpusd().values[:250], "sigma"),
    "log_sp500_small": Written(log_sp500_small, lambda: datasets.sp500().values, "sigma"),
    "GBP/USD 750": Written(stochastic_volatility, lambda: datasets.gbpusd().values, "phi"),
    "Nile": Written(nile, lambda: datasets.nile().values, "sd_level"),
    "Poisson trend": Written(poisson_trend, lambda: made_up(trend_counts), "sd_level"),
    "SIR": Written(sir, lambda: np.array([2, 3, 3, 6, 8, 9, 10, 12, 9, 6]), "beta"),
    "three regimes": Written(three_regimes, lambda: made_up(channel_currents), "lowest"),
    "panel of 10": Written(panel_of_ten, lambda: made_up(panel_counts), "rho"),
}


# ---- what each engine needs ----------------------------------------------------------------------


def fastest(call: Callable[..., Any], argument: jax.Array) -> float:
    """Time the fastest of three calls."""
    found = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(call(argument))
        found.append(time.perf_counter() - start)
    return min(found)


def compile_seconds(ssm: ssmscan.StateSpaceModel, theta: dict[str, jax.Array]) -> dict[str, Any]:
    """Compile a batch of eight likelihood estimates with each proposal, and time one estimate."""
    found: dict[str, Any] = {}
    for proposal in (ssmscan.Bootstrap(), ssmscan.LookAhead()):
        settings = ssmscan.ParticleFilter(128, proposal=proposal, summaries=())

        def estimates(keys: jax.Array, settings: Any = settings) -> jax.Array:
            return jax.lax.map(lambda key: settings.estimate(key, ssm, theta).log_likelihood, keys)

        keys = jax.random.split(jax.random.key(0), 64)
        name = type(proposal).__name__
        try:
            start = time.perf_counter()
            run = jax.jit(estimates).lower(keys).compile()
            found[f"{name} compile s"] = time.perf_counter() - start
        except ssmscan.ModelError as error:
            found[name] = str(error)
            continue
        values = np.asarray(run(keys))
        found[f"{name} ms at N = 128"] = 1e3 * fastest(run, keys) / len(keys)
        found[f"{name} sd at N = 128"] = float(np.std(values, ddof=1))
    return found


def examine(name: str) -> dict[str, Any]:
    """Run NUTS and PMMH as they are by default, and say what they took and found."""
    start = time.perf_counter()
    ssm = MODELS[name].traced()
    row: dict[str, Any] = {"model": name, "steps": ssm.num_steps, "trace s": time.perf_counter() - start}
    pmmh = ssmscan.PMMH(progress=False)
    engines: dict[str, Any] = {"NUTS": ssmscan.NUTS(progress=False), "PMMH": pmmh}
    theta = None
    for label, engine in engines.items():
        try:
            result = engine.run(jax.random.key(0), ssm)
        except ssmscan.ModelError as error:
            row[label] = str(error)
            continue
        theta = ssm.canonical(result.mean())
        costs = result.costs
        row[label] = {
            "compile s": costs.compile_seconds,
            "warm-up s": costs.warmup_seconds,
            "run s": costs.run_seconds,
            "ESS, R-hat": {
                parameter: (round(min(s.ess_bulk, s.ess_tail)), round(s.rhat, 3), s.mean.value, s.sd.value)
                for parameter, s in result.summaries.items()
            },
            "notes": result.notes,
            "concerns": result.concerns(),
        }
    assert theta is not None
    return {**row, **compile_seconds(ssm, theta)}


def main() -> None:
    """Print what was found on each model."""
    for name in sys.argv[1:] or MODELS:
        print(MODELS[name].traced(), flush=True)
        print(json.dumps(examine(name), indent=1), flush=True)


if __name__ == "__main__":
    main()

r"""Filters guided by the best proposal of a linear Gaussian model, p(v | c, y), against exact answers.

    python -m tests.particles.guided [unbiased] [variance] [gradient] [broken]

`unbiased` asks E[Z_hat / Z] = 1 of sixteen particles, at every threshold, also where values are missing, where data are
observed after the loop, in a panel, in a regime of three values, and where the start is guided too; `variance` compares
with the bootstrap filter; `gradient` asks E[(Z_hat / Z) (grad log Z_hat - score)] = 0; `broken` has proposals with one
mistake each, which the same tests must reject.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.stats import norm
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.particles import guided
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.guided import Guided
from ssmscan.particles.proposals import Bootstrap
from tests.particles import gradient, models
from tests.particles.unbiased import HEADER, KEYS, LARGEST_SD, Cell, log_likelihoods, mistake, ratio
from tests.truth import LinearGaussian, linear_gaussian

THETA = {"rho": 0.5, "sx": 0.5, "sy": 1.6}
PRECISE = {"rho": 0.9, "sx": 1.0, "sy": 0.2}


class Known(NamedTuple):
    """A model with its exact log likelihood, and proposals for it."""

    ssm: Any
    theta: dict[str, Any]
    log_likelihood: float
    proposal: Any


# ---- proposals ----------------------------------------------------------------------------------------


def best(theta, carry, y):
    """The law of the next state given the last one and the observation: normal; the model's own in a gap."""
    gap = jnp.isnan(y["y"])
    seen = jnp.where(gap, 0.0, theta["sy"] ** -2)
    precision = theta["sx"] ** -2 + seen
    mean = (theta["rho"] * carry * theta["sx"] ** -2 + jnp.where(gap, 0.0, y["y"]) * seen) / precision
    return dist.Normal(mean, precision**-0.5)


def wide_start(theta, y):
    """A start that is wider than the model's, and off."""
    return dist.Normal(0.2, 1.3 * theta["sx"] / jnp.sqrt(1 - theta["rho"] ** 2))


def posterior_regime(theta, regime, y):
    """The law of the next regime given the last one and the observation, by name of the site."""
    matrix = gradient.chain(theta["stay"], jnp)[1]
    return {
        "regime": dist.Categorical(logits=jnp.log(matrix[regime]) + norm.logpdf(y["y"], gradient.LEVELS, theta["sd"]))
    }


def any_regime(theta, y):
    return dist.Categorical(jnp.full(3, 1 / 3))


# ---- models -------------------------------------------------------------------------------------------


def series(theta: dict[str, float], num_steps: int, seed: int = 0) -> np.ndarray:
    """Data of an AR(1) plus noise with a stationary start."""
    z = np.random.RandomState(seed).standard_normal((num_steps, 2))
    x, y = theta["sx"] * z[0, 0] / np.sqrt(1 - theta["rho"] ** 2), []
    for t in range(num_steps):
        x = theta["rho"] * x + theta["sx"] * z[t, 0] if t else x
        y.append(x + theta["sy"] * z[t, 1])
    return np.array(y)


def exact(theta: dict[str, float], y: np.ndarray) -> float:
    rho, sx, sy = theta["rho"], theta["sx"], theta["sy"]
    model = LinearGaussian.scalar(0, sx**2 / (1 - rho**2), rho, sx**2, 1, sy**2)
    return linear_gaussian(model, y[:, None]).log_likelihood


def parameters():
    rho = numpyro.sample("rho", dist.Uniform(-1, 1))
    return rho, numpyro.sample("sx", dist.HalfNormal(1)), numpyro.sample("sy", dist.HalfNormal(1))


def after_the_loop(y):
    """The states leave the loop and are observed all at once."""
    rho, sx, sy = parameters()
    start = numpyro.sample("x0", dist.Normal(0, sx / jnp.sqrt(1 - rho**2)))

    def transition(x, _):
        x = numpyro.sample("x", dist.Normal(rho * x, sx))
        return x, x

    _, path = scan(transition, start, None, length=len(y))
    numpyro.sample("y", dist.Normal(path, sy), obs=y)


def several_series(y):
    """A panel: y is (T, M)."""
    rho, sx, sy = parameters()
    start = numpyro.sample("x0", dist.Normal(jnp.zeros(y.shape[1]), sx / jnp.sqrt(1 - rho**2)).to_event(1))

    def transition(x, y):
        with numpyro.plate("series", y.shape[0]):
            x = numpyro.sample("x", dist.Normal(rho * x, sx))
            numpyro.sample("y", dist.Normal(x, sy), obs=y)
        return x, x

    scan(transition, start, y)


def two_series(y, v):
    rho, sx, sy = parameters()
    for name, data in (("y", y), ("v", v)):
        start = numpyro.sample(f"x_{name}0", dist.Normal(0, sx / jnp.sqrt(1 - rho**2)))

        def transition(x, value, name=name):
            x = numpyro.sample(f"x_{name}", dist.Normal(rho * x, sx))
            numpyro.sample(name, dist.Normal(x, sy), obs=value)
            return x, None

        scan(transition, start, data)


def with_gaps(y: np.ndarray) -> np.ndarray:
    y = y.copy()
    y[[0, 3, 4]] = np.nan
    return y


def autoregression(y: np.ndarray, proposal: Guided, model: Callable = models.autoregression) -> Known:
    return Known(ssmscan.trace(model, jnp.asarray(y, float)), THETA, exact(THETA, y), proposal)


def panel() -> Known:
    y = np.stack([series(THETA, 6, seed) for seed in range(3)], axis=1)
    truth = sum(exact(THETA, column) for column in y.T)
    return Known(ssmscan.trace(several_series, jnp.asarray(y, float)), THETA, truth, Guided(best, wide_start))


def three_regimes() -> Known:
    known = gradient.hidden_markov()
    return Known(known.ssm, known.theta, known.log_likelihood(known.theta), Guided(posterior_regime, any_regime))


CASES: dict[str, Callable[[], Known]] = {
    "AR(1)+noise": lambda: autoregression(series(THETA, 10), Guided(best)),
    "start too": lambda: autoregression(series(THETA, 10), Guided(best, wide_start)),
    "gaps": lambda: autoregression(with_gaps(series(THETA, 10)), Guided(best)),
    "after the loop": lambda: autoregression(series(THETA, 10), Guided(best), after_the_loop),
    "panel": panel,
    "regimes": three_regimes,
}


def cells(replicates: int, *, keys: tuple[int, ...] = KEYS, only: tuple[str, ...] = ()) -> list[Cell]:
    """Every kind of model, threshold and key; sixteen particles."""
    return [
        Cell(
            name,
            known[:3],
            ParticleFilter(16, threshold=threshold, summaries=(), proposal=known.proposal),
            key,
            replicates,
        )
        for name in only or CASES
        for known in [CASES[name]()]
        for threshold in (0, 0.5, 1)
        for key in keys
    ]


# ---- one mistake each ---------------------------------------------------------------------------------


def forgets(carry, log_p, log_observation, log_q, values, cdf):
    """The weight of the bootstrap filter, whatever the particles are drawn from."""
    return WEIGHED(carry, log_p, log_observation, log_p, values, cdf)


def other_density(carry, log_p, log_observation, log_q, values, cdf):
    """A density that is not that of the draws: without its constant."""
    return WEIGHED(carry, log_p, log_observation, log_q + 0.05, values, cdf)


def moving_density(law, values, noise, sites):
    """Discrete draws whose density keeps its derivative."""
    drawn, _ = DRAW(law, values, noise, sites)
    return drawn, sum(jnp.sum(law[site.name].log_prob(drawn[site.name])) for site in sites)


WEIGHED, DRAW = guided._weighed, guided._draw


def broken(replicates: int) -> Iterator[tuple[str, Any, Any]]:
    """Run each mistake, and the right proposal."""
    known = CASES["AR(1)+noise"]()
    settings = ParticleFilter(16, threshold=0.5, summaries=(), proposal=known.proposal)

    def estimate() -> Any:
        return ratio(log_likelihoods(known.ssm, known.theta, settings, 0, replicates), known.log_likelihood)

    right = estimate()
    for name, replacement in (("q forgotten", forgets), ("density of another law", other_density)):
        with mistake(guided, "_weighed", replacement):
            yield name, right, estimate()


def variances(n: int = 64, replicates: int = 2000) -> dict[str, float]:
    """The variance of log Z_hat where observations are precise, of both filters; T = 100."""
    y = series(PRECISE, 100)
    ssm, truth = ssmscan.trace(models.autoregression, jnp.asarray(y, float)), exact(PRECISE, y)
    found = {}
    for proposal in (Bootstrap(), Guided(best)):
        log_z = log_likelihoods(ssm, PRECISE, ParticleFilter(n, summaries=(), proposal=proposal), 0, replicates)
        found[type(proposal).__name__] = float(np.var(log_z - truth))
    return found


# ---- reports ------------------------------------------------------------------------------------------


def report_unbiased(replicates: int = 100_000) -> bool:
    print(HEADER, flush=True)
    fine, family = True, cells(replicates)
    for cell in family:
        found = cell.run()
        fine &= found.accepted(len(family)) and found.sd <= LARGEST_SD
        print(cell.row(found, len(family)), flush=True)
    return fine


def report_variance() -> bool:
    found = variances()
    ratio_of = found["Bootstrap"] / found["Guided"]
    print(f"variance of log Z_hat, N = 64, T = 100: {found}, ratio {ratio_of:.0f}", flush=True)
    return ratio_of > 10


def gradient_cases() -> list[tuple[gradient.Known, Any]]:
    smooth, discrete = gradient.autoregression(), gradient.hidden_markov()
    return [
        (smooth, Guided(best)),
        (smooth, Guided(best, wide_start)),
        (discrete, Guided(posterior_regime)),
        (discrete, Guided(posterior_regime, any_regime)),
    ]


def report_gradient(replicates: int = 20_000) -> bool:
    fine = True
    with jax.enable_x64(True):
        for known, proposal in gradient_cases():
            for threshold in (0, 0.5, 1):
                settings = ParticleFilter(known.num_particles, threshold=threshold, summaries=(), proposal=proposal)
                found = gradient.measure(known, settings, 0, replicates)
                fine &= found.accepted and found.sd <= LARGEST_SD
                zs = "  ".join(f"{name} {z:5.2f}" for name, z in found.z.items())
                start = "start too" if proposal.initial else ""
                print(f"{known.name:18s} {start:10s} {threshold:4.1f} {found.sd:8.3f}  {zs}", flush=True)
    return fine


def report_broken(replicates: int = 100_000) -> bool:
    fine = True
    for name, right, wrong in broken(replicates):
        rejected = right.accepted(4) and not wrong.accepted(4)
        fine &= rejected
        print(
            f"{name:28s} right z {right.z:6.2f}, wrong z {wrong.z:8.2f}: {'rejected' if rejected else 'NOT REJECTED'}"
        )
    with jax.enable_x64(True):
        known, proposal = gradient_cases()[2]
        settings = ParticleFilter(known.num_particles, threshold=0.5, summaries=(), proposal=proposal)
        with mistake(guided, "_draw", moving_density):
            wrong = gradient.measure(known, settings, 0, 20_000)
    fine &= not wrong.accepted
    print(f"{'derivative of a discrete q':28s} wrong z {wrong.z}: {'NOT REJECTED' if wrong.accepted else 'rejected'}")
    return fine


def main(parts: list[str]) -> int:
    """Print the parts asked for, all without arguments; nonzero if one fails."""
    runs: dict[str, Callable[[], bool]] = {
        "unbiased": report_unbiased,
        "variance": report_variance,
        "gradient": report_gradient,
        "broken": report_broken,
    }
    passed = [runs[part]() for part in parts or list(runs)]
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

r"""Is the gradient right?  E[(Z_hat / Z) (grad log Z_hat - score)] = 0, tested from independent filters.

    python -m tests.particles.gradient [smooth] [discrete] [broken] [size]

The gradient of the estimate is unbiased for the gradient of the likelihood, E[grad Z_hat] = grad Z, which with
grad Z_hat = Z_hat grad log Z_hat is the statement above; grad log Z_hat itself is biased at finite N.  Everything
runs in float64.  `smooth` and `discrete` print one row for each model, scheme and threshold, with a z for every
parameter; `broken` runs kernels with one mistake each, which the same test must reject; `size` shows bias and
standard deviation of grad log Z_hat against N and T, relative to the score.

The score comes from central differences of an exact log-likelihood in NumPy: Kalman, or a sum over all states.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from scipy import stats

import ssmscan
from ssmscan.model.noise.score import gradient_alone
from ssmscan.model.statespace import dynamics
from ssmscan.particles import filter_step
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.resampling import multinomial, systematic
from ssmscan.particles.weights import Weighed, normalise
from tests.particles import models, unbiased
from tests.particles.unbiased import LARGEST_SD, renormalise_carried
from tests.truth import LinearGaussian, hmm_enumeration, hmm_forward_backward, linear_gaussian

LARGEST_Z = 4.5
STEP = 1e-5


class Known(NamedTuple):
    """A model, parameters, its exact log-likelihood as a function of them, and how many particles suit it."""

    name: str
    ssm: Any
    theta: dict[str, float]
    log_likelihood: Callable[[dict[str, float]], float]
    num_particles: int

    def score(self) -> dict[str, float]:
        def slope(name: str) -> float:
            up, down = ({**self.theta, name: self.theta[name] + s * STEP} for s in (1, -1))
            return (self.log_likelihood(up) - self.log_likelihood(down)) / (2 * STEP)

        return {name: slope(name) for name in self.theta}


class Found(NamedTuple):
    """By parameter the z of the test, bias and standard deviation of grad log Z_hat; and sd(log Z_hat)."""

    z: dict[str, float]
    bias: dict[str, float]
    spread: dict[str, float]
    sd: float

    @property
    def accepted(self) -> bool:
        return max(map(abs, self.z.values())) < LARGEST_Z


@partial(jax.jit, static_argnames=("settings",))
def _gradients(keys: jax.Array, ssm: Any, theta: dict, *, settings: ParticleFilter) -> tuple[jax.Array, dict]:
    value = jax.value_and_grad(lambda theta, key: settings.run(key, ssm, theta).log_likelihood)
    return jax.lax.map(lambda key: value(theta, key), keys, batch_size=max(8192 // settings.num_particles, 1))


def measure(known: Known, settings: ParticleFilter, seed: int, replicates: int) -> Found:
    """Run independent filters and compare with the score; float64 must be on."""
    keys = jax.random.split(jax.random.key(seed), replicates)
    values, gradients = _gradients(keys, known.ssm, known.ssm.canonical(known.theta), settings=settings)
    assert values.dtype == np.float64
    weight = np.exp(np.asarray(values) - known.log_likelihood(known.theta))
    z, bias, spread = {}, {}, {}
    for name, score in known.score().items():
        error = np.asarray(gradients[name]) - score
        terms = weight * error
        z[name] = float(terms.mean() / (terms.std(ddof=1) / replicates**0.5))
        bias[name], spread[name] = float(error.mean()), float(error.std(ddof=1))
    return Found(z, bias, spread, float(np.std(values)))


# ---- models with a known score ------------------------------------------------------------------------


def autoregression(num_steps: int = 10, num_particles: int = 16) -> Known:
    """AR(1) plus noise, so noisy that few particles do; Kalman."""
    theta = {"rho": 0.5, "sx": 0.5, "sy": 1.6}
    z = np.random.RandomState(0).standard_normal((num_steps, 2))
    x, y = 0.5 * z[0, 0] / np.sqrt(0.75), []
    for t in range(num_steps):
        x = 0.5 * x + 0.5 * z[t, 0] if t else x
        y.append(x + 1.6 * z[t, 1])

    def log_likelihood(theta: dict[str, float]) -> float:
        rho, sx, sy = theta["rho"], theta["sx"], theta["sy"]
        model = LinearGaussian.scalar(0, sx**2 / (1 - rho**2), rho, sx**2, 1, sy**2)
        return linear_gaussian(model, np.array(y)[:, None]).log_likelihood

    ssm = ssmscan.trace(models.autoregression, jnp.array(y))
    return Known(f"AR(1)+noise, T={num_steps}", ssm, theta, log_likelihood, num_particles)


LEVELS = np.array([-1.0, 0.5, 2.0])


def chain(stay: Any, numpy: Any) -> tuple[Any, Any]:
    """The law of the first regime and the transition matrix of three regimes."""
    first = numpy.stack([stay, (1 - stay) / 3, 2 * (1 - stay) / 3])
    off = (1 - stay) / 2
    rows = [numpy.stack([stay if i == j else off for j in range(3)]) for i in range(3)]
    return first, numpy.stack(rows)


def regimes(y):
    """A regime of three values, drawn also before the loop."""
    stay = numpyro.sample("stay", dist.Beta(4, 2))
    sd = numpyro.sample("sd", dist.HalfNormal(2.0))
    first, matrix = chain(stay, jnp)
    start = numpyro.sample("regime0", dist.Categorical(first))

    def transition(regime, y):
        regime = numpyro.sample("regime", dist.Categorical(matrix[regime]))
        numpyro.sample("y", dist.Normal(jnp.array(LEVELS)[regime], sd), obs=y)
        return regime, regime

    scan(transition, start, y)


def hidden_markov(num_particles: int = 32) -> Known:
    y = np.array([-0.3, 1.9, 0.4, 2.6, -1.2, 0.2, 0.9])

    def log_likelihood(theta: dict[str, float]) -> float:
        first, matrix = chain(np.float64(theta["stay"]), np)
        density = stats.norm.logpdf(y[:, None], LEVELS, theta["sd"])
        value = hmm_forward_backward(first @ matrix, matrix, density).log_likelihood
        assert abs(value - hmm_enumeration(first @ matrix, matrix, density)) < 1e-10
        return value

    ssm = ssmscan.trace(regimes, jnp.array(y))
    return Known("three regimes", ssm, {"stay": 0.6, "sd": 1.5}, log_likelihood, num_particles)


def survivors(y):
    """Animals that die, with a few that are born; counts are observed."""
    survival = numpyro.sample("survival", dist.Beta(2, 2))
    rate = numpyro.sample("rate", dist.HalfNormal(1.0))
    start = numpyro.sample("alive0", dist.Binomial(6, survival))

    def transition(alive, y):
        alive = 2 + numpyro.sample("alive", dist.Binomial(alive, survival))
        numpyro.sample("y", dist.Poisson(0.5 + rate * alive), obs=y)
        return alive, alive

    scan(transition, start, y)


def counts(num_particles: int = 32) -> Known:
    y = np.array([2, 3, 1, 4, 2])

    def log_likelihood(theta: dict[str, float]) -> float:
        survival, rate, alive = theta["survival"], theta["rate"], np.arange(20)
        mass = stats.binom.pmf(alive, 6, survival)
        kernel = np.zeros((20, 20))
        for before in range(18):
            kernel[before, 2:] = stats.binom.pmf(alive[:-2], before, survival)
        total = 0.0
        for value in y:
            mass = (mass @ kernel) * stats.poisson.pmf(value, 0.5 + rate * alive)
            total, mass = total + np.log(mass.sum()), mass / mass.sum()
        return float(total)

    ssm = ssmscan.trace(survivors, jnp.array(y))
    return Known("Binomial survivors", ssm, {"survival": 0.4, "rate": 0.8}, log_likelihood, num_particles)


def exposures(y):
    """Counts whose means are independent Gamma variables."""
    shape = numpyro.sample("shape", dist.HalfNormal(3.0))
    rate = numpyro.sample("rate", dist.HalfNormal(3.0))

    def transition(before, y):
        mean = numpyro.sample("mean", dist.Gamma(shape, rate))
        numpyro.sample("y", dist.Poisson(mean), obs=y)
        return mean, None

    scan(transition, 1.0, y)


def mixed(num_particles: int = 32) -> Known:
    """Their exact law is a negative binomial; the states are drawn by rejection."""
    y = np.array([2, 0, 1, 4, 2])

    def log_likelihood(theta: dict[str, float]) -> float:
        return float(stats.nbinom.logpmf(y, theta["shape"], theta["rate"] / (1.0 + theta["rate"])).sum())

    ssm = ssmscan.trace(exposures, jnp.array(y))
    return Known("Gamma exposures", ssm, {"shape": 1.7, "rate": 0.9}, log_likelihood, num_particles)


# ---- one mistake each ---------------------------------------------------------------------------------


def nothing(x: jax.Array) -> jax.Array:
    return jnp.zeros_like(x)


def unnormalised(log_weights: jax.Array) -> Weighed:
    """Weights whose gradient is that before normalisation."""
    found = normalise(log_weights)
    return found._replace(log_weights=found.log_weights + gradient_alone(found.log_sum))


MISTAKES: dict[str, tuple[Any, str, Callable]] = {
    "no correction": (filter_step, "gradient_alone", nothing),
    "unnormalised correction": (filter_step, "normalise", unnormalised),
    "renormalised carried weight": (filter_step, "_carried", renormalise_carried),
    "no density of discrete draws": (dynamics, "gradient_alone", nothing),
}


def mistake(name: str) -> contextlib.AbstractContextManager[None]:
    """Put one mistake into code that is compiled meanwhile."""
    return unbiased.mistake(*MISTAKES[name])


# ---- reports ------------------------------------------------------------------------------------------


def report(cases: list[Known], replicates: int, title: str) -> bool:
    """Every model, scheme and threshold; whether all are accepted."""
    print(f"{title}: {replicates} replicates, float64, |z| < {LARGEST_Z}")
    print("model                 N  scheme       threshold  sd(log Z)  z by parameter", flush=True)
    fine, begin = True, time.perf_counter()
    for known in cases:
        for scheme in (systematic, multinomial):
            for threshold in (0, 0.5, 1):
                settings = ParticleFilter(known.num_particles, resampling=scheme, threshold=threshold, summaries=())
                found = measure(known, settings, 0, replicates)
                fine &= found.accepted and found.sd <= LARGEST_SD
                zs = "  ".join(f"{name} {z:5.2f}" for name, z in found.z.items())
                verdict = "unbiased" if found.accepted else "BIASED"
                verdict += "" if found.sd <= LARGEST_SD else " (test not valid: sd too large)"
                print(
                    f"{known.name:18s} {known.num_particles:4d}  {scheme.__name__:12s} {threshold:9.1f}"
                    f" {found.sd:10.3f}  {zs}  {verdict}",
                    flush=True,
                )
    print(f"{time.perf_counter() - begin:.0f} s: {'PASS' if fine else 'FAIL'}\n", flush=True)
    return fine


def report_broken(replicates: int) -> bool:
    """The right kernel and each mistake; whether the mistakes are rejected and the right one is not."""
    print(f"one mistake each: {replicates} replicates, multinomial, threshold 1")
    fine = True
    for name in MISTAKES:
        known = hidden_markov() if "discrete" in name else autoregression()
        settings = ParticleFilter(known.num_particles, resampling=multinomial, threshold=1, summaries=())
        right = measure(known, settings, 0, replicates)
        with mistake(name):
            wrong = measure(known, settings, 0, replicates)
        rejected = right.accepted and not wrong.accepted
        fine &= rejected
        zs = ["  ".join(f"{n} {z:7.2f}" for n, z in found.z.items()) for found in (right, wrong)]
        verdict = "rejected" if rejected else "NOT REJECTED"
        print(f"{name:30s} right: z {zs[0]}   wrong: z {zs[1]}   {verdict}", flush=True)
    print()
    return fine


def report_size(replicates: int) -> bool:
    """Bias and standard deviation of grad log Z_hat in rho against N and T."""
    print(f"grad log Z_hat in rho of AR(1)+noise: {replicates} replicates, systematic, threshold 0.5")
    print("   T      N    score     bias  +/-      sd   sd(log Z)", flush=True)
    for num_steps in (5, 20):
        known = autoregression(num_steps)
        score = known.score()["rho"]
        for n in (16, 64, 256):
            found = measure(known, ParticleFilter(n, summaries=()), 0, replicates)
            error = found.spread["rho"] / replicates**0.5
            print(
                f"{num_steps:4d} {n:6d} {score:8.3f} {found.bias['rho']:8.4f}  {error:.4f} {found.spread['rho']:6.3f}"
                f" {found.sd:9.3f}",
                flush=True,
            )
    print()
    return True


def main(parts: list[str]) -> int:
    """Print the parts asked for, all without arguments; nonzero if one fails."""
    jax.config.update("jax_enable_x64", True)
    runs: dict[str, Callable[[], bool]] = {
        "smooth": lambda: report([autoregression()], 100_000, "smooth innovations"),
        "discrete": lambda: report([hidden_markov(), counts(), mixed()], 100_000, "innovations without a smooth map"),
        "broken": lambda: report_broken(100_000),
        "size": lambda: report_size(4000),
    }
    passed = [runs[part]() for part in parts or list(runs)]
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

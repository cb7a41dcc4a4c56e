r"""What has an answer known to many digits: models, data, exact values, and how each is computed here.

Each oracle compares a number with its exact value, from outside this package:

* **exact** computations (a Gaussian likelihood, its gradient and smoothing law, a sum over all paths of a Markov chain,
  offspring, random bits) with a bound on rounding in the dtype at hand;
* **estimates** with their Monte Carlo error.  Of estimated likelihoods it is the mean of :math:`\hat Z / Z` that is
  compared with one, of smoothed means and of gradients (Fisher's identity) the mean of
  :math:`(\hat Z / Z) (\nabla \log \hat Z - \nabla \log Z)` with zero, which hold for any number of particles.

The Gaussian values are those of the joint law of all variables in float64, of which a test computes them again; the
likelihood of the volatilities is by quadrature on a grid of the state, their evidence by quadrature over parameters.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from scipy.special import logsumexp

from ssmscan import datasets
from ssmscan.inference.importance import ImportanceSampler
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.tracing import trace
from ssmscan.particles.discrete_filter import DiscreteFilter
from ssmscan.particles.draws import as_key, standard_normal
from ssmscan.particles.exact_likelihood import ExactLikelihood
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.loop import filters_at_once
from ssmscan.particles.resampling import multinomial, systematic
from ssmscan.particles.smoothing import BackwardSimulation, Smoother
from ssmscan.particles.weights import normalise

NILE = {"sd_level": 1469.1**0.5, "sd_flow": 15098.5**0.5}
NILE_LOG_LIKELIHOOD = -639.7117153992368
ELSEWHERE = {"sd_level": 30.0, "sd_flow": 130.0}
ELSEWHERE_LOG_LIKELIHOOD = -639.9019500671769
ELSEWHERE_SCORE = {"sd_level": 0.0242092082, "sd_flow": -0.0290522662}
YEARS = np.array([0, 27, 28, 50, 99])
SMOOTHED = np.array([1109.8960224806442, 999.5850879140609, 950.9292380717561, 829.5502345113263, 798.369108481292])
"""Of the level in 1871, the years before and at the dam of 1898-99, 1921 and 1970."""

VOLATILITY = {"mu": -1.02, "rho": 0.9702, "sigma": 0.178}
VOLATILITY_LOG_LIKELIHOOD = -158.34280921193
SP500_LOG_EVIDENCE, SP500_PERSISTENCE = 222.9789, 0.93163
"""By quadrature: within .0004 and .00002."""

MILLION = 1_000_000


class Number(NamedTuple):
    """Numbers with their exact values and errors, which are standard errors or bounds on rounding."""

    exact: Any
    found: Any
    error: Any
    rounding: bool = False


# ---- models --------------------------------------------------------------------------------


def local_level(flow):
    """The level of a river: the first observation is of the first level."""
    sd_level = numpyro.sample("sd_level", dist.HalfNormal(100.0))
    sd_flow = numpyro.sample("sd_flow", dist.HalfNormal(200.0))
    first = numpyro.sample("first", dist.Normal(1000.0, 500.0))
    numpyro.sample("first_flow", dist.Normal(first, sd_flow), obs=flow[0])

    def year(level, y):
        level = numpyro.sample("level", dist.Normal(level, sd_level))
        numpyro.sample("flow", dist.Normal(level, sd_flow), obs=y)
        return level, None

    scan(year, first, flow[1:])


def volatility(returns):
    """Log variances around a mean, from their stationary law."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    rho = numpyro.sample("rho", dist.Uniform(-1.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    h_0 = numpyro.sample("h_0", dist.Normal(mu, sigma / jnp.sqrt(1.0 - rho**2)))

    def day(h, y):
        h = numpyro.sample("h", dist.Normal(mu + rho * (h - mu), sigma))
        numpyro.sample("y", dist.Normal(0.0, jnp.exp(h / 2.0)), obs=y)
        return h, None

    scan(day, h_0, returns)


def sp500_volatility(returns):
    """The same with priors of heavy tails, from inference-gym (log_sp500_small)."""
    mu = numpyro.sample("mu", dist.Cauchy(0.0, 5.0))
    b = numpyro.sample("b", dist.Beta(20.0, 1.5))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.0))
    phi = 2.0 * b - 1.0
    h_0 = numpyro.sample("h_0", dist.Normal(mu, sigma / jnp.sqrt(1.0 - phi**2)))

    def day(h, y):
        numpyro.sample("y", dist.Normal(0.0, jnp.exp(h / 2.0)), obs=y)
        return numpyro.sample("h", dist.Normal(mu + phi * (h - mu), sigma)), None

    scan(day, h_0, returns)


ROWS = np.array([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.1, 0.3, 0.6]])
FIRST, CENTRES, SPREAD = np.array([0.5, 0.3, 0.2]), np.array([-1.0, 0.3, 1.5]), 0.7
SEEN = np.array([-0.8, -1.3, 0.4, 0.9, 1.6, 1.2, -0.2, 0.1])


def hidden_markov(y):
    """Three states, read with noise."""
    regime = numpyro.sample("first", dist.Categorical(jnp.asarray(FIRST)))

    def step(regime, y):
        regime = numpyro.sample("regime", dist.Categorical(jnp.asarray(ROWS)[regime]))
        numpyro.sample("y", dist.Normal(jnp.asarray(CENTRES)[regime], SPREAD), obs=y)
        return regime, None

    scan(step, regime, y)


# ---- oracles -------------------------------------------------------------------------------


def _rounding(size: float) -> float:
    """Bound the rounding of a sum whose terms have some size in all."""
    return 64 * float(jnp.finfo(jnp.zeros(()).dtype).eps) * size


def _nile() -> StateSpaceModel:
    return trace(local_level, datasets.nile().values)


def gaussian_likelihood(key: jax.Array) -> Number:
    """The likelihood of the Nile by the exact pass."""
    found = jax.jit(lambda ssm: ExactLikelihood().estimate(key, ssm, NILE).log_likelihood)(_nile())
    return Number(NILE_LOG_LIKELIHOOD, found, _rounding(abs(NILE_LOG_LIKELIHOOD)), rounding=True)


def gaussian_gradient(key: jax.Array) -> Number:
    """Its gradient, away from the maximum."""
    gradient = jax.grad(lambda theta, ssm: ExactLikelihood().estimate(key, ssm, theta).log_likelihood)
    found = jax.jit(gradient)({n: jnp.asarray(v, float) for n, v in ELSEWHERE.items()}, _nile())
    exact = list(ELSEWHERE_SCORE.values())
    # Sums of 100 terms of the size of 1 / sd each.
    return Number(exact, [found[n] for n in ELSEWHERE_SCORE], _rounding(100 / 30.0), rounding=True)


def gaussian_smoother(key: jax.Array) -> Number:
    """Smoothed means by the exact law."""
    found = Smoother(num_paths=2).run(key, _nile(), NILE)
    levels = np.concatenate([np.asarray(found.mean["first"])[None], np.asarray(found.mean["level"])])
    return Number(SMOOTHED, levels[YEARS], _rounding(1000.0), rounding=True)


def backward_simulation(key: jax.Array) -> Number:
    """Smoothed means by backward simulation, weighted by the ratio, which makes them unbiased."""
    settings = ParticleFilter(500, resampling=multinomial, threshold=1.0, summaries=())
    ssm, smoother = _nile(), Smoother(BackwardSimulation(settings), num_paths=10)

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = smoother.run(key, ssm, NILE)
        paths = jnp.concatenate([found.paths["first"][:, None], found.paths["level"]], axis=1)
        return found.log_likelihood, paths.mean(0)[YEARS]

    logs, levels = (np.asarray(x, np.float64) for x in _replicates(one, key, 100))
    ratio = np.exp(logs - NILE_LOG_LIKELIHOOD)
    return _mean(SMOOTHED, SMOOTHED + ratio[:, None] * (levels - SMOOTHED))


def filter_likelihood(key: jax.Array) -> Number:
    """The ratio of the estimated likelihood of 200 returns to the exact one."""
    ssm = trace(volatility, datasets.gbpusd().values[:200])
    settings = ParticleFilter(2000, summaries=())
    found = _replicates(lambda key: settings.run(key, ssm, VOLATILITY).log_likelihood, key, 100)
    return _mean(1.0, np.exp(np.asarray(found, np.float64) - VOLATILITY_LOG_LIKELIHOOD))


def filter_gradient(key: jax.Array) -> Number:
    """The gradient of the estimated likelihood of the Nile, weighted by the ratio, less the exact gradient."""
    ssm, settings = _nile(), ParticleFilter(1000, summaries=())
    value = jax.value_and_grad(lambda theta, key: settings.run(key, ssm, theta).log_likelihood)
    start = {n: jnp.asarray(v, float) for n, v in ELSEWHERE.items()}
    logs, gradients = _replicates(lambda key: value(start, key), key, 64)
    ratio = np.exp(np.asarray(logs, np.float64) - ELSEWHERE_LOG_LIKELIHOOD)
    terms = np.stack([ratio * (np.asarray(gradients[n], np.float64) - s) for n, s in ELSEWHERE_SCORE.items()], axis=1)
    return _mean(0.0, terms)


def discrete_likelihood(key: jax.Array) -> Number:
    """The likelihood of a hidden Markov chain by weighted particles and by the sum of gradient engines."""
    ssm = trace(hidden_markov, SEEN)
    paths = np.array(list(itertools.product(range(3), repeat=len(SEEN))))
    density = -0.5 * ((SEEN[:, None] - CENTRES) / SPREAD) ** 2 - np.log(SPREAD * np.sqrt(2 * np.pi))
    logs = np.log(FIRST @ ROWS)[paths[:, 0]] + np.log(ROWS)[paths[:, :-1], paths[:, 1:]].sum(1)
    exact = logsumexp(logs + density[np.arange(len(SEEN)), paths].sum(1))
    by_particles = jax.jit(lambda ssm: DiscreteFilter(9).estimate(as_key(key), ssm, {}).log_likelihood)(ssm)
    by_sum = jax.jit(lambda ssm: ssm.log_likelihood_given_noise({}, {}))(ssm)
    return Number(exact, [by_particles, by_sum], _rounding(abs(exact)), rounding=True)


def offspring(key: jax.Array) -> Number:
    """Offspring of a million particles by systematic resampling: where that of each ends, against float64."""
    raw = np.random.default_rng(0).normal(0.0, 2.0, MILLION)
    raw[np.random.default_rng(1).random(MILLION) < 0.25] = -np.inf
    own, raw = as_key(key), raw.astype(jnp.zeros(()).dtype)
    found = jax.jit(lambda raw: systematic(own, normalise(raw).weights, MILLION))(jnp.asarray(raw))
    u = float(jax.random.uniform(own, ()))
    reached = np.cumsum(np.exp(raw.astype(np.float64)))
    reached[np.flatnonzero(np.isfinite(raw))[-1] :] = reached[-1]
    ends = np.clip(np.ceil(MILLION * reached / reached[-1] - u), 0, MILLION)
    counted = np.bincount(np.asarray(found), minlength=MILLION)
    places = np.abs(np.cumsum(counted) - ends)
    # One place is what rounding may cost, two it may not; without weight there is none.
    return Number([0.0, 0.0], [places.max(), counted[np.isneginf(raw)].sum()], [1.5, 0.5], rounding=True)


def random_bits(key: jax.Array) -> Number:
    """Bits of the package's own cipher against those of JAX, of a million numbers."""
    ours = np.asarray(jax.jit(lambda key: jax.random.bits(as_key(key), (MILLION,)))(key))
    theirs = np.asarray(jax.random.bits(key, (MILLION,)))
    return Number(0.0, np.sum(ours != theirs), 0.5, rounding=True)


def normals(key: jax.Array) -> Number:
    """Moments of a million normals, the probability beyond 3, and the product of neighbours."""
    x = np.asarray(jax.jit(lambda key: standard_normal(as_key(key), (MILLION,)))(key), np.float64)
    beyond, each = 0.0026997960632601866, np.sqrt([1.0, 2.0, 15.0, 96.0])
    found = [x.mean(), (x**2).mean(), (x**3).mean(), (x**4).mean(), np.mean(np.abs(x) > 3), np.mean(x[1:] * x[:-1])]
    error = [*each, np.sqrt(beyond * (1 - beyond)), 1.0]
    return Number([0.0, 1.0, 0.0, 3.0, beyond, 0.0], found, np.array(error) / np.sqrt(MILLION))


def sp500(key: jax.Array) -> Number:
    """The evidence of volatilities with heavy tails, by importance sampling, and the mean persistence."""
    sampler = ImportanceSampler(num_points=2000, num_particles=100, num_paths=0, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a few hundred effective points are few
        result = sampler.run(key, trace(sp500_volatility, datasets.sp500().values))
    weights = np.exp(result.log_weights - logsumexp(result.log_weights))
    persistence = 2.0 * np.asarray(result.points["b"], np.float64) - 1.0
    mean = weights @ persistence
    error = np.sqrt(np.sum((weights * (persistence - mean)) ** 2))
    assert result.log_evidence is not None and result.log_evidence_error is not None
    return Number(
        [SP500_LOG_EVIDENCE, SP500_PERSISTENCE],
        [result.log_evidence, mean],
        [np.hypot(result.log_evidence_error, 0.0004), error],
    )


def _mean(exact: float | np.ndarray, terms: np.ndarray) -> Number:
    """Return the means of independent rows with their standard errors."""
    return Number(exact, terms.mean(0), terms.std(0, ddof=1) / np.sqrt(len(terms)))


def _replicates(function: Callable[[jax.Array], Any], key: jax.Array, count: int) -> Any:
    keys = jax.random.split(key, count)
    return jax.jit(partial(jax.lax.map, function, batch_size=filters_at_once()))(keys)


ORACLES: dict[str, Callable[[jax.Array], Number]] = {
    "Gaussian likelihood (Nile)": gaussian_likelihood,
    "its gradient": gaussian_gradient,
    "its smoothed means": gaussian_smoother,
    "hidden Markov likelihood, twice": discrete_likelihood,
    "resampling of a million": offspring,
    "random bits": random_bits,
    "normals: moments and tail": normals,
    "filter: mean ratio to the likelihood": filter_likelihood,
    "filter: gradient": filter_gradient,
    "backward simulation: smoothed means": backward_simulation,
    "importance sampling: evidence, mean": sp500,
}
COMPARISONS = 6 + 1 + 2 + len(YEARS) + 2
"""Numbers with a standard error, of all oracles."""

"""Models with finite discrete states, and the sum over all their paths in NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from scipy.special import logsumexp

Y = np.random.default_rng(11).normal(size=5)
LEVELS = np.array([-1.0, 0.5, 2.0])


class PathTruth(NamedTuple):
    """Sums over all paths: log likelihood, marginals (T, K) and marginals of neighbours (T - 1, K, K)."""

    log_likelihood: float
    marginals: np.ndarray
    pairs: np.ndarray


def sum_over_paths(log_joint: Callable[[np.ndarray], np.ndarray], num_values: int, num_steps: int) -> PathTruth:
    """Sum exp(log_joint(paths)) over all K^T paths, which it is given at once, (K^T, T)."""
    paths = np.array(list(itertools.product(range(num_values), repeat=num_steps)))
    logs = log_joint(paths)
    total = logsumexp(logs)
    weights = np.exp(logs - total)
    marginals, pairs = np.zeros((num_steps, num_values)), np.zeros((num_steps - 1, num_values, num_values))
    for t in range(num_steps):
        np.add.at(marginals[t], paths[:, t], weights)
        if t:
            np.add.at(pairs[t - 1], (paths[:, t - 1], paths[:, t]), weights)
    return PathTruth(float(total), marginals, pairs)


def hidden_markov(y, start=False):
    """Three states; the first follows a fixed state, or one that is drawn and observed."""
    rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(3)).expand([3]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))
    z0 = 0
    if start:
        z0 = numpyro.sample("z0", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
        numpyro.sample("y0", dist.Normal(jnp.asarray(LEVELS)[z0], sd), obs=0.3)

    def step(z, yt):
        z = numpyro.sample("z", dist.Categorical(rows[z]))
        numpyro.sample("y", dist.Normal(jnp.asarray(LEVELS)[z], sd), obs=yt)
        return z, z

    scan(step, z0, y)


def hamilton(y):
    """A mean that switches under autoregressive errors: y_t knows the regimes of t and t - 1."""
    stay = numpyro.sample("stay", dist.Beta(4, 2))
    phi = numpyro.sample("phi", dist.Uniform(-1, 1))

    def mean(z):
        return jnp.where(z == 1, 1.5, -0.5)

    def step(carry, yt):
        z, before = carry["z"], carry["y"]
        new = numpyro.sample("z", dist.Bernoulli(jnp.where(z == 1, stay, 1 - stay)))
        numpyro.sample("y", dist.Normal(mean(new) + phi * (before - mean(z)), 0.7), obs=yt)
        return {"z": new, "y": yt}, None

    scan(step, {"z": 1, "y": 0.4}, y)


def regime_beside_a_level(y):
    """A continuous state that the regime does not touch, and two discrete draws a step."""
    stay = numpyro.sample("stay", dist.Beta(4, 2))
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def step(carry, yt):
        z, x = carry
        x = numpyro.sample("x", dist.Normal(0.8 * x, q))
        z = numpyro.sample("z", dist.Bernoulli(jnp.where(z == 1, stay, 1 - stay)))
        k = numpyro.sample("k", dist.DiscreteUniform(2, 4))
        numpyro.deterministic("mean", x + 2.0 * z + 0.3 * k)
        numpyro.sample("y", dist.Normal(x + 2.0 * z + 0.3 * k, 0.5), obs=yt)
        return (z, x), None

    scan(step, (0, x0), y)


def level_of_a_regime(y):
    """A continuous draw that is a function of this step's regime and noise, and feeds the next regime."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))

    def step(carry, yt):
        level, _ = carry
        z = numpyro.sample("z", dist.Bernoulli(logits=slope * level))
        level = numpyro.sample("level", dist.Normal(jnp.where(z == 1, 1.0, -1.0), 0.5))
        size = numpyro.sample("size", dist.Gamma(jnp.where(z == 1, 3.0, 2.0), 1.5))
        numpyro.sample("y", dist.Normal(level, 0.2 + size), obs=yt)
        return (level, yt), None

    scan(step, (0.3, 0.0), y)


def three_animals(y):
    """Three independent two-state elements: eight joint values."""
    stay = numpyro.sample("stay", dist.Beta(4, 2))

    def step(z, yt):
        with numpyro.plate("animals", 3):
            z = numpyro.sample("z", dist.Bernoulli(jnp.where(z == 1, stay, 1 - stay)))
            numpyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=yt)
        return z, None

    scan(step, jnp.ones(3, int), y)


def never_carried(y):
    """Each step its own mixture; counts with a fixed total, and an ordered response."""
    p = numpyro.sample("p", dist.Beta(2, 2))

    def step(_, yt):
        n = numpyro.sample("n", dist.Binomial(3, probs=p))
        o = numpyro.sample("o", dist.OrderedLogistic(0.5, jnp.array([-1.0, 1.0])))
        numpyro.sample("y", dist.Normal(1.0 * n - 0.5 * o, 1.0), obs=yt)
        return None, None

    scan(step, None, y)

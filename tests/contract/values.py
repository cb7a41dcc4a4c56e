r"""The likelihood of a NumPyro model at given parameters, without anything of the package.

With theta the parameters, z all other latent sites and y the data, four ways to p(y | theta):

* no latent sites but theta: the log-probability of the observed sites is the answer;
* all others discrete with few values: log p(z, y | theta) summed over all of them;
* log p(z, y | theta) quadratic in z (linear Gaussian models): one Newton step from zero finds the mode and Laplace's
  formula is exact,

  .. math:: \log p(y | \theta) = \log p(\hat z, y | \theta) + \tfrac d2 \log 2\pi
            - \tfrac12 \log\det\left(-\nabla^2 \log p(\hat z, y | \theta)\right);

* else simple Monte Carlo: z drawn by NumPyro's own forward run, the mean of p(y | z, theta).  Its error grows fast with
  the length of the series, which is short here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from scipy.special import logsumexp

from tests.truth import hmm_forward_backward


class Value(NamedTuple):
    """A log-likelihood, its standard error, and where it comes from."""

    log_likelihood: float
    error: float
    origin: str


def log_terms(trace: dict, known: dict, *, observed: bool) -> jax.Array:
    """Sum the log-probabilities of sample sites with their scales, those of `known` left out."""
    total = jnp.zeros(())
    for name, site in trace.items():
        if site["type"] == "sample" and name not in known and (site["is_observed"] or not observed):
            log_prob = jnp.sum(site["fn"].log_prob(site["value"]))
            total = total + (log_prob if site["scale"] is None else site["scale"] * log_prob)
    return total


def without_noise(run: Callable, theta: dict) -> Value:
    """The log-probability of the data where theta is all that is drawn."""
    trace = handlers.trace(handlers.substitute(run, data=theta)).get_trace()
    return Value(float(log_terms(trace, theta, observed=True)), 0.0, "NumPyro's density")


def linear_gaussian(run: Callable, theta: dict) -> Value:
    """Laplace's formula, exact for a quadratic log-density."""
    seeded = handlers.trace(handlers.seed(handlers.substitute(run, data=theta), 0)).get_trace()
    latent = [n for n, s in seeded.items() if s["type"] == "sample" and not s["is_observed"] and n not in theta]
    flat, shape = ravel_pytree({name: jnp.zeros_like(seeded[name]["value"]) for name in latent})

    def log_joint(z):
        trace = handlers.trace(handlers.substitute(run, data={**theta, **shape(z)})).get_trace()
        return log_terms(trace, theta, observed=False)

    curvature = -jax.jit(jax.hessian(log_joint))(flat)
    mode = jnp.linalg.solve(curvature, jax.jit(jax.grad(log_joint))(flat))
    _, log_det = jnp.linalg.slogdet(curvature / (2 * jnp.pi))
    return Value(float(log_joint(mode) - 0.5 * log_det), 0.0, f"Gaussian in {len(flat)} variables")


def over_all_paths(run: Callable, theta: dict) -> Value:
    """The sum over every joint value of latent sites that are discrete."""
    seeded = handlers.trace(handlers.seed(handlers.substitute(run, data=theta), 0)).get_trace()
    latent = {n: s for n, s in seeded.items() if s["type"] == "sample" and not s["is_observed"] and n not in theta}
    choices = [
        np.asarray(site["fn"].enumerate_support(expand=False)).ravel()
        for site in latent.values()
        for _ in range(np.size(site["value"]))
    ]
    paths, columns, values = np.array(list(itertools.product(*choices))), 0, {}
    for name, site in latent.items():
        shape, size = np.shape(site["value"]), np.size(site["value"])
        values[name] = jnp.asarray(paths[:, columns : columns + size].reshape(-1, *shape), site["value"].dtype)
        columns += size

    def log_joint(z):
        trace = handlers.trace(handlers.substitute(run, data={**theta, **z})).get_trace()
        return log_terms(trace, theta, observed=False)

    logs = np.asarray(jax.jit(lambda z: jax.lax.map(log_joint, z, batch_size=10_000))(values), float)
    return Value(float(logsumexp(logs)), 0.0, f"sum of {len(paths):,} paths")


def monte_carlo(run: Callable, theta: dict, *, error: float = 0.1, batch: int = 10_000, most: int = 2_000_000) -> Value:
    """The mean likelihood over NumPyro's own forward draws of everything latent, until its error is small."""

    def log_likelihood(key):
        trace = handlers.trace(handlers.seed(handlers.substitute(run, data=theta), key)).get_trace()
        return log_terms(trace, theta, observed=True)

    round_of = jax.jit(lambda keys: jax.lax.map(log_likelihood, keys, batch_size=batch))
    logs = np.zeros(0)
    while len(logs) < most:
        keys = jax.random.split(jax.random.key(len(logs)), 20 * batch)
        logs = np.concatenate([logs, np.asarray(round_of(keys), float)])
        value = averaged(logs, f"{len(logs):.0e} forward runs")
        if value.error < error:
            break
    return value


def averaged(logs: np.ndarray, origin: str) -> Value:
    """The log of the mean of independent estimates that are given by their logs, and its standard error."""
    mean = logsumexp(logs) - np.log(len(logs))
    spread = np.std(np.exp(logs - mean), ddof=1) / np.sqrt(len(logs))
    return Value(float(mean), float(spread), origin)


def capture_recapture(history: np.ndarray, phi: float, rho: float) -> Value:
    """Forward recursion of each animal (dead, alive) from its first capture, on which the model conditions."""
    move = np.array([[1.0, 0.0], [1.0 - phi, phi]])
    total = 0.0
    for seen in np.asarray(history):
        later = seen[np.argmax(seen) + 1 :] if seen.any() else seen[:0]
        if len(later):
            with np.errstate(divide="ignore"):
                log_seen = np.log(np.where(later[:, None] == 1, [0.0, rho], [1.0, 1.0 - rho]))
            total += hmm_forward_backward(move[1], move, log_seen).log_likelihood
    return Value(total, 0.0, "forward recursion of each animal")

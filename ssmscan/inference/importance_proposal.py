r"""What the importance sampler draws parameters from: a mixture on unconstrained values z, fitted to weighted points.

.. math::  q(z) = \delta \, p(z) + \sum_k \alpha_k \, t_\nu(z; \mu_k, L_k L_k^T),  \qquad \delta + \sum_k \alpha_k = 1 ,

p is the *law* of the prior, so that the defence :math:`\delta` bounds prior over q by :math:`1 / \delta` (Hesterberg
1995, *Technometrics* 37(2)).  Where the prior has no sampler, or is masked or scaled, so that it is no law,
:math:`\delta = 0` and the last component is a wide t.

**Fit.**  Expectation maximisation of :math:`\sum_i w_i \log q(z_i)`, of which the maximum is nearest to the law of the
points in the divergence from it to q (Cappe, Douc, Guillin, Marin & Robert 2008, *Stat. Comput.* 18).  The number of
components has the best Bayesian information criterion, counted in effective points.

The fit, and the density that weights are taken against, are computed on the host in float64; the parameters are first
rounded to what the device draws with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import gammaln, logsumexp

COMPONENTS = 10
"""Components that there is room for, a wide one included."""

DEGREES = 5
"""Degrees of freedom, nu: heavier tails than a posterior usually has, with a variance."""

ITERATIONS = 40
"""Steps of expectation maximisation."""

INFLATION = 1.15
"""Factor on the fitted covariances: they are of a sample."""

DEFENCE = 0.05
"""Share of the defence, delta."""

WIDE = 4.0
"""How many times as wide as all components together the defence by a t is."""


class Mixture(NamedTuple):
    """A proposal; NumPy arrays in float64 on the host.

    Attributes:
        prior: () the share of draws of the prior, delta.
        shares: (K,) those of the components, 0 where there is none.
        means: (K, d).
        factors: (K, d, d) lower triangular.
    """

    prior: Any
    shares: Any
    means: Any
    factors: Any

    def on_device(self) -> Mixture:
        """Return the arrays that the compiled program takes."""
        dtype = jnp.zeros(()).dtype
        return Mixture(*(jnp.asarray(leaf, dtype) for leaf in self))

    def log_density(self, z: np.ndarray, log_law: np.ndarray) -> np.ndarray:
        """Evaluate log q, (n,) float64.

        Args:
            z: (n, d) points.
            log_law: (n,) log-density of the law of the prior there.
        """
        terms = [log_t(z, mean, factor) + np.log(share) for share, mean, factor in self.components]
        if self.prior > 0:
            terms.append(np.asarray(log_law, np.float64) + np.log(self.prior))
        return logsumexp(np.stack(terms), axis=0)

    @property
    def components(self) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Share, mean and factor of each component that there is."""
        return [(s, m, f) for s, m, f in zip(self.shares, self.means, self.factors) if s > 0]


def mixture(prior: float, shares: np.ndarray, means: np.ndarray, factors: np.ndarray) -> Mixture:
    """Make a mixture of at most `COMPONENTS`, rounded to the dtype of the device."""
    missing = COMPONENTS - len(shares)
    dtype = jnp.zeros(()).dtype
    leaves = (
        np.asarray(prior),
        np.concatenate([shares, np.zeros(missing)]),
        np.concatenate([means, np.repeat(means[-1:], missing, 0)]),
        np.concatenate([factors, np.repeat(factors[-1:], missing, 0)]),
    )
    return Mixture(*(leaf.astype(dtype).astype(np.float64) for leaf in leaves))


def from_prior(dimension: int) -> Mixture:
    """Return the law of the prior alone."""
    return mixture(1.0, np.zeros(1), np.zeros((1, dimension)), np.eye(dimension)[None])


def at_point(z: np.ndarray) -> Mixture:
    """Return the proposal of one point again and again."""
    return mixture(0.0, np.ones(1), z[None], np.zeros((1, z.size, z.size)))


def draw(key: jax.Array, proposal: Mixture, from_law: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Draw z, (d,), on the device; from_law draws from the prior."""
    key_component, key_normal, key_tail, key_law = jax.random.split(key, 4)
    ends = jnp.cumsum(jnp.concatenate([proposal.prior[None], proposal.shares]))
    chosen = jnp.sum(jax.random.uniform(key_component, (), ends.dtype) >= ends)
    k = jnp.clip(chosen - 1, 0, COMPONENTS - 1)
    normal = jax.random.normal(key_normal, proposal.means.shape[1:], ends.dtype)
    tail = jax.random.normal(key_tail, (DEGREES,), ends.dtype)
    moved = proposal.means[k] + proposal.factors[k] @ normal / jnp.sqrt(jnp.mean(tail**2))
    return jnp.where(chosen == 0, from_law(key_law).astype(ends.dtype), moved)


def log_t(z: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Evaluate the log-density of a multivariate t with `DEGREES` degrees of freedom, (n,)."""
    d = len(mean)
    constant = gammaln((DEGREES + d) / 2) - gammaln(DEGREES / 2) - d / 2 * np.log(DEGREES * np.pi)
    constant -= np.log(np.abs(np.diag(factor))).sum()
    return constant - (DEGREES + d) / 2 * np.log1p(_distance(z, mean, factor) / DEGREES)


def _distance(z: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return squared distances from the mean in the metric of a component, (n,)."""
    return (np.linalg.solve(factor, (z - mean).T) ** 2).sum(0)


def nearest(z: np.ndarray, proposal: Mixture) -> int:
    """Return which point is nearest to the mean of the largest component, in its metric: a typical point."""
    _, mean, factor = max(proposal.components, key=lambda component: component[0])
    return int(np.argmin(_distance(z, mean, factor)))


def fit(z: np.ndarray, log_weights: np.ndarray, *, prior: bool) -> Mixture:
    """Fit a mixture to weighted points.

    Args:
        z: (n, d) points.
        log_weights: (n,) up to a constant; at least one is finite.
        prior: whether the defence is the law of the prior, else a wide t.
    """
    weights = np.exp(log_weights - log_weights.max())
    kept = weights > 1e-8
    z, weights = np.asarray(z[kept], np.float64), weights[kept] / weights[kept].sum()
    effective = 1 / (weights**2).sum()
    d = z.shape[1]
    mean = weights @ z
    covariance = _steadied((z - mean).T @ ((z - mean) * weights[:, None]), effective)
    scale = np.linalg.cholesky(covariance)
    standard = np.linalg.solve(scale, (z - mean).T).T
    most = int(np.clip(effective / (6 * (d + 1)), 1, COMPONENTS - 1))
    fits = [_maximise(standard, weights, effective, k) for k in range(1, most + 1)]
    free = d + 1 + d * (d + 1) / 2
    criteria = [effective * found[0] - 0.5 * (k + 1) * free * np.log(effective) for k, found in enumerate(fits)]
    _, shares, means, factors = fits[int(np.argmax(criteria))]
    means, factors = mean + means @ scale.T, np.sqrt(INFLATION) * scale @ factors
    # The product of lower triangular factors is one.
    share = 1 - DEFENCE
    if prior:
        return mixture(DEFENCE, share * shares, means, factors)
    wide = WIDE * scale
    return mixture(
        0.0,
        np.append(share * shares, DEFENCE),
        np.concatenate([means, mean[None]]),
        np.concatenate([factors, wide[None]]),
    )


def _steadied(covariance: np.ndarray, effective: float) -> np.ndarray:
    """Shrink a covariance of few points towards its diagonal, which is positive definite."""
    d = len(covariance)
    diagonal = np.diag(np.maximum(np.diag(covariance), 1e-10))
    share = min(1.0, (d + 1) / effective)
    return (1 - share) * covariance + share * diagonal + 1e-8 * diagonal


def _maximise(z: np.ndarray, weights: np.ndarray, effective: float, count: int) -> tuple:
    """Run expectation maximisation on points of mean 0 and covariance I; return the mean log-density and parameters."""
    n, d = z.shape
    means = _spread_out(z, weights, count)
    factors = np.repeat(np.eye(d)[None] / count ** (1 / d), count, 0)
    shares = np.full(count, 1 / count)
    for iteration in range(ITERATIONS + 1):
        logs = np.stack([np.log(s) + log_t(z, m, f) for s, m, f in zip(shares, means, factors)])
        total = logsumexp(logs, axis=0)
        if iteration == ITERATIONS:
            break
        belong = np.exp(logs - total) * weights
        shares = np.maximum(belong.sum(1), 1e-12)
        shares = shares / shares.sum()
        for k in range(count):
            tail = (DEGREES + d) / (DEGREES + _distance(z, means[k], factors[k]))
            own = belong[k] * tail
            means[k] = own @ z / max(own.sum(), 1e-300)
            apart = z - means[k]
            covariance = apart.T @ (apart * own[:, None]) / max(belong[k].sum(), 1e-300)
            # As if d + 1 more points lay there, of the covariance of all: no component falls on a point.
            number = effective * shares[k]
            covariance = (number * covariance + (d + 1) * np.eye(d) / count ** (2 / d)) / (number + d + 1)
            factors[k] = np.linalg.cholesky(covariance)
    return float(weights @ total), shares, means, factors


def _spread_out(z: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """Choose points far from each other, (count, d): k-means++ with fixed random numbers (Arthur & Vassilvitskii)."""
    if count == 1:
        return np.zeros((1, z.shape[1]))
    rng = np.random.default_rng(0)
    chosen = [z[rng.choice(len(z), p=weights)]]
    while len(chosen) < count:
        distance = np.min([((z - c) ** 2).sum(1) for c in chosen], axis=0) * weights
        chosen.append(z[rng.choice(len(z), p=distance / distance.sum())] if distance.sum() > 0 else z[0])
    return np.array(chosen)

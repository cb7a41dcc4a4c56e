r"""Models for filters that look ahead, with their exact likelihood, and a proposal without the package.

The gains of `ByHand` are from the backward Riccati recursion of linear quadratic control, in NumPy: with noise e ~ N(0,
I), c' = A c + B e, y = H c' + N(0, R) and V(c) = p'c - c'Pc/2,

    P~ = P + H'H/R,  p~ = p + H'y/R,  S = I + B'P~B,  K = -S^-1 B'P~A,  e ~ N(S^-1 B'p~ + K c, S^-1),
    P <- A'P~(A + B K),  p <- (A + B K)'p~.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from ssmscan.model.gaussian.vectors import in_vectors
from ssmscan.particles.look_ahead import Guide, Prepared, Value
from tests.particles import guided, handmade, models
from tests.truth import LinearGaussian, linear_gaussian, point_mass_filter


class Known(NamedTuple):
    """A model with its exact log likelihood."""

    ssm: Any
    theta: dict[str, Any]
    log_likelihood: float


def traced(model: Callable, *data: np.ndarray) -> Any:
    return ssmscan.trace(model, *(jnp.asarray(x, float) for x in data))


# ---- gains without the package ------------------------------------------------------------------------


@partial(jax.tree_util.register_dataclass, data_fields=["prepared", "plan"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class ByHand:
    """A proposal and a plan that are there already."""

    prepared: Prepared
    plan: tuple[Guide, Value]

    def prepare(self, dynamics: Any) -> tuple[Prepared, tuple[Guide, Value]]:
        return self.prepared, self.plan


def riccati(a: Any, b: Any, h: Any, r: float, y: np.ndarray) -> tuple[list, list, list, list, list]:
    """Return p, P of V before every step and after the last, and mean, feedback and covariance of the noise."""
    d = len(a)
    p, big_p, means, feedbacks, covariances = [np.zeros(d)], [np.zeros((d, d))], [], [], []
    for value in y[::-1]:
        seen, pull = big_p[0] + np.outer(h, h) / r, p[0] + h * value / r
        covariance = np.linalg.inv(np.eye(b.shape[1]) + b.T @ seen @ b)
        feedback = -covariance @ b.T @ seen @ a
        means.insert(0, covariance @ b.T @ pull)
        feedbacks.insert(0, feedback)
        covariances.insert(0, covariance)
        closed = a + b @ feedback
        p.insert(0, closed.T @ pull)
        big_p.insert(0, a.T @ seen @ closed)
    return p, big_p, means, feedbacks, covariances


def by_hand(ssm: handmade.Autoregression, theta: dict[str, float]) -> ByHand:
    """The best proposal of the model that is written by hand."""
    rho, sx, sy = theta["rho"], theta["sx"], theta["sy"]
    one = np.ones((1, 1))
    p, big_p, means, feedbacks, covariances = riccati(rho * one, sx * one, np.ones(1), sy**2, np.asarray(ssm.y, float))
    sd, pull, seen = sx / np.sqrt(1 - rho**2), p[0][0], big_p[0][0, 0]
    if ssm.start_observed:
        pull, seen = pull + float(ssm.y_start) / sy**2, seen + 1 / sy**2
    variance = 1 / (1 + sd**2 * seen)

    def guide(mean: Any, feedback: Any, covariance: Any) -> Guide:
        factor = np.linalg.cholesky(covariance)
        carry = np.zeros(np.shape(feedback)[-1])
        return Guide(*(jnp.asarray(x, float) for x in (carry, mean, feedback, factor, np.linalg.inv(factor))))

    def value(p: Any, big_p: Any) -> Value:
        return Value(jnp.zeros(1), jnp.asarray(p, float), jnp.asarray(big_p, float))

    def stack(parts: list) -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)

    coordinates = in_vectors(ssm.at(theta)).coordinates
    start = guide([variance * sd * pull], np.zeros((1, 0)), [[variance]])
    plan = stack(list(map(guide, means, feedbacks, covariances))), stack(list(map(value, p[1:], big_p[1:])))
    return ByHand(Prepared(coordinates, 0.0, np.inf, start, value(p[0], big_p[0])), plan)


# ---- linear Gaussian models ---------------------------------------------------------------------------


def second_order(y):
    """An AR(2) whose carry is the last two values, its start fixed; what is not a normal is a parameter."""
    sx = numpyro.sample("sx", dist.HalfNormal(1))

    def transition(carry, y):
        last, before = carry
        x = numpyro.sample("x", dist.Normal(0.6 * last + 0.25 * before, sx))
        numpyro.sample("y", dist.Normal(x, 0.3), obs=y)
        return (x, last), None

    scan(transition, (0.5, -0.2), y)


def ten_states(y, turn):
    """Ten states that turn into each other; two sums of them are observed."""
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    start = numpyro.sample("x0", dist.Normal(jnp.zeros(10), 1).to_event(1))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(turn @ x, scale).to_event(1))
        numpyro.sample("y", dist.Normal(jnp.stack([x[:5].sum(), x[5:].sum()]), 0.2).to_event(1), obs=y)
        return x, None

    scan(transition, start, y)


def ar2(num_steps: int = 40) -> Known:
    y = 0.1 * np.cumsum(np.random.RandomState(0).standard_normal(num_steps))
    f, q = np.array([[0.6, 0.25], [1, 0]]), np.diag([0.49, 0])
    first = f @ np.array([0.5, -0.2])
    model = LinearGaussian(first, q, f, q, np.array([[1.0, 0]]), np.array([[0.09]]))
    return Known(traced(second_order, y), {"sx": 0.7}, linear_gaussian(model, y[:, None]).log_likelihood)


def d10(num_steps: int = 20) -> Known:
    random = np.random.RandomState(0)
    turn = 0.95 * np.linalg.qr(random.standard_normal((10, 10)))[0]
    y = random.standard_normal((num_steps, 2))
    h = np.repeat(np.eye(2), 5, axis=1)
    cov = turn @ turn.T + 0.25 * np.eye(10)
    model = LinearGaussian(np.zeros(10), cov, turn, 0.25 * np.eye(10), h, 0.04 * np.eye(2))
    ssm = traced(ten_states, y, turn)
    return Known(ssm, {"scale": 0.5}, linear_gaussian(model, y).log_likelihood)


def nile() -> Known:
    found = models.nile()
    return Known(found.ssm, dict(found.theta), found.log_likelihood)


def panel() -> Known:
    return Known(*guided.panel()[:3])


def two_loops() -> Known:
    y, v = guided.series(guided.THETA, 10), guided.series(guided.THETA, 6, 1)
    truth = guided.exact(guided.THETA, y) + guided.exact(guided.THETA, v)
    return Known(traced(guided.two_series, y, v), guided.THETA, truth)


def gaps() -> Known:
    y = guided.with_gaps(guided.series(guided.THETA, 10))
    return Known(traced(guided.after_the_loop, y), guided.THETA, guided.exact(guided.THETA, y))


EXACT: dict[str, Callable[[], Known]] = {
    "Nile": nile,
    "AR(2)": ar2,
    "d = 10": d10,
    "panel": panel,
    "two loops": two_loops,
    "gaps, after the loop": gaps,
}


# ---- other models -------------------------------------------------------------------------------------

COUNTS = {"rho": 0.8, "sx": 0.6}
HEAVY = {"rho": 0.8, "sx": 0.7}


def _stationary():
    rho = numpyro.sample("rho", dist.Uniform(-1, 1))
    sx = numpyro.sample("sx", dist.HalfNormal(1))
    return rho, sx, numpyro.sample("x0", dist.Normal(0, sx / jnp.sqrt(1 - rho**2)))


def poisson(y):
    """Counts whose log rate is an AR(1): log-concave."""
    rho, sx, start = _stationary()

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(rho * x, sx))
        numpyro.sample("y", dist.Poisson(jnp.exp(x)), obs=y)
        return x, None

    scan(transition, start, y)


def outliers(y):
    """An AR(1) with errors of heavy tails: not log-concave, and now and then of two modes."""
    rho, sx, start = _stationary()

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(rho * x, sx))
        numpyro.sample("y", dist.StudentT(2.0, x, 0.5), obs=y)
        return x, None

    scan(transition, start, y)


def _on_grid(theta: dict[str, float], log_emission: Callable[[np.ndarray], np.ndarray]) -> Any:
    rho, sx = theta["rho"], theta["sx"]
    sd = sx / np.sqrt(1 - rho**2)
    grid = np.linspace(-8 * sd, 8 * sd, 801)
    transition = stats.norm.pdf(grid[None, :], rho * grid[:, None], sx)
    return point_mass_filter(grid, stats.norm.pdf(grid, 0, sd), transition, log_emission(grid))


def counts_truth(theta: dict[str, float] = COUNTS) -> Any:
    return _on_grid(theta, lambda x: stats.poisson.logpmf(COUNTED[:, None], np.exp(x)))


def heavy_truth(theta: dict[str, float] = HEAVY) -> Any:
    return _on_grid(theta, lambda x: stats.t.logpdf(SPREAD[:, None], 2.0, x, 0.5))


def rarely_seen(y):
    """A position that is seen exactly every fourth step, and moves more than the model expects; not proved linear."""
    r = numpyro.sample("r", dist.HalfNormal(1))

    def transition(carry, y):
        position, velocity = carry
        velocity = numpyro.sample("velocity", dist.Normal(0.9 * velocity, 1.0))
        position = position + velocity
        numpyro.sample("y", dist.Normal(jnp.where(position > -1e6, position, 0.0), r), obs=y)
        return (position, velocity), None

    scan(transition, (0.0, 0.0), y)


def surprising() -> Known:
    """Kicks of five standard deviations between observations of a tenth."""
    random, y, position, velocity = np.random.default_rng(0), np.full(20, np.nan), 0.0, 0.0
    for t in range(20):
        velocity = 0.9 * velocity + 5 * random.standard_normal()
        position, error = position + velocity, 0.1 * random.standard_normal()
        if t % 4 == 3:
            y[t] = position + error
    f, q = np.array([[1, 0.9], [0, 0.9]]), np.ones((2, 2))
    model = LinearGaussian(np.zeros(2), q, f, q, np.array([[1.0, 0]]), np.array([[0.01]]))
    return Known(traced(rarely_seen, y), {"r": 0.1}, linear_gaussian(model, y[:, None]).log_likelihood)


COUNTED = np.array([1, 0, 3, 2, 0, 0, 4, 1, 7, 2])
SPREAD = np.array([0.3, -0.5, 2.5, 0.1, 0.4, -3.0, -0.2, 0.6, 1.0, -0.4])


def counts() -> Known:
    return Known(ssmscan.trace(poisson, COUNTED), COUNTS, counts_truth().log_likelihood)


def heavy() -> Known:
    return Known(traced(outliers, SPREAD), HEAVY, heavy_truth().log_likelihood)

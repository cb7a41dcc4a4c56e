"""Linear Gaussian models as their users write them, with the matrices of each for a dense solution.

A `Case` is a model, its data, parameters, and the same in matrices: z_0 ~ N(m, P), z_t = F z_{t-1} + G_t N(0, I), and
y_t = H_t z_t + d_t + N(0, R).  What the model calls its state is S_t z_t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

from ssmscan import datasets


class Matrices(NamedTuple):
    """A linear Gaussian model; H (T, p, d) and offset (T, p) may depend on time, y (T, p) has NaN where missing."""

    m: np.ndarray
    P: np.ndarray
    F: np.ndarray
    Q: np.ndarray
    H: np.ndarray
    R: np.ndarray
    offset: np.ndarray
    y: np.ndarray


class Answer(NamedTuple):
    """Log likelihood (), and smoothed means (T, d) and covariances (T, d, d) of z_1, ..., z_T."""

    log_likelihood: float
    mean: np.ndarray
    cov: np.ndarray


def dense(of: Matrices) -> Answer:
    """Solve a model from the joint law of all its states and observations; float64."""
    steps, p, d = of.H.shape
    mean, cov = np.empty((steps, d)), np.empty((steps, d, steps, d))
    m, big_p = of.m, of.P
    for t in range(steps):
        m, big_p = of.F @ m, of.F @ big_p @ of.F.T + of.Q
        mean[t], cov[t, :, t] = m, big_p
        for s in range(t):
            cov[t, :, s] = of.F @ cov[t - 1, :, s]
            cov[s, :, t] = cov[t, :, s].T
    states = cov.reshape(steps * d, steps * d)
    h = np.zeros((steps, p, steps, d))
    for t in range(steps):
        h[t, :, t] = of.H[t]
    seen = np.isfinite(of.y).ravel()
    h = h.reshape(steps * p, steps * d)[seen]
    s = h @ states @ h.T + np.kron(np.eye(steps), of.R)[np.ix_(seen, seen)]
    lower = np.linalg.cholesky(s)
    e = np.linalg.solve(lower, (of.y - of.offset).ravel()[seen] - h @ mean.ravel())
    gain = np.linalg.solve(lower, h @ states)
    log_likelihood = -0.5 * (e @ e + len(e) * np.log(2 * np.pi)) - np.log(np.diag(lower)).sum()
    smoothed = (states - gain.T @ gain).reshape(steps, d, steps, d)
    at = np.arange(steps)
    return Answer(float(log_likelihood), mean + (gain.T @ e).reshape(steps, d), smoothed[at, :, at])


class Case(NamedTuple):
    """A model with its arguments and parameters, and the same in matrices.

    Attributes:
        model, args, theta: what a user writes.
        matrices: () -> `Matrices` at theta.
        states: site -> what it is of z_t, (k, d).
    """

    model: Callable
    args: tuple
    theta: dict[str, Any]
    matrices: Callable[[], Matrices]
    states: dict[str, np.ndarray]


def constant(m, P, F, Q, H, R, y, offset=None) -> Matrices:
    """Fill in what does not depend on time."""
    m, P, F, Q, R = (np.atleast_1d(np.asarray(a, float)) for a in (m, P, F, Q, R))
    P, F, Q, R = (np.atleast_2d(a) for a in (P, F, Q, R))
    y = np.asarray(y, float).reshape(len(y), -1)
    H = np.broadcast_to(np.asarray(H, float), (len(y), y.shape[1], len(m)))
    offset = np.zeros_like(y) if offset is None else np.asarray(offset, float).reshape(y.shape)
    return Matrices(m, P, F, Q, H, R, offset, y)


# ---- a local level -------------------------------------------------------------------------------


def nile(flow):
    level_sd = numpyro.sample("level_sd", dist.HalfNormal(100.0))
    flow_sd = numpyro.sample("flow_sd", dist.HalfNormal(200.0))
    start = numpyro.sample("start", dist.Normal(1000.0, 300.0))

    def year(level, flow):
        level = numpyro.sample("level", dist.Normal(level, level_sd))
        numpyro.sample("flow", dist.Normal(level, flow_sd), obs=flow)
        return level, None

    scan(year, start, flow)


NILE = np.asarray(datasets.nile().values, float)


# ---- trend and seasonal, with missing months -------------------------------------------------------


def seasonal(y):
    trend_sd = numpyro.sample("trend_sd", dist.HalfNormal(0.1))
    level = numpyro.sample("level0", dist.Normal(5.0, 2.0))
    slope = numpyro.sample("slope0", dist.Normal(0.0, 0.2))
    season = numpyro.sample("season0", dist.Normal(0.0, 1.0).expand([11]).to_event(1))

    def month(carry, y):
        level, slope, season = carry
        level = numpyro.sample("level", dist.Normal(level + slope, 0.3))
        slope = numpyro.sample("slope", dist.Normal(slope, trend_sd))
        now = numpyro.sample("season", dist.Normal(-season.sum(), 0.2))
        season = jnp.concatenate([now[None], season[:-1]])
        numpyro.sample("y", dist.Normal(level + now, 0.5), obs=y)
        return (level, slope, season), None

    scan(month, (level, slope, season), y)


def seasonal_data(steps=60):
    t, rng = np.arange(steps), np.random.RandomState(4)
    y = 5 + 0.05 * t + np.sin(2 * np.pi * t / 12) + 0.5 * rng.randn(steps)
    y[[3, 17, 18, 40]] = np.nan
    return y


def seasonal_matrices():
    d = 13
    F, Q = np.zeros((d, d)), np.zeros((d, d))
    F[0, :2], F[1, 1], F[2, 2:] = 1, 1, -1
    F[np.arange(3, d), np.arange(2, d - 1)] = 1
    Q[[0, 1, 2], [0, 1, 2]] = np.square([0.3, 0.05, 0.2])
    # One step of the slope is added before it moves: level + slope_{t-1}.
    H = np.zeros((1, d))
    H[0, [0, 2]] = 1
    P = np.diag([4.0, 0.04, *[1.0] * 11])
    return constant([5.0, *[0.0] * 12], P, F, Q, H, [0.25], seasonal_data())


# ---- a regression whose coefficients walk ----------------------------------------------------------


def walking_regression(x, y):
    walk_sd = numpyro.sample("walk_sd", dist.HalfNormal(1.0).expand([3]).to_event(1))
    beta = numpyro.sample("beta0", dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3) + 0.3))

    def step(beta, row):
        x, y = row
        beta = numpyro.sample("beta", dist.Normal(beta, walk_sd).to_event(1))
        numpyro.sample("y", dist.Normal(x @ beta, 0.7), obs=y)
        return beta, None

    scan(step, beta, (x, y))


X = np.random.RandomState(1).randn(50, 3)
WALK_Y = X @ np.array([1.0, -0.5, 0.2]) + 0.7 * np.random.RandomState(2).randn(50)


def walking_matrices():
    sd = np.array([0.1, 0.2, 0.05])
    return constant(np.zeros(3), np.eye(3) + 0.3, np.eye(3), np.diag(sd**2), X[:, None, :], [0.49], WALK_Y)


# ---- an autoregression of order two that reads lagged data -------------------------------------------


def feedback(y):
    a = numpyro.sample("a", dist.Normal(0.0, 0.5).expand([2]))
    drift = numpyro.sample("drift0", dist.Normal(0.0, 1.0))

    def step(carry, y):
        drift, (last, before) = carry
        drift = numpyro.sample("drift", dist.Normal(0.9 * drift, 0.3))
        numpyro.sample("y", dist.Normal(drift + a[0] * last + a[1] * before, 0.5), obs=y)
        return (drift, (y, last)), drift

    scan(step, (drift, (y[1], y[0])), y[2:])


FEEDBACK_Y = np.random.RandomState(3).randn(42).cumsum() * 0.3


def feedback_matrices():
    y, a = FEEDBACK_Y, (0.5, -0.2)
    return constant([0.0], [1.0], [0.9], [0.09], [[1.0]], [0.25], y[2:], a[0] * y[1:-1] + a[1] * y[:-2])


# ---- tracking in four dimensions ---------------------------------------------------------------------

STEP = 0.5
MOVE = np.block([[np.eye(2), STEP * np.eye(2)], [np.zeros((2, 2)), np.eye(2)]])
PUSH = np.kron(np.array([[STEP**3 / 3, STEP**2 / 2], [STEP**2 / 2, STEP]]), np.eye(2))
SEE = np.eye(2, 4)


def tracking(z):
    push = numpyro.sample("push", dist.HalfNormal(1.0))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    state = numpyro.sample("state0", dist.MultivariateNormal(jnp.zeros(4), 4.0 * jnp.eye(4)))

    def step(state, z):
        cov = push**2 * jnp.asarray(PUSH, float)
        state = numpyro.sample("state", dist.MultivariateNormal(jnp.asarray(MOVE, float) @ state, cov))
        numpyro.sample("z", dist.MultivariateNormal(state[:2], noise**2 * jnp.eye(2)), obs=z)
        return state, state

    scan(step, state, z)


TRACK = np.random.RandomState(5).randn(40, 2).cumsum(0)
TRACK[7] = np.nan
TRACK[20, 1] = np.nan


def tracking_matrices():
    return constant(np.zeros(4), 4 * np.eye(4), MOVE, 0.64 * PUSH, SEE, 0.25 * np.eye(2), TRACK)


# ---- observed after the loop, an observed start, a random walk by its own family -----------------------


def after_the_loop(first, y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))
    numpyro.sample("first", dist.Normal(2.0 * x0, 0.5), obs=first)

    def step(x, _):
        x = 0.95 * x + scale * numpyro.sample("shock", dist.Normal(0.0, 1.0))
        return x, x

    _, path = scan(step, x0, None, length=len(y))
    numpyro.deterministic("path", path)
    numpyro.sample("y", dist.Normal(path - 0.1, 0.4), obs=y)


AFTER_Y = np.random.RandomState(6).randn(30).cumsum() * 0.3


def after_matrices():
    # The start given its observation, and the evidence of that in `after_extra`.
    precision = 1 + 4 / 0.25
    mean = 2 * 0.7 / 0.25 / precision
    return constant([mean], [1 / precision], [0.95], [0.09], [[1.0]], [0.16], AFTER_Y, np.full(30, -0.1))


def log_normal(x, mean, var):
    """Return a normal log-density."""
    return -0.5 * ((x - mean) ** 2 / var + np.log(2 * np.pi * var))


AFTER_EXTRA = float(log_normal(0.7, 0.0, 4.25))
"""Log-density of the observation of the start."""


# ---- many dimensions ------------------------------------------------------------------------------------


def wide(size: int, steps: int = 25) -> Case:
    """Build a coupled autoregression of any dimension, half of which is seen."""
    rng = np.random.RandomState(size)
    F = 0.7 * np.linalg.qr(rng.randn(size, size))[0]
    H = rng.randn(max(size // 2, 1), size) / np.sqrt(size)
    y = rng.randn(steps, len(H))

    def model(y):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        x = numpyro.sample("x0", dist.Normal(jnp.zeros(size), 1.0).to_event(1))

        def step(x, y):
            x = numpyro.sample("x", dist.Normal(jnp.asarray(F, float) @ x, scale).to_event(1))
            numpyro.sample("y", dist.Normal(jnp.asarray(H, float) @ x, 0.3).to_event(1), obs=y)
            return x, None

        scan(step, x, y)

    def matrices():
        return constant(np.zeros(size), np.eye(size), F, 0.25 * np.eye(size), H, 0.09 * np.eye(len(H)), y)

    return Case(model, (y,), {"scale": 0.5}, matrices, {"x": np.eye(size)})


# ---- a panel ---------------------------------------------------------------------------------------------

PANEL_Y = np.random.RandomState(8).randn(20, 5).cumsum(0) * 0.4


def panel(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("unit", 5):
        level = numpyro.sample("level0", dist.Normal(0.0, 1.0))

    def step(level, y):
        with numpyro.plate("unit", 5):
            level = numpyro.sample("level", dist.Normal(0.9 * level, scale))
            numpyro.sample("y", dist.Normal(level, 0.5), obs=y)
        return level, None

    scan(step, level, y)


def panel_matrices():
    one = np.eye(5)
    return constant(np.zeros(5), one, 0.9 * one, 0.16 * one, one, 0.25 * one, PANEL_Y)


UNIT = np.eye(13)
CASES = {
    "nile": Case(
        nile,
        (NILE,),
        {"level_sd": 38.0, "flow_sd": 123.0},
        lambda: constant([1000.0], [300.0**2], [1.0], [38.0**2], [[1.0]], [123.0**2], NILE),
        {"level": np.eye(1)},
    ),
    "seasonal": Case(
        seasonal,
        (seasonal_data(),),
        {"trend_sd": 0.05},
        seasonal_matrices,
        {"level": UNIT[:1], "slope": UNIT[1:2], "season": UNIT[2:3]},
    ),
    "regression": Case(
        walking_regression,
        (X, WALK_Y),
        {"walk_sd": np.array([0.1, 0.2, 0.05])},
        walking_matrices,
        {"beta": np.eye(3)},
    ),
    "feedback": Case(feedback, (FEEDBACK_Y,), {"a": np.array([0.5, -0.2])}, feedback_matrices, {"drift": np.eye(1)}),
    "tracking": Case(tracking, (TRACK,), {"push": 0.8, "noise": 0.5}, tracking_matrices, {"state": np.eye(4)}),
    "after_the_loop": Case(after_the_loop, (0.7, AFTER_Y), {"scale": 0.3}, after_matrices, {}),
    "panel": Case(panel, (PANEL_Y,), {"scale": 0.4}, panel_matrices, {"level": np.eye(5)}),
    "wide": wide(10),
}
EXTRA = {"after_the_loop": AFTER_EXTRA}


def data(case: Case) -> tuple:
    """Return the arguments of a model in the default precision."""
    return jax.tree.map(lambda a: jnp.asarray(a, float), case.args)


def exact_log_likelihood(name: str) -> float:
    """Return the dense answer of a case by name."""
    return dense(CASES[name].matrices()).log_likelihood + EXTRA.get(name, 0.0)

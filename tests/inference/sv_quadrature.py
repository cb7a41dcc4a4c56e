r"""The posterior of `stochastic_volatility` by deterministic quadrature, in NumPy float64.

The likelihood is a point-mass filter of x_t = h_t - mu on a regular grid.  In x the transition does not know
mu, so one banded matrix serves all values of mu at once.  The posterior is then a sum over a grid that is
regular in logit b, log sigma and asinh(mu + 9), where the density is smooth and the trapezoidal rule converges
exponentially.

`python -m tests.inference.sv_quadrature` prints what the engines are compared with.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse, stats
from scipy.interpolate import CubicSpline

CENTRE = -9.0
WIDTH = 6.5


class Marginal(NamedTuple):
    """Moments and median of one parameter."""

    mean: float
    sd: float
    median: float


class Quadrature(NamedTuple):
    """Exact answers: log evidence and the marginals by name."""

    log_evidence: float
    marginals: dict[str, Marginal]


def log_likelihood(y: np.ndarray, mu: np.ndarray, phi: float, sigma: float) -> np.ndarray:
    """Evaluate log p(y | mu, phi, sigma) for all values of mu; (len(mu),)."""
    sd = sigma / np.sqrt(1 - phi**2)
    spacing = min(0.7 * sigma, 0.3)
    size = int(np.ceil(WIDTH * sd / spacing))
    x = spacing * np.arange(-size, size + 1)
    step = (x[:, None] - phi * x[None, :]) / sigma
    kernel = np.where(np.abs(step) < 7, stats.norm.pdf(step) * spacing / sigma, 0.0)
    kernel = sparse.csr_array(kernel) if len(x) > 200 else kernel

    h = x[:, None] + mu[None, :]
    # Beyond exp(60) the likelihood of any return is zero anyway.
    precision = np.exp(np.minimum(-h, 60.0))
    weight = np.tile((stats.norm.pdf(x, scale=sd) * spacing)[:, None], (1, len(mu)))
    total = np.zeros(len(mu))
    for t, value in enumerate(y):
        weight = kernel @ weight if t else weight
        weight = weight * np.exp(-0.5 * (np.log(2 * np.pi) + h + value**2 * precision))
        likelihood = np.maximum(weight.sum(axis=0), 1e-300)
        total += np.log(likelihood)
        weight /= likelihood
    return total


def quadrature(y: np.ndarray) -> Quadrature:
    """Integrate over the three parameters."""
    logit_b = np.linspace(-0.6, 8.6, 28)
    log_sigma = np.linspace(-2.7, 1.1, 20)
    u = np.linspace(-4.6, 4.6, 47)
    b, sigma, mu = 1 / (1 + np.exp(-logit_b)), np.exp(log_sigma), CENTRE + np.sinh(u)
    log_joint = np.array([[log_likelihood(y, mu, 2 * bi - 1, s) for s in sigma] for bi in b])
    log_joint += (stats.beta.logpdf(b, 20, 1.5) + np.log(b * (1 - b)))[:, None, None]
    log_joint += (stats.halfcauchy.logpdf(sigma, scale=2) + log_sigma)[None, :, None]
    log_joint += (stats.cauchy.logpdf(mu, 0, 5) + np.log(np.cosh(u)))[None, None, :]

    peak = log_joint.max()
    joint = np.exp(log_joint - peak)
    cell = np.prod([np.diff(grid)[0] for grid in (logit_b, log_sigma, u)])
    log_evidence = float(peak + np.log(joint.sum() * cell))
    joint /= joint.sum()
    axes = {
        "phi": (logit_b, joint.sum((1, 2)), lambda g: 2 / (1 + np.exp(-g)) - 1),
        "sigma": (log_sigma, joint.sum((0, 2)), np.exp),
        "mu": (u, joint.sum((0, 1)), lambda g: CENTRE + np.sinh(g)),
    }
    return Quadrature(log_evidence, {name: _marginal(*axis) for name, axis in axes.items()})


def _marginal(grid: np.ndarray, mass: np.ndarray, value) -> Marginal:
    x = value(grid)
    mean = float(mass @ x)
    cdf = CubicSpline(grid, mass / np.diff(grid)[0]).antiderivative()
    fine = np.linspace(grid[0], grid[-1], 100_001)
    median = value(np.interp(0.5, cdf(fine) / cdf(grid[-1]), fine))
    return Marginal(mean, float(np.sqrt(mass @ (x - mean) ** 2)), float(median))


if __name__ == "__main__":
    from ssmscan import datasets

    answer = quadrature(datasets.sp500().values)
    print(f"log evidence {answer.log_evidence:.4f}")
    for name, marginal in answer.marginals.items():
        print(f"{name:6} mean {marginal.mean:.5f}  sd {marginal.sd:.5f}  median {marginal.median:.5f}")

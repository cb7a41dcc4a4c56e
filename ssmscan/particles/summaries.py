r"""What is computed from the cloud at each step.

A summary is a frozen object called once per step, inside the loop; its results are stacked over
time.  `Mean`, `SD` and `Quantiles` are of the filtering distribution :math:`p(x_t | y_{1:t})`, whatever moved the
particles.

`Probabilities` are those of a regime, whose codes have no mean worth knowing.

`Quantiles` bisects the weighted distribution function, about 30 passes over the cloud; sorting
would cost five times more.

`PIT` is the probability integral transform of the observations under their one-step-ahead
predictive distribution :math:`p(y_t | y_{1:t-1})`: weights before y_t is seen.  Independent
uniforms if the model is right.  For discrete data it is the mid-distribution transform
:math:`(P(Y < y) + P(Y \le y))/2`, whose mean is 1/2 under the right model; it is not uniform.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmscan.arguments import require_integer, require_number
from ssmscan.particles.filter_step import StepInfo
from ssmscan.particles.weights import normalise

_FEW_COLUMNS = 8
_HALVINGS = {"float32": 32, "float64": 64}


class Summary(Protocol):
    """A function of one step's cloud, by site; frozen and hashable."""

    @property
    def name(self) -> str:
        """Key in `FilterResult.summaries`."""

    # One that predicts an observation from those before it has `predicts = True`; particles that know later data
    # cannot.

    def __call__(self, info: StepInfo) -> dict[str, Array]:
        """Return the summary of one step by site; shapes without time."""


def over_particles(weights: Array, x: Array) -> Array:
    """Return sum_i w_i x_i over the leading axis; what has no weight does not count, even if infinite."""
    columns = x.reshape(len(x), -1).astype(weights.dtype)
    if not 0 < columns.shape[1] <= _FEW_COLUMNS:
        w = weights[:, None]
        return jnp.sum(jnp.where(w > 0, w * columns, 0), axis=0).reshape(x.shape[1:])
    # One by one: a CPU takes 11 ns for a row of four as one sum, and 4 ns as four.
    sums = [jnp.sum(jnp.where(weights > 0, weights * column, 0)) for column in columns.T]
    return jnp.stack(sums).reshape(x.shape[1:])


@dataclass(frozen=True)
class Mean:
    """Filtering means of every site in the loop, in the shape of the site."""

    name = "mean"

    def __call__(self, info: StepInfo) -> dict[str, Array]:
        """Return means over the cloud."""
        return jax.tree.map(lambda x: _dead(info, over_particles(info.weights, x)), info.moved.values)


@dataclass(frozen=True)
class SD:
    """Filtering standard deviations of every site in the loop, in the shape of the site."""

    name = "sd"

    def __call__(self, info: StepInfo) -> dict[str, Array]:
        """Return root mean squares of deviations from the mean, in a second pass."""

        def sd(x: Array) -> Array:
            x = x.astype(info.weights.dtype)
            deviation = x - over_particles(info.weights, x)
            return _dead(info, jnp.sqrt(over_particles(info.weights, deviation * deviation)))

        return jax.tree.map(sd, info.moved.values)


@dataclass(frozen=True)
class Quantiles:
    """Filtering quantiles of every site in the loop: (len(probs),) + shape of the site.

    The quantile p is the smallest particle whose distribution function reaches p.

    Attributes:
        probs: probabilities in (0, 1).
    """

    probs: tuple[float, ...] = (0.05, 0.5, 0.95)
    name = "quantiles"

    def __post_init__(self) -> None:
        given = self.probs if isinstance(self.probs, Iterable) and not isinstance(self.probs, str) else (self.probs,)
        probs = tuple(require_number("probs", p, 0, 1) for p in given)
        object.__setattr__(self, "probs", probs)
        if not probs:
            raise ValueError("probs: expected probabilities strictly between 0 and 1, got none.")

    def __call__(self, info: StepInfo) -> dict[str, Array]:
        """Return quantiles of every element of every site, by bisection."""

        def of_site(x: Array) -> Array:
            w = info.weights
            columns = x.reshape(len(x), -1).astype(w.dtype).T
            levels = jnp.asarray(self.probs, w.dtype)
            found = jax.vmap(lambda column: jax.vmap(lambda p: _quantile(w, column, p))(levels))(columns)
            return _dead(info, found.T.reshape(len(self.probs), *x.shape[1:]))

        return jax.tree.map(of_site, info.moved.values)


def _quantile(w: Array, x: Array, p: Array) -> Array:
    """Return the smallest x_i with sum_j w_j 1[x_j <= x_i] >= p, by bisection; w and x are (N,)."""
    seen = w > 0
    low, high = jnp.min(jnp.where(seen, x, jnp.inf)), jnp.max(jnp.where(seen, x, -jnp.inf))

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) / 2
        reached = jnp.sum(jnp.where(x <= middle, w, 0)) >= p
        return jnp.where(reached, low, middle), jnp.where(reached, middle, high)

    reached_at_once = jnp.sum(jnp.where(x <= low, w, 0)) >= p
    _, above = lax.fori_loop(0, _HALVINGS[w.dtype.name], halve, (low, high))
    largest = jnp.max(jnp.where(seen & (x <= above), x, -jnp.inf))
    return jnp.where(reached_at_once, low, largest)


@dataclass(frozen=True)
class Probabilities:
    """Filtering probabilities of the values 0 .. K - 1 of every discrete site in the loop: (K,) + shape of the site.

    What a site of counts has above K - 1 is left out: then they sum to less than one.

    Attributes:
        num_values: K.
    """

    num_values: int = 2
    name = "probabilities"

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_values", require_integer("num_values", self.num_values, at_least=1))

    def __call__(self, info: StepInfo) -> dict[str, Array]:
        """Return the weight of the particles that have each value, by discrete site."""

        def of_site(x: Array) -> Array:
            found = [over_particles(info.weights, x == value) for value in range(self.num_values)]
            return _dead(info, jnp.stack(found))

        discrete = {name: x for name, x in info.moved.values.items() if not jnp.issubdtype(x.dtype, jnp.inexact)}
        return {name: of_site(x) for name, x in discrete.items()}


@dataclass(frozen=True)
class PIT:
    """Predictive probability integral transform of every observation with a distribution function."""

    name = "pit"
    predicts = True

    def __call__(self, info: StepInfo) -> dict[str, Array]:
        """Return the mean distribution function of the particles with their predictive weights."""
        moved = info.moved
        carried = info.carried if moved.log_prediction is None else info.carried + moved.log_prediction
        w = normalise(carried).weights
        return {
            name: _dead(info, (over_particles(w, at) + over_particles(w, below)) / 2)
            for name, (at, below) in moved.cdf.items()
        }


def _dead(info: StepInfo, summary: Array) -> Array:
    """Return the summary, NaN once the cloud has no weight."""
    return jnp.where(info.alive, summary, jnp.nan)

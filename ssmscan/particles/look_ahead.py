r"""`LookAhead`: a proposal that sees the whole series.

The Gaussian approximation of the model at theta (`ssmscan.model.gaussian`) has, for every step, the law of the base
noise given the carry and all data to come, and the value function of the rest of the series,

.. math::  q_t(e | c) = N(\bar e_t + K_t (c - c_t^*), \; L_t L_t^\top), \qquad
           V_t(c) = p_t^\top (c - c_t^*) - \tfrac12 (c - c_t^*)^\top P_t (c - c_t^*) + \text{const}.

Particles draw their noise from q, move by the model itself and earn

.. math::  \log g_t = \ell_t(c, e) + \log N(e; 0, I) - \log q_t(e | c);

ancestors are drawn with :math:`W e^{V}`.  It is a twisted particle filter (Whiteley & Lee 2014, *Ann. Statist.* 42(1);
Guarniero, Johansen & Lee 2017, *JASA* 112), twisted by iterated Laplace approximation (Vihola, Helske & Franks 2020,
*Scand. J. Statist.* 47(4)); but V is in the choice of ancestors alone, see `filter_step`, and W is the filtering
weight.  The estimate is unbiased whatever q and V are.

For a linear Gaussian model it is exact with any number of particles.  Elsewhere two things keep the weights bounded
where the approximation is wrong: a share of the particles, `defence`, draws from the model, and all are weighed by the
mixture,

.. math::  -\log \big( (1 - \alpha) \, q_t / N(0, I) + \alpha \big) \le -\log \alpha,

and V is held below `bound` + d above its value at the nominal carry, d the number of coordinates of the carry.  It is
not held from below: a draw of the model that is far from informative data would be kept for what data ahead are bound
to refuse, and since it has not paid for going where they are, its weight would take all.  A step whose gains are not
numbers falls back to the model's own draws, and a V that is not a number to none.  Sites without a smooth map are drawn
from the model, guided by V alone.

Use it where a bootstrap filter starves: informative data, long series, several dimensions, a posterior with one mode.
Means and quantiles are of the filtering law, to which the weights lead back from a cloud that knows the future; where
the future tells more of a state than the past they rest on fewer particles than `ess` says.  For these use
`Bootstrap`; for paths given all data, `backward_sample`, this is the better one.

Gradients go through gains and means, by which a linear Gaussian model has the exact score; V is held constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.arguments import require_number
from ssmscan.errors import ModelError
from ssmscan.model.gaussian.algebra import inverse_factor, product
from ssmscan.model.gaussian.fit import fit_vectors
from ssmscan.model.gaussian.vectors import Coordinates, NoiseShapes, in_vectors, join_noise
from ssmscan.model.protocols import Dynamics, NoiseSpec, PyTree, Values
from ssmscan.particles.draws import START_STREAM, draw_noise, drawn_once, independent_choice, spread_choice
from ssmscan.particles.loop import keep_for_gradient
from ssmscan.particles.proposals import Move, Proposal, entry, possible, with_particle

Choose = Callable[[Array, float, int, int], Array]

_FARTHEST_BELOW = -1e4
"""A log weight that nothing is chosen by, and beside which float32 still has three digits behind the point."""


class Guide(NamedTuple):
    """The law of the noise of the moved sites at one step, given the carry; of the start with d = 0.

    Attributes:
        carry: (d,) nominal carry before the step.
        mean: (m,) mean there.
        feedback: (m, d) how it changes with the carry.
        scale_tril: (m, m) lower triangular factor of the covariance.
        whiten: (m, m) its inverse.
    """

    carry: Array
    mean: Array
    feedback: Array
    scale_tril: Array
    whiten: Array


class Value(NamedTuple):
    """The value function after a step or the start: carry (d,) around which, gradient (d,), curvature (d, d)."""

    carry: Array
    gradient: Array
    curvature: Array


@dataclass(frozen=True)
class LookAhead:
    """Draw noise from the Gaussian approximation of the law given all data; choose ancestors by what is ahead of them.

    Nothing of it has to be chosen for a model.  `ParticleFilter.start` and `update` refuse it, since it sees the whole
    series.

    Attributes:
        defence: share of the particles that draw from the model, where the model is not linear and Gaussian.
        bound: most that the value function of a particle may be above that at the nominal carry, on the log scale,
            less the dimension of the carry, which the spread of the particles takes.

    Raises:
        ValueError: a share that is not in (0, 1), or a bound that is not positive.
    """

    defence: float = 0.02
    bound: float = 8.0

    def __post_init__(self) -> None:
        require_number("defence", self.defence, 0, 1)
        require_number("bound", self.bound, 0, 1e6)

    def prepare(self, dynamics: Dynamics) -> tuple[Proposal, Any]:
        """Approximate the smoothing law; the plan has the `Guide` of each step, and the `Value` after it."""
        model = in_vectors(dynamics)
        found, coordinates = fit_vectors(model), model.coordinates
        first, m = coordinates.moved_initial, coordinates.moved_step
        gains, carries = found.gains, found.carries
        start = _guide(
            jnp.zeros(0), found.initial_mean[:first], jnp.zeros((first, 0)), found.initial_scale_tril[:first, :first]
        )
        steps = jax.vmap(_guide)(carries[:-1], found.mean[:, :m], gains.feedback[:, :m], gains.scale_tril[:, :m, :m])
        values = jax.vmap(_value)(*lax.stop_gradient((carries[:-1], gains.gradient, gains.curvature)))
        after = jax.tree.map(lambda leaf: jnp.concatenate([leaf[1:], jnp.zeros_like(leaf[:1])]), values)
        settings = (0.0, np.inf) if model.exact else (float(self.defence), float(self.bound) + coordinates.size)
        return Prepared(coordinates, *settings, start, jax.tree.map(lambda leaf: leaf[0], values)), (steps, after)


def _guide(carry: Array, mean: Array, feedback: Array, scale_tril: Array) -> Guide:
    """Return the law of the noise; the model's own where this one is none."""
    whiten = inverse_factor(scale_tril)
    sums = [jnp.sum(x) for x in (carry, mean, feedback, scale_tril, whiten)]
    good = jnp.isfinite(sum(sums, jnp.zeros(()))) & jnp.all(jnp.diagonal(scale_tril) > 0)
    unit = jnp.eye(len(mean), dtype=mean.dtype)
    own = Guide(jnp.zeros_like(carry), jnp.zeros_like(mean), jnp.zeros_like(feedback), unit, unit)
    return jax.tree.map(partial(jnp.where, good), Guide(carry, mean, feedback, scale_tril, whiten), own)


def _value(carry: Array, gradient: Array, curvature: Array) -> Value:
    """Return a value function; none where it is not a number."""
    found = Value(carry, gradient, curvature)
    good = jnp.isfinite(sum(map(jnp.sum, found), jnp.zeros(())))
    return jax.tree.map(lambda leaf: jnp.where(good, leaf, jnp.zeros_like(leaf)), found)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["start", "value"],
    meta_fields=["coordinates", "defence", "bound"],
)
@dataclass(frozen=True, eq=False)
class Prepared:
    """`LookAhead` of one series at one theta.

    Attributes:
        coordinates: where the coordinates of carry and noise are.
        defence: share of the model's own draws.
        bound: most that the value function may be above that at the nominal carry.
        start: the law of the noise of the start.
        value: the value function before the first step.
    """

    coordinates: Coordinates
    defence: float
    bound: float
    start: Guide
    value: Value

    def begin(self, key: Array, dynamics: Dynamics, n: int) -> Move:
        """Draw the initial sites."""
        return self._begin(key, dynamics, n, spread_choice)

    def _begin(self, key: Array, dynamics: Dynamics, n: int, choose: Choose) -> Move:
        guided = dynamics.guided
        moved = _of(dynamics.moved, self.coordinates.initial)
        noise, own = drawn_once(lambda: self._draw(key, guided.initial_noise, n, START_STREAM, choose))

        def one(noise: Values, own: Array | None) -> Move:
            e, log_ratio = self._guided(self.start, jnp.zeros(0), join_noise(moved, noise), own)
            start = guided.init({**noise, **self.coordinates.initial_noise(e)})
            ahead = self._log_ahead(self.value, start.carry)
            return Move(start.carry, start.log_weight + log_ratio, log_ratio, start.values, {}, ahead)

        return jax.vmap(one, axis_size=n)(noise, own)

    def log_auxiliary(self, dynamics: Dynamics, carry: Any, x: Any, n: int) -> None:
        """Return None: what is ahead is in the moves."""

    def propagate(self, key: Array, dynamics: Dynamics, carry: Any, x: Any, n: int) -> Move:
        """Move n particles; x is the input of the step, and its part of the plan."""
        return self._propagate(key, dynamics, carry, x, n, spread_choice)

    def _propagate(self, key: Array, dynamics: Dynamics, carry: Any, x: Any, n: int, choose: Choose) -> Move:
        guided, (x, (guide, value)) = dynamics.guided, x
        moved = _of(dynamics.moved, self.coordinates.step)
        noise, own = keep_for_gradient(self._draw(key, guided.step_noise, n, 0, choose))

        def one(carry: PyTree, noise: Values, own: Array | None) -> Move:
            vector = self.coordinates.of_carry(carry)
            e, log_ratio = self._guided(guide, vector, join_noise(moved, noise), own)
            step = guided.step(carry, x, {**noise, **self.coordinates.step_noise(e)})
            ahead = self._log_ahead(value, step.carry)
            return Move(step.carry, step.log_weight + log_ratio, log_ratio, step.values, step.cdf, ahead)

        return jax.vmap(one, axis_size=n)(carry, noise, own)

    def _draw(
        self, key: Array, specs: Mapping[str, NoiseSpec], n: int, stream: int, choose: Choose = spread_choice
    ) -> tuple[Values, Array | None]:
        """Draw noise of every site, and whether it is the model's own; None where it never is."""
        noise = draw_noise(key, specs, n, first_stream=stream)
        return noise, choose(key, self.defence, n, stream + len(specs)) if self.defence else None

    def _guided(self, guide: Guide, carry: Array, z: Array, own: Array | None) -> tuple[Array, Array]:
        """Return noise of one particle from standard normals z (m,), and log p(e) / q(e), a scalar."""
        mean = _mean(guide, carry)
        e = mean + _times(guide.scale_tril, z)
        if own is not None:
            e, z = jnp.where(own, z, e), jnp.where(own, _times(guide.whiten, z - mean), z)
        return e, self._log_ratio(guide, z, e)

    def _log_ratio(self, guide: Guide, z: Array, e: Array) -> Array:
        """Return log p(e) / q(e) of noise e, which is z standard deviations from the mean of the guide."""
        log_ratio = jnp.sum(jnp.log(jnp.diagonal(guide.scale_tril))) + 0.5 * jnp.sum(z * z - e * e)
        if not self.defence:
            return log_ratio
        return -_log_sum(math.log1p(-self.defence) - log_ratio, math.log(self.defence))

    # ---- one particle is given ------------------------------------------------------------------------------

    def begin_given(self, key: Array, dynamics: Dynamics, n: int, values: Values, slot: Array) -> Move:
        """Draw the initial sites, but for one particle."""
        refuse_without_inverse(dynamics)
        moved, start = _of(dynamics.moved, self.coordinates.initial), dynamics.evaluate_start(values)
        e = join_noise(moved, dynamics.start_noise_of(values))
        weight = start.log_observation + start.log_excess + self._earned(self.start, jnp.zeros(0), e)
        weight, ahead = possible(start.log_initial, weight), self._log_ahead(self.value, start.carry)
        drawn = self._begin(key, dynamics, n, independent_choice)
        return with_particle(drawn, slot, start.carry, weight, values, ahead)

    def propagate_given(
        self, key: Array, dynamics: Dynamics, carry: Any, x: Any, n: int, values: Values, slot: Array
    ) -> Move:
        """Move n particles, but for one."""
        (inputs, (guide, value)), own = x, entry(carry, slot)
        moved, step = _of(dynamics.moved, self.coordinates.step), dynamics.evaluate(own, inputs, values)
        e = join_noise(moved, dynamics.noise_of(own, inputs, values))
        weight = step.log_observation + step.log_excess + self._earned(guide, self.coordinates.of_carry(own), e)
        weight, ahead = possible(step.log_transition, weight), self._log_ahead(value, step.carry)
        drawn = self._propagate(key, dynamics, carry, x, n, independent_choice)
        return with_particle(drawn, slot, step.carry, weight, {**values, **step.deterministics}, ahead)

    def _earned(self, guide: Guide, carry: Array, e: Array) -> Array:
        """Return log p(e) / q(e) of given noise."""
        return self._log_ratio(guide, _times(guide.whiten, e - _mean(guide, carry)), e)

    def _log_ahead(self, value: Value, carry: PyTree) -> Array:
        """Compute what the value function of one particle is above that at the nominal carry, a scalar."""
        change = lax.stop_gradient(self.coordinates.of_carry(carry)) - value.carry
        ahead = jnp.sum(change * (value.gradient - 0.5 * _times(value.curvature, change)))
        floor = _FARTHEST_BELOW if self.defence else -jnp.inf
        # Not clip, which keeps what is not a number.
        return jnp.where(ahead >= floor, jnp.minimum(ahead, self.bound), floor)


def _mean(guide: Guide, carry: Array) -> Array:
    return guide.mean + _times(guide.feedback, carry - guide.carry) if len(carry) else guide.mean


def refuse_without_inverse(dynamics: Dynamics) -> None:
    """Raise unless the values of all guided sites tell their noise.

    Raises:
        ModelError: those of some do not.
    """
    if lost := ", ".join(repr(name) for name in dynamics.moved if name not in dynamics.invertible):
        raise ModelError(
            f"LookAhead cannot weigh given values of {lost}: their map from noise is not one-to-one, so that values do "
            "not tell the noise. Use ConditionalSMC(proposal=Bootstrap()), or Guided(...)."
        )


def _of(moved: tuple[str, ...], shapes: NoiseShapes) -> NoiseShapes:
    return tuple((name, shape) for name, shape in shapes if name in moved)


def _times(a: Array, b: Array) -> Array:
    """Multiply as exactly as on a CPU: what is drawn and its density must agree."""
    with jax.default_matmul_precision("highest"):
        return product(a, b)


def _log_sum(x: Array, y: float) -> Array:
    """Compute log(e^x + e^y); half the cost of logaddexp, whose log1p is of no use here."""
    return jnp.maximum(x, y) + jnp.log(1.0 + jnp.exp(-jnp.abs(x - y)))

r"""Check the evidence of a model against forward runs of NumPyro.

At parameters theta, from their prior or given, let (s, z) be drawn from their law q, by the parts that particle engines
move and weigh, and by NumPyro, which runs the model as it was written.  With

.. math::  L = \log p(s, z, y | \theta) - \log q(s, z | \theta), \qquad
           Z_\beta = E_q\left[\exp(\beta L)\right] = \int q(s, z | \theta)^{1 - \beta} \, p(s, z, y | \theta)^\beta

both estimate the same number: Z_1 is the likelihood p(y | theta), whatever is observed where (in the loop, after it,
missing, by elements of a panel, in several loops), since L is the whole weight of a run.  The two share no code but
the distributions.  What is drawn from where (roles, initial states, noise maps) shows here, and not in the densities
at one draw that `checking` compares.

Forward runs of a long series are all but useless at beta = 1, where one run has all the weight.  So beta is the largest
that leaves both samples an effective size of half their number: one for a short series, smaller for a longer one, and
the report says what difference of the log-likelihood would have been seen.  For most power trace a short series.

The data are new ones, simulated at theta, wherever an argument of the model is what a site observes: at data that are
impossible under a draw of the prior nothing could be seen.  Of a few draws of theta the most telling one is taken, by
runs of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssmscan.errors import ModelError
from ssmscan.model.handlers import original
from ssmscan.model.protocols import Theta, Values
from ssmscan.model.statespace.core import Core
from ssmscan.model.statespace.dynamics import LoopDynamics, draw_noise
from ssmscan.model.statespace.site_check import names

MOST = 5.0
"""Standard errors that two estimates may differ by: more happens in one check of two million."""
EFFECTIVE, BATCH, DRAWS = 0.5, 500, 5


class Evidence(NamedTuple):
    """Log evidence of a model raised to a power, by two samples of the same size.

    Attributes:
        parts: its estimate by the traced parts, log Z_beta.
        original: its estimate by forward runs of NumPyro.
        z: their difference in standard errors.
        power: beta.
        visible: the smallest difference in the log-likelihood of all runs that would have failed.
        effective: effective size of the worse sample, as a share of the runs.
        num_runs: number of runs in each sample.
    """

    parts: float
    original: float
    z: float
    power: float
    visible: float
    effective: float
    num_runs: int

    @property
    def passed(self) -> bool:
        """Whether the two agree."""
        return abs(self.z) <= MOST

    def __str__(self) -> str:
        if not self.effective:
            return f"evidence: no run of {self.num_runs} has a density, so nothing was compared"
        what = "log evidence" if self.power == 1 else f"log evidence to the power {self.power:.3g}"
        return (
            f"{what}: {self.parts:.6g} by the traced parts, {self.original:.6g} by {self.num_runs} forward runs of "
            f"NumPyro, z = {self.z:.2f}; effective runs {100 * self.effective:.0f} %, a difference of "
            f"{self.visible:.2g} in the log-likelihood would have been seen"
        )


def compare_evidence(
    key: jax.Array, cores: tuple[Core, ...], call: Callable[[list], object], arrays: list, theta: Theta, num_runs: int
) -> Evidence:
    """Estimate the evidence by runs of the traced parts and by forward runs of NumPyro.

    Args:
        key: PRNG key.
        cores: the loops over the data to compare at.
        call: the model as it was written, as a function of its array arguments.
        arrays: those arguments.
        theta: the parameters.
        num_runs: number of runs of each.

    Raises:
        ModelError: NumPyro cannot run the model forward.
    """
    sites, (our_key, their_key) = names(cores), jax.random.split(key)

    def as_written(keys: jax.Array, theta: Theta, arrays: list) -> jax.Array:
        def weight(key: jax.Array) -> jax.Array:
            return original.forward(key, lambda: call(arrays), sites, theta).factors(None)["weights"]

        return lax.map(weight, keys, batch_size=BATCH)

    ours = _by_parts(jax.random.split(our_key, num_runs), cores, theta)
    try:
        theirs = jax.jit(as_written)(jax.random.split(their_key, num_runs), theta, arrays)
    except original.NoDensity as error:
        raise ModelError(
            f"check: NumPyro does not run the model forward over its data ({error}), so that there is nothing to "
            "compare with, or the model was not understood. Please report it with the model."
        ) from None
    return compared(np.asarray(ours, float), np.asarray(theirs, float))


def compared(ours: np.ndarray, theirs: np.ndarray) -> Evidence:
    """Compare two samples of log weights by their tempered means, at the largest power that they bear."""
    logs = [np.where(np.isnan(sample), -np.inf, sample) for sample in (ours, theirs)]
    top = max(float(sample.max()) for sample in logs)
    if not np.isfinite(top):
        return Evidence(top, top, 0.0, 1.0, np.inf, 0.0, len(ours))
    logs = [sample - top for sample in logs]
    power = _largest_power(logs)
    weights = [np.exp(power * sample) for sample in logs]
    means = [w.mean() for w in weights]
    error = np.sqrt(sum(w.var(ddof=1) / len(w) for w in weights))
    difference = float(means[0] - means[1])
    if abs(difference) <= 1e-5 * max(means) and error < 1e-6 * max(means):
        z = 0.0  # equal numbers up to rounding
    else:
        z = difference / error if error > 0 else np.inf
    with np.errstate(divide="ignore"):
        parts, theirs_log = (float(np.log(mean) + power * top) for mean in means)
    visible = float(MOST * error / (power * max(means)))
    return Evidence(parts, theirs_log, float(z), power, visible, _effective(logs, power), len(ours))


def simulated_arguments(observed: Mapping[str, np.ndarray], drawn: Values, arrays: list) -> list:
    """Replace each argument that is what a site observes by what was drawn for the site."""
    new = list(arrays)
    for position, array in enumerate(arrays):
        for name, seen in observed.items():
            if name in drawn and np.shape(array) == np.shape(seen) and np.array_equal(array, seen, equal_nan=True):
                new[position] = jnp.asarray(drawn[name], array.dtype)
                break
    return new


def most_telling(key: jax.Array, candidates: list[tuple[Theta, list, tuple[Core, ...]]], num_runs: int) -> int:
    """Return the number of the parameters, data and loops whose runs bear the largest power."""
    keys = jax.random.split(key, num_runs)
    logs = [np.asarray(_by_parts(keys, cores, theta), float) for theta, _, cores in candidates]
    logs = [np.where(np.isnan(sample), -np.inf, sample) for sample in logs]
    return int(np.argmax([_largest_power([s - s.max()]) if np.isfinite(s).any() else 0.0 for s in logs]))


def _largest_power(logs: list[np.ndarray]) -> float:
    """Return the largest power that leaves each sample an effective size of half of those that have a density."""
    wanted = EFFECTIVE * min(max(np.isfinite(sample).mean(), 1 / len(sample)) for sample in logs)
    low, high = -40.0, 0.0  # of its logarithm to base 2
    if _effective(logs, 1.0) >= wanted:
        return 1.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if _effective(logs, 2.0**middle) >= wanted else (low, middle)
    return 2.0**low


def _effective(logs: list[np.ndarray], power: float) -> float:
    """Compute the effective size of the worst sample that has a density at all, as a share of its runs."""
    weights = [np.exp(power * sample) for sample in logs if np.isfinite(sample).any()]
    return min(float(w.sum() ** 2 / (w**2).sum()) / len(w) for w in weights)


@jax.jit
def _by_parts(keys: jax.Array, cores: tuple[Core, ...], theta: Theta) -> jax.Array:
    """Compute L for runs of the traced parts, a key for each."""

    def weight(key: jax.Array) -> jax.Array:
        terms = [_weight(jax.random.fold_in(key, number), core, theta) for number, core in enumerate(cores)]
        return sum(terms, start=jnp.zeros(()))

    return lax.map(weight, keys, batch_size=BATCH)


def _weight(key: jax.Array, core: Core, theta: Theta) -> jax.Array:
    """Move one particle through a loop by noise, and return its weight."""
    start_key, step_key = jax.random.split(key)
    bound = LoopDynamics(core, theta)
    start = bound.init(draw_noise(start_key, bound.initial_noise))
    noise = draw_noise(step_key, bound.step_noise, core.num_steps)

    def body(carry, inputs):
        carry, y, weight = bound.weigh(carry, *inputs)
        return carry, (y, weight)

    last, (ys, weights) = lax.scan(body, start.carry, (bound.xs, noise))
    total = core.log_static(theta) + start.log_weight + jnp.sum(weights)
    if not core.program.post_loop.mixing:
        return total
    outside = core.outside(theta, start.values)
    whole = core.program.densities.mixing(core.arrays, outside=outside, ys=ys, last=last)
    return total + sum(jax.tree.leaves(whole), start=jnp.zeros(()))

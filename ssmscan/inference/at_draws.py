"""A function of the model, a key and the parameters at a spread of the draws of a result.

Draws come in batches that are computed side by side, on a CPU one by one; the device holds one batch.  What is made is
spread over the draws at any time, so that Control-C leaves fewer draws and not another part of the posterior.  A draw
has the same key however many are asked for.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.inference.interrupts import hold_interrupts, interruptible
from ssmscan.inference.paths import spread_draws
from ssmscan.inference.progress import compile_chunk, phase, run_chunks
from ssmscan.inference.settings import spread
from ssmscan.labels import require_same_elements
from ssmscan.model.protocols import PyTree, Theta
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.draws import as_key
from ssmscan.particles.loop import each
from ssmscan.results.result import Result


class OfADraw(Hashable, Protocol):
    """A pure function of one draw, hashable because it selects the compiled program."""

    def __call__(self, ssm: StateSpaceModel, key: jax.Array, theta: Theta, /) -> PyTree:
        """Compute it; leaves are arrays."""


class AtDraws(NamedTuple):
    """What a function returned at some draws.

    Attributes:
        values: leaves (chains, draws, ...), NumPy's.
        draws: (draws,) which draws of each chain: ``result.draws[name][:, draws]``.
        interrupted: whether Control-C came before all were made.
    """

    values: Any
    draws: np.ndarray
    interrupted: bool


@dataclass(frozen=True)
class _BatchStep:
    """One batch; see `ssmscan.inference.progress.Step`.  The operand is (ssm, batches), the state its number."""

    function: OfADraw

    def __call__(self, operand: tuple[StateSpaceModel, tuple], number: jax.Array) -> tuple[jax.Array, PyTree]:
        """Compute one batch."""
        ssm, batches = operand
        keys, theta = jax.tree.map(lambda leaf: leaf[number], batches)
        return number + 1, each(lambda one: self.function(ssm, as_key(one[0]), one[1]), (keys, theta))


def at_draws(
    function: OfADraw,
    key: jax.Array,
    ssm: StateSpaceModel,
    result: Result,
    *,
    num_draws: int,
    label: str,
    progress: bool = True,
) -> AtDraws:
    """Compute a function at draws of the parameters.

    Args:
        function: called as function(ssm, key, theta).
        key: one PRNG key, typed or raw.
        ssm: a model with the parameters of the result.
        result: what any engine returned.
        num_draws: draws used of each chain, evenly spread, at most those that it has.
        label: text before the progress bar.
        progress: whether to show what is done.

    Raises:
        ValueError: the result has no draws, or of other parameters than the model.
    """
    require_draws_of(ssm, result)
    rows = spread(result.num_draws, num_draws)
    batches = spread_draws(result.num_chains, len(rows), room=len(rows))
    keys = np.asarray(_own_keys(as_key(key), np.arange(result.num_chains, dtype=np.uint32), rows.astype(np.uint32)))
    theta = {name: values[:, rows] for name, values in result.draws.items()}
    operand = ssm, jax.tree.map(batches.split, (keys, theta))
    step, first = _BatchStep(function), jnp.zeros((), jnp.int32)
    with hold_interrupts():
        with phase(f"{label}: compiling", progress=progress), interruptible():
            chunk = compile_chunk(step, operand, first)
        run = run_chunks(chunk, operand, first, batches.needed, label=label, progress=progress, leave=False)
    made = rows[np.sort(batches.first(run.done))]
    return AtDraws(jax.tree.map(batches.join, run.outputs), made, run.interrupted)


def require_draws_of(ssm: StateSpaceModel, result: Result) -> None:
    """Raise unless a result has draws of the parameters of a model.

    Raises:
        ValueError: it has none, or of others; or other elements stand along an axis.
    """
    require_same_elements(ssm.labels, result.labels)
    shapes = {site.name: tuple(site.shape) for site in ssm.parameters}
    found = {name: values.shape[2:] for name, values in result.draws.items()}
    if shapes != found:
        raise ValueError(f"result: expected draws of the parameters {shapes}, as ssm has, got {found}.")
    if not result.num_draws:
        raise ValueError("result: it has no draws, as it was stopped before the first.")


@jax.jit
def _own_keys(key: jax.Array, chains: jax.Array, draws: jax.Array) -> jax.Array:
    fold = jax.random.fold_in
    return jax.vmap(lambda i: jax.vmap(lambda j: jax.random.key_data(fold(fold(key, i), j)))(draws))(chains)

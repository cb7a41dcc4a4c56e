r"""From how many particles a cloud descends, and what one run knows of the variance of its likelihood from that.

**Unique ancestors.**  Going back from the last cloud its lines meet; `unique_ancestors` counts those that are left
after each step.  Where one is left, all ancestral paths have the same past.

**The variance of Z-hat from one run.**  Let a filter of N particles resample by independent draws at *every* step, let
k be the number of clouds that it has drawn, the start included, :math:`W_i` the last weights and :math:`E_i` the
particle of the start that particle i descends from, its *Eve*.  Then

.. math::  V = 1 - \Big( \frac{N}{N-1} \Big)^{k} \Big( 1 - \sum_e \Big( \sum_{i : E_i = e} W_i \Big)^2 \Big),
           \qquad E[\hat Z^2 \, V] = \mathrm{var}(\hat Z)

(Lee & Whiteley 2018, *Biometrika* 105(3), 609-625, theorem 1 with the last weights as test function).  The root of V
is about sd(log Z-hat) where that is small.  It is of use while many Eves are left, N well above the number of steps:
with one left V is 1 whatever the variance.  With another scheme, or a decision when to resample, the identity does not
hold, and nothing is returned; replicates (`ssmscan.Replicates.spread`) say it for any filter.

A filter of several loops or of the elements of a panel multiplies independent estimates, and 1 - V are multiplied.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmscan.particles.clouds import History, Origins, Tree
from ssmscan.particles.filter_record import FilterRecord


def genealogical_variance(log_weights: Array, eves: Array, num_clouds: int) -> Array:
    """Return V of the header; pure.

    Args:
        log_weights: (N,) normalised, of the last cloud.
        eves: (N,) the particle of the start that each descends from.
        num_clouds: k, clouds drawn.
    """
    n = len(log_weights)
    shares = jnp.zeros(n, log_weights.dtype).at[eves].add(jnp.exp(log_weights))
    return 1 - (n / (n - 1)) ** num_clouds * (1 - jnp.sum(shares**2))


def likelihood_variance(result: FilterRecord) -> float:
    """Return the estimate of the relative variance of the likelihood that one run makes; on the host.

    Raises:
        ValueError: the filter did not draw ancestors independently at every step, or kept no ancestry up to the start.
    """
    if not result.independent_ancestors:
        raise ValueError(
            "result: one run knows the variance of its likelihood only where ancestors are drawn independently at "
            "every step: run ParticleFilter(..., resampling=ssmscan.multinomial, threshold=1, store=ssmscan.Eves()); "
            "for any other filter ask ssmscan.Replicates(particle_filter, 32).spread(key, ssm, theta)."
        )
    clouds = 1 + result.first_step + result.increments.shape[-1] - result.start_observed
    left = 1.0
    for log_weights, lines in _descents(result):
        if isinstance(result.history, History) and np.any(np.asarray(result.history.first)):
            raise ValueError("result: the ancestry begins after the start; use store=ssmscan.Eves() or FullHistory().")
        left *= 1 - float(genealogical_variance(jnp.asarray(log_weights), jnp.asarray(lines[-1]), clouds))
    return 1 - left


def unique_ancestors(result: FilterRecord) -> np.ndarray:
    """Return from how many particles the last cloud descends, after each step that was kept; on the host.

    Returns:
        (steps + 1,) the start, or the cloud before the first step kept, in front; (1,) of the start alone where only
        Eves were kept.  The least over the elements of a panel.

    Raises:
        ValueError: the filter kept no ancestry, or had too little room for it.
    """
    counts = []
    for log_weights, lines in _descents(result):
        alive = log_weights > -np.inf
        counts.append([len(np.unique(line[alive])) for line in lines[::-1]])
    return np.min(counts, axis=0)


def _descents(result: FilterRecord) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """Return the last log weights of each filter, and the ancestors (N,) of its last particles after every step.

    The last step comes first, and the start last.
    """
    kept, panel = result.history, result.panel
    if isinstance(kept, Tree):
        if np.max(np.asarray(kept.lost)) >= 0:
            raise ValueError("result: the ancestry is incomplete: give store=ssmscan.Ancestry(room=...) more room.")
        lasts, parents = np.atleast_1d(kept.last), _rows(kept.parents)
        found = [_of_tree(int(last), row, kept) for last, row in zip(lasts, parents)]
        return list(zip(_rows(kept.log_weights), found))
    if isinstance(kept, Origins):
        return [(w, [eves]) for w, eves in zip(_rows(kept.log_weights), _rows(kept.eves))]
    if isinstance(kept, History):
        # The elements of a panel stand after the steps.
        steps, weights = np.asarray(kept.steps.ancestors), np.asarray(kept.steps.log_weights)
        each = [(weights, steps)] if panel is None else [(weights[:, m], steps[:, m]) for m in range(panel.size)]
        return [(w[-1], _of_steps(ancestors)) for w, ancestors in each]
    raise ValueError(
        "result: the filter kept no ancestry; run ParticleFilter(..., store=ssmscan.Eves()), or with Ancestry() or "
        "FullHistory() for that of every step."
    )


def _rows(values: Array) -> np.ndarray:
    """Return an array with the elements of a panel in front, one where there is no panel."""
    return np.atleast_2d(np.asarray(values))


def _of_tree(last: int, parents: np.ndarray, tree: Tree) -> list[np.ndarray]:
    lines = [last + np.arange(tree.log_weights.shape[-1])]
    for _ in range(tree.num_steps):
        lines.append(parents[lines[-1]])
    return [*lines[:-1], -1 - lines[-1]]


def _of_steps(ancestors: np.ndarray) -> list[np.ndarray]:
    lines = [np.arange(ancestors.shape[-1])]
    for parents in ancestors[::-1]:
        lines.append(parents[lines[-1]])
    return lines

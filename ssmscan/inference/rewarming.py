"""A second warm-up of NUTS, with shorter steps, where draws diverge.

A draw that ends in a divergence has met a place too narrow for the step size, and what lies behind it is missing from
all draws (Betancourt 2017, arXiv:1701.02434, section 5.3).  So as soon as these are one in a thousand of the draws that
are wanted, the sampling ends: its draws are dropped, step size and mass are adapted once more, for an acceptance of
`REWARM_ACCEPT`, and the draws are made anew.  The target is a number at run time: nothing is compiled for it.  What was
dropped counts as warm-up in the costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from numpyro.infer.hmc import HMCState

from ssmscan.health import Reason, Section
from ssmscan.results.health import STRAY, stray

REWARM_ACCEPT = 0.99
"""Acceptance that the new warm-up after a divergence aims at."""

REWARM_STREAM = 2**32 - 2
"""What is folded into the key of a run for the new warm-up."""


POINT = ("z", "z_grad", "potential_energy", "energy")
SCALES = ("inverse_mass_matrix", "mass_matrix_sqrt", "mass_matrix_sqrt_inv")


class Tally(NamedTuple):
    """What is to be known of an attempt when its draws are dropped; JSON can hold it."""

    diverging: int
    size: int
    target_accept: float
    gradients: int

    def __str__(self) -> str:
        """Return how many of the draws diverged, as text."""
        return f"{self.diverging:,} of {self.size:,} draws at target_accept {self.target_accept:g}"


def too_many(before: int, wanted: int) -> Callable[[Mapping[str, Any]], bool]:
    """Return what says of the outputs of each chunk, in turn, whether too many draws have diverged by then.

    Args:
        before: how many had before the first of them.
        wanted: how many draws there are to be in all.
    """
    seen = [before]

    def enough(outputs: Mapping[str, Any]) -> bool:
        seen[0] += int(outputs["stats"]["diverging"].sum())
        return not stray(seen[0], wanted)

    return enough


def warmed_anew(keys: jax.Array, begun: HMCState, warm: HMCState) -> HMCState:
    """Return NumPyro's states of chains that adapt from the start: as `begun`, at the points and scales of `warm`."""
    found = warm.adapt_state
    scales = {name: getattr(found, name) for name in ("step_size", *SCALES)}
    point = {name: getattr(warm, name) for name in POINT}
    return begun._replace(adapt_state=begun.adapt_state._replace(**scales), rng_key=keys, **point)


def rewarmed(first: Tally | None, kept: Tally, *, stopped: bool) -> tuple[tuple[str, ...], tuple[Reason, ...]]:
    """Return what is to be noted of divergences and of a new warm-up, and what is to be doubted after it.

    Args:
        first: the draws that led to it, None where none was needed.
        kept: the draws that are kept.
        stopped: whether the run was stopped in the new warm-up, so that those kept are the first.
    """
    few = stray(kept.diverging, kept.size)
    strays = (_strays(kept),) if few and kept.diverging else ()
    if first is None:
        return strays, ()
    if stopped:
        sentence = (
            f"{first} ended in a divergence, and the run was stopped in the new warm-up at {REWARM_ACCEPT:g} that "
            "followed: these are the draws before it."
        )
        return (), (Reason(sentence, f"Let it end, or begin with target_accept={REWARM_ACCEPT:g}.", Section.STOPPED),)
    note = f"{first} ended in a divergence: they were dropped, and after a new warm-up {kept} did."
    if few:
        return (note, *strays), ()
    sentence = f"{first} had ended in a divergence, and a new warm-up at {REWARM_ACCEPT:g} did not get rid of all."
    remedy = f"What is left is a target_accept above {REWARM_ACCEPT:g}, or other coordinates."
    return (note,), (Reason(sentence, remedy, Section.DIVERGENCES),)


def _strays(kept: Tally) -> str:
    """Return what a few divergences mean, which `ssmscan.results.health` does not hold against the draws."""
    return (
        f"{kept} ended in a divergence. Fewer than 1 in {STRAY:,} are no reason not to use the draws: as a rule single "
        "steps were too long. Should they mark the edge of a region that the sampler cannot enter, what lies there is "
        "missing: ssmscan.compare with an engine of another kind shows it, and a higher target_accept, or other "
        "coordinates, may get rid of them."
    )

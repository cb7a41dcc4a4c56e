"""What speaks against a run of particle Gibbs: parameters or states that stand still, and weights that are no numbers.

A chain whose states are hardly ever drawn anew at some step has a posterior of the states given one value there, and
its parameters may look as if they had converged: R-hat does not see it where all chains began alike.
"""

from __future__ import annotations

import numpy as np

from ssmscan.health import Condition, Reason, Section
from ssmscan.inference.going_on import Arrays
from ssmscan.particles.conditional import Ancestral, ConditionalSMC
from ssmscan.particles.proposals import uses_later_data
from ssmscan.results.table import significant

STILL = 0.05
"""Share of the sweeps that draw the states of a step anew, below which these are said to stand still."""

MANY_SWEEPS = 100
"""Draws of a chain from which such shares are judged."""


def doubts_of(draws: Arrays, stats: Arrays, updated: np.ndarray, conditional: ConditionalSMC) -> tuple[Reason, ...]:
    """Return why the draws are not to be trusted, and what to do.

    Args:
        draws, stats: parameters and statistics, (chains, draws, ...).
        updated: (chains, T) sweeps that drew the states of a step anew.
        conditional: what drew them.
    """
    found = _impossible(stats["impossible"])
    if stats["n_steps"].shape[1] >= MANY_SWEEPS:
        found += _parameters_still(draws) + _states_still(updated / stats["n_steps"].shape[1], conditional)
    return found


def _impossible(impossible: np.ndarray) -> tuple[Reason, ...]:
    count = int(impossible.sum())
    if not count:
        return ()
    sentence = (
        f"{count:,} of {impossible.size:,} sweeps met states without a density at their parameters, as rounding or a "
        "density that is no number may leave them."
    )
    return (Reason(sentence, "Mend the density of the model, or run in float64.", Section.NOT_NUMBERS),)


def _parameters_still(draws: Arrays) -> tuple[Reason, ...]:
    moved = [(np.diff(x, axis=1) != 0).reshape(*x[:, 1:].shape[:2], -1).any(axis=2) for x in draws.values()]
    shares = np.any(moved, axis=0).mean(axis=1)
    still = np.flatnonzero(shares < STILL)
    if not len(still):
        return ()
    percent = ", ".join(significant(100 * float(share)) for share in shares[still])
    sentence = (
        f"Chain(s) {still.tolist()} moved the parameters in only {percent} % of the sweeps: their step size was not "
        "found."
    )
    remedy = "Use a longer warm-up, num_warmup, a higher target_accept of the kernel, or priors that say more."
    return (Reason(sentence, remedy, Section.STILL, Condition.UNUSABLE),)


def _states_still(shares: np.ndarray, conditional: ConditionalSMC) -> tuple[Reason, ...]:
    still = shares < STILL
    if not still.any():
        return ()
    chain, step = (int(i) for i in np.unravel_index(np.argmin(shares), shares.shape))
    count, size = int(still.any(axis=0).sum()), shares.shape[1]
    ways = ["more particles, num_particles"]
    if isinstance(conditional.backward, Ancestral):
        ways.append("backward=AncestorSampling()")
    if not uses_later_data(conditional.proposal):
        ways.append("a proposal that looks ahead, conditional=ConditionalSMC(N, proposal=LookAhead())")
    said = f"{', '.join(ways[:-1])}, or {ways[-1]}" if len(ways) > 1 else ways[0]
    least = significant(100 * float(shares.min()))
    sentence = (
        f"The states of {count:,} of {size:,} time steps were drawn anew in fewer than {100 * STILL:g} % of the "
        f"sweeps, those of step {step} in {least} % by chain {chain}: they stand still, and the draws do not cover the "
        "posterior."
    )
    return (Reason(sentence, f"Use {said}.", Section.STILL, Condition.UNUSABLE),)

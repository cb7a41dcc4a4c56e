"""Can a result be trusted?  Each reason why not, as one sentence with what to do about it.

An engine knows what happened while it ran (a pilot that did not reach its target, a restart) and hands over
sentences, `Result.doubts`.  The draws themselves say the rest, whoever made them:

* transitions that diverged (`sample_stats["diverging"]`) left a region that the sampler cannot enter (Betancourt 2017,
  arXiv:1701.02434, section 5.3): said from one draw in `STRAY` on, and a note of NUTS below that;
* a tree at its limit (`sample_stats["reached_max_treedepth"]`) makes draws that depend on each other, not wrong ones:
  said from one in a hundred;
* a random walk (`sample_stats["accepted"]`) that hardly moves in some chain;
* R-hat above 1.01, or fewer than 400 effective draws in the bulk or the tails (Vehtari et al. 2021, section 4);
* weights of which one point has most, or whose tail is so heavy that their errors say little (see `verdicts`), and
  fewer than 400 effective points.
"""

from __future__ import annotations

import warnings
from typing import TypeVar

import numpy as np

from ssmscan.results.data import ResultData, samples
from ssmscan.results.heavy_tails import NotCompared
from ssmscan.results.table import significant
from ssmscan.results.verdicts import Fault, find_fault, find_fault_of_weights

Of = TypeVar("Of", bound=ResultData)

STRAY = 1000
"""Where fewer than one of so many draws diverged, that is no reason not to trust the rest."""

TREE_LIMIT_SHARE = 0.01
"""Share of the draws whose tree may reach its limit before it is said."""

STUCK_ACCEPTANCE = 0.02
"""Share of accepted proposals below which a chain of a random walk is said to be stuck."""


class ResultWarning(UserWarning):
    """A run has ended, and what it found cannot be trusted as it is; the message says why and what to do."""


def fault(result: ResultData, without: NotCompared | None = None) -> Fault | None:
    """Return why the draws of a result, or its weighted points, deserve no verdict, None where they do.

    Args:
        result: the result.
        without: statistics that are not compared, since the posterior has none: no fault of the result.
    """
    if not result.points:
        return find_fault(result.summaries, independent_runs=result.independent_runs)
    return find_fault(
        result.summaries,
        independent_runs=False,
        log_weights=result.log_weights,
        points=samples(result),
        without=without,
    )


def concerns(result: ResultData) -> tuple[str, ...]:
    """Return the reasons not to trust a result, each a sentence with what to do; empty if none is known."""
    found = [_interrupted(result)] if result.interrupted else []
    found += result.doubts
    if result.num_draws:
        found += [*_divergences(result), *_tree_limit(result), *_stuck(result), *_diagnostics(result)]
    return tuple(found)


def warn_of_concerns(result: Of) -> Of:
    """Warn of what `concerns` returns, in one `ResultWarning`; return the result.

    For the end of an engine's `run`: the warning points at the line that called it.  Control-C stops the looking, which
    takes long for thousands of parameters, and loses no draw; nor does a package that is missing.
    """
    try:
        found = concerns(result)
    except KeyboardInterrupt:
        found = ("Whether it can be trusted was not found out, since Control-C came: result.concerns() looks again.",)
    except ImportError as error:
        found = (f"Whether it can be trusted was not found out: {error}.",)
    if found:
        warnings.warn(f"{result.title}. {' '.join(found)}", ResultWarning, stacklevel=3)
    return result


def _interrupted(result: ResultData) -> str:
    if not result.num_draws:
        return "The run was stopped before its first draw: run it again and let it go on longer."
    return "The run was stopped before its end: these are the draws made by then."


def stray(diverging: int, size: int) -> bool:
    """Return whether so few of `size` draws diverged that it forbids nothing."""
    return STRAY * diverging < size


def _divergences(result: ResultData) -> list[str]:
    diverging = result.sample_stats.get("diverging")
    if diverging is None or stray(int(diverging.sum()), diverging.size):
        return []
    return [
        f"{int(diverging.sum()):,} of {diverging.size:,} draws ended in a divergence, at the edge of a region that "
        "the sampler could not enter, and what lies there is missing: raise target_accept, or let the prior keep away "
        "from it."
    ]


def _tree_limit(result: ResultData) -> list[str]:
    reached = result.sample_stats.get("reached_max_treedepth")
    if reached is None or not reached.mean() > TREE_LIMIT_SHARE:
        return []
    return [
        f"{int(reached.sum()):,} of {reached.size:,} draws reached the limit on the depth of their tree and moved "
        "less than they should: raise max_tree_depth, or give the scales more warm-up."
    ]


def _stuck(result: ResultData) -> list[str]:
    accepted = result.sample_stats.get("accepted")
    if accepted is None:
        return []
    shares = accepted.reshape(len(accepted), -1).mean(axis=1)
    chain = int(np.argmin(shares))
    if shares[chain] >= STUCK_ACCEPTANCE:
        return []
    return [
        f"Chain {chain} accepted {significant(100 * float(shares[chain]))} % of its proposals: it is stuck. Use more "
        "particles, a longer warm-up, or another engine."
    ]


def _diagnostics(result: ResultData) -> list[str]:
    if not result.summaries:
        return []
    if result.points and (found := find_fault_of_weights(result.log_weights, samples(result))):
        return [
            f"The proposal does not cover the posterior ({found.reason}), or that has no moments, and no mean and sd "
            "here can be relied on, nor their error. More points seldom help: use another engine, which compare can "
            "tell the two apart by, or write the model in parameters whose posterior is nearer to a normal law."
        ]
    if (found := fault(result)) is None:
        return []
    unit = "points" if result.points else "draws"
    times = f"about {significant(found.more_draws)} times as many" if np.isfinite(found.more_draws) else f"more {unit}"
    return [f"The {unit} do not represent the posterior well enough ({found.reason}): take {times}."]

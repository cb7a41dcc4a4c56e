"""Can a result be trusted?  One verdict, and each reason why not with what to do about it.

An engine knows what happened while it ran (a pilot that did not reach its target, a restart) and hands over
reasons, `Result.doubts`.  The draws themselves say the rest, whoever made them:

* transitions that diverged (`sample_stats["diverging"]`) left a region that the sampler cannot enter (Betancourt 2017,
  arXiv:1701.02434, section 5.3): said from one draw in `STRAY` on, and a note of NUTS below that;
* a tree at its limit (`sample_stats["reached_max_treedepth"]`) makes draws that depend on each other, not wrong ones:
  said from one in a hundred;
* a random walk (`sample_stats["accepted"]`) that hardly moves in some chain;
* R-hat above 1.01, or fewer than 400 effective draws in the bulk or the tails (Vehtari et al. 2021, section 4);
* weights of which one point has most, or whose tail is so heavy that their errors say little (see `verdicts`), and
  fewer than 400 effective points.

The verdict is *unusable* where nothing is known of the error: no draws, a stuck chain, chains whose R-hat is above 1.1,
weights without a variance.  What else is said makes a result *doubtful*.
"""

from __future__ import annotations

import warnings
from typing import TypeVar

import numpy as np

from ssmscan.health import Condition, Health, Reason, Section
from ssmscan.results.data import ResultData, samples
from ssmscan.results.heavy_tails import NotCompared
from ssmscan.results.table import count, rounded, significant
from ssmscan.results.verdicts import Fault, find_fault, find_fault_of_weights

Of = TypeVar("Of", bound=ResultData)

STRAY = 1000
"""Where fewer than one of so many draws diverged, that is no reason not to trust the rest."""

TREE_LIMIT_SHARE = 0.01
"""Share of the draws whose tree may reach its limit before it is said."""

STUCK_ACCEPTANCE = 0.02
"""Share of accepted proposals below which a chain of a random walk is said to be stuck."""


APART = 1.1
"""R-hat above which chains are in different places: the old limit, by which chains were once let go."""


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


def health(result: ResultData) -> Health:
    """Return whether a result can be used, why not and what to do."""
    found: list[Reason | None] = [_interrupted(result)] if result.interrupted else []
    found += result.doubts
    if result.num_draws:
        found += [_divergences(result), _tree_limit(result), _stuck(result), _diagnostics(result)]
    return Health.of(found, _measured(result) if result.num_draws else ())


def warn_of_concerns(result: Of) -> Of:
    """Warn of the reasons not to trust a result, in one `ResultWarning`; return the result.

    For the end of an engine's `run`: the warning points at the line that called it.  Control-C stops the looking, which
    takes long for thousands of parameters, and loses no draw; nor does a package that is missing.
    """
    try:
        found = health(result)
        text = " ".join(found.sentences)
        text += f" ({found.pointer})" if text and found.pointer else ""
    except KeyboardInterrupt:
        text = "Whether it can be trusted was not found out, since Control-C came: result.health() looks again."
    except ImportError as error:
        text = f"Whether it can be trusted was not found out: {error}."
    if text:
        warnings.warn(f"{result.title}. {text}", ResultWarning, stacklevel=3)
    return result


def _interrupted(result: ResultData) -> Reason:
    if not result.num_draws:
        sentence, remedy = "The run was stopped before its first draw.", "Run it again and let it go on longer."
        return Reason(sentence, remedy, Section.STOPPED, Condition.UNUSABLE)
    sentence, remedy = "The run was stopped before its end: these are the draws made by then.", "Go on by start=result."
    return Reason(sentence, remedy, Section.STOPPED)


def stray(diverging: int, size: int) -> bool:
    """Return whether so few of `size` draws diverged that it forbids nothing."""
    return STRAY * diverging < size


def _divergences(result: ResultData) -> Reason | None:
    diverging = result.sample_stats.get("diverging")
    if diverging is None or stray(int(diverging.sum()), diverging.size):
        return None
    return Reason(
        f"{int(diverging.sum()):,} of {diverging.size:,} draws ended in a divergence, at the edge of a region that "
        "the sampler could not enter, and what lies there is missing.",
        "Raise target_accept, or let the prior keep away from it.",
        Section.DIVERGENCES,
    )


def _tree_limit(result: ResultData) -> Reason | None:
    reached = result.sample_stats.get("reached_max_treedepth")
    if reached is None or not reached.mean() > TREE_LIMIT_SHARE:
        return None
    return Reason(
        f"{int(reached.sum()):,} of {reached.size:,} draws reached the limit on the depth of their tree and moved "
        "less than they should.",
        "Raise max_tree_depth, or give the scales more warm-up, num_warmup.",
        Section.TREES,
    )


def _acceptance(result: ResultData) -> np.ndarray | None:
    """Return the share of the proposals that each chain of a random walk accepted, None for another sampler."""
    accepted = result.sample_stats.get("accepted")
    return None if accepted is None else accepted.reshape(len(accepted), -1).mean(axis=1)


def _stuck(result: ResultData) -> Reason | None:
    shares = _acceptance(result)
    if shares is None or shares.min() >= STUCK_ACCEPTANCE:
        return None
    chain = int(np.argmin(shares))
    return Reason(
        f"Chain {chain} accepted {significant(100 * float(shares[chain]))} % of its proposals: it is stuck.",
        "Use more particles, num_particles, a longer warm-up, num_warmup, or another engine.",
        Section.STICKS,
        Condition.UNUSABLE,
    )


def _diagnostics(result: ResultData) -> Reason | None:
    if not result.summaries:
        return None
    if result.points and (found := find_fault_of_weights(result.log_weights, samples(result))):
        return Reason(
            f"The proposal does not cover the posterior ({found.reason}), or that has no moments, and no mean and sd "
            "here can be relied on, nor their error.",
            "More points seldom help: use another engine, which compare can tell the two apart by, or write the model "
            "in parameters whose posterior is nearer to a normal law.",
            Section.POINTS,
            Condition.UNUSABLE,
        )
    if (found := fault(result)) is None:
        return None
    unit, more = ("points", "num_points") if result.points else ("draws", "num_samples")
    times = f"about {significant(found.more_draws)} times as many" if np.isfinite(found.more_draws) else "more"
    known = all(np.isfinite(s.rhat) for s in result.summaries.values())
    apart = known and not result.points and max(s.rhat for s in result.summaries.values()) > APART
    return Reason(
        f"The {unit} do not represent the posterior well enough ({found.reason}).",
        f"Take {times}, {more}" + ("; chains that stay apart need another engine or start." if apart else "."),
        Section.MIXING,
        Condition.UNUSABLE if apart or not known else Condition.DOUBTFUL,
    )


def _measured(result: ResultData) -> list[tuple[str, str]]:
    """Return the numbers that were looked at, in words."""
    found = []
    if result.summaries:
        rhat, one = max((s.rhat, label) for label, s in result.summaries.items())
        ess, other = min((min(s.ess_bulk, s.ess_tail), label) for label, s in result.summaries.items())
        found += [("largest R-hat", f"{rounded(rhat, 0.01)} ({one})"), ("least ESS", f"{count(ess)} ({other})")]
    for name, words in (("diverging", "divergences"), ("reached_max_treedepth", "trees at their limit")):
        if (stat := result.sample_stats.get(name)) is not None:
            found.append((words, f"{int(stat.sum()):,} of {stat.size:,} draws"))
    if (shares := _acceptance(result)) is not None:
        low, high = (significant(100 * float(x)) for x in (shares.min(), shares.max()))
        found.append(("acceptance", f"{low} to {high} % in {len(shares)} chains"))
    if result.points:
        found.append(("effective points", f"{result.effective_points:,.0f} of {len(result.log_weights):,}"))
        found.append(("tail index of the weights", f"{result.tail_index:.2f}"))
    return found

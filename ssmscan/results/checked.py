"""What a cross-check came to: a verdict in sentences, the looks that led to it, and all that it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

import numpy as np

from ssmscan.results.agreement import Comparison, PairReport
from ssmscan.results.criteria import Tolerances
from ssmscan.results.result import Result
from ssmscan.results.table import MISSING, Table, count, significant, wrapped
from ssmscan.results.verdicts import Difference, Judgement, Verdict


class Look(NamedTuple):
    """One comparison of runs that may grow further.

    Attributes:
        seconds: since the cross-check began.
        draws: engine -> draws by then, of all chains or runs together.
        judgement: that of the pair that decides, see `deciding`.
    """

    seconds: float
    draws: dict[str, int]
    judgement: Judgement


@dataclass(frozen=True, eq=False)
class CrossCheck:
    """The verdict of several engines on one posterior.

    Attributes:
        verdict: *disagree* if a pair of engines does, *agree* if all pairs do, *cannot tell* otherwise.
        sentences: the verdict in words, what the engines share, what to do next.
        comparison: of the results, at the level of a single look; None if some engine has no draws.
        results: engine -> its result, which the engine can go on from.
        looks: the comparisons made, at most six.
    """

    verdict: Verdict
    sentences: tuple[str, ...]
    comparison: Comparison | None
    results: dict[str, Result]
    looks: tuple[Look, ...]

    @property
    def title(self) -> str:
        """The verdict in one line."""
        of = f" of {' and '.join(self.results)}" if self.results else ""
        return f"Cross-check{of}: {self.verdict.value}"

    def __str__(self) -> str:
        said = "\n".join(map(wrapped, (self.title, *self.sentences)))
        return "\n\n".join([said, *(map(str, self.tables()))])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{escape(sentence)}</p>" for sentence in self.sentences)
        return f"<p><b>{escape(self.title)}</b></p>{said}{''.join(table._repr_html_() for table in self.tables())}"

    def to_markdown(self) -> str:
        """Return sentences and tables in Markdown."""
        said = "\n".join(f"- {sentence}" for sentence in self.sentences)
        return "\n\n".join([f"**{self.title}**", said, *(table.to_markdown() for table in self.tables())])

    def tables(self) -> tuple[Table, ...]:
        """Return the tables: looks, and those of the comparison."""
        rows = tuple(
            (str(i + 1), f"{look.seconds:.0f}", *(count(n) for n in look.draws.values()), *_verdict(look.judgement))
            for i, look in enumerate(self.looks)
        )
        if self.comparison is None:
            return ()
        columns = (
            "look",
            "seconds",
            *(f"draws of {name}" for name in self.results),
            "verdict",
            "more draws",
            "because",
        )
        return (Table("Looks, which share the level and the error rate", columns, rows), *self.comparison.tables())


def deciding(comparison: Comparison) -> PairReport:
    """Return the pair that decides: one that disagrees, else the one that needs most draws, else the furthest apart."""

    def rank(pair: PairReport) -> tuple[float, float]:
        factor = pair.judgement.more_draws
        order = {Verdict.DISAGREE: 2, Verdict.CANNOT_TELL: 1, Verdict.AGREE: 0}[pair.verdict]
        return order, (pair.within if pair.verdict is Verdict.AGREE else np.inf if np.isnan(factor) else factor)

    return max(comparison.pairs, key=rank)


def furthest(pair: PairReport, tolerances: Tolerances) -> Difference:
    """Return the difference whose interval reaches furthest, in tolerances."""
    return max(pair.differences, key=lambda d: max(-d.low, d.high) / tolerances.of(d.statistic))


def agreed(pair: PairReport) -> str:
    """Return the sentence of engines that agree."""
    return f"They sample the same posterior as far as it matters: {pair.judgement.reason}."


def disagreed(comparison: Comparison, pair: PairReport) -> tuple[str, ...]:
    """Return the sentences of engines that disagree: where, by how much, and what to look at next."""
    clearest = min(pair.differences, key=lambda d: d.p_value)
    name = clearest.parameter.partition("[")[0]
    doubted = [f"{report.name}: {' '.join(report.concerns)}" for report in comparison.engines if report.concerns]
    return (
        f"{pair.first} and {pair.second} do not sample the same posterior: {pair.judgement.reason}.",
        *doubted,
        f"Look at their densities, ssmscan.plots.posterior(check.results, {name!r}); then run each engine again with "
        "another key: the one that does not agree with itself is at fault. If both do, give them data simulated from "
        "the model, ssm.simulate, whose parameters are known.",
    )


def missed(pair: PairReport, tolerances: Tolerances) -> str:
    """Return the sentence that says by how much the draws miss a verdict."""
    factor = pair.judgement.more_draws
    needed = f" About {significant(factor)} times the draws would settle it." if np.isfinite(factor) else ""
    if any(np.isnan(d.low) for d in pair.differences):
        return f"The draws deserve no verdict yet: {pair.judgement.reason}.{needed}"
    worst = furthest(pair, tolerances)
    return (
        f"The interval of {worst}, {pair.title}, is [{worst.low:+.2f}, {worst.high:+.2f}] sd where "
        f"±{tolerances.of(worst.statistic):g} is asked for.{needed}"
    )


def total_draws(results: Mapping[str, Result]) -> dict[str, int]:
    """Return the draws of each result, or its weighted points."""
    return {name: len(r.log_weights) or r.num_chains * r.num_draws for name, r in results.items()}


def _verdict(judgement: Judgement) -> tuple[str, str, str]:
    cannot = judgement.verdict is Verdict.CANNOT_TELL
    return judgement.verdict.value, f"x{significant(judgement.more_draws)}" if cannot else MISSING, judgement.reason

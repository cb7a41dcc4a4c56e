"""Do engines agree, and what did each cost?

`compare` puts results of different engines for the same parameters side by side.  Nothing is averaged over
parameters, nothing is judged by eye: each pair of engines gets one of three verdicts (see `verdicts`), an
engine that has not converged gets none, and the printed tables hold what the verdict rests on.

An engine's efficiency is its smallest bulk ESS over the seconds of warm-up and sampling; compilation, which
does not grow with the draws, stands beside it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ssmscan.results import health
from ssmscan.results.comparable import different_states, named_alike, require_comparable
from ssmscan.results.criteria import DEFAULT, Criteria, Tolerances, require_criteria
from ssmscan.results.data import Costs, samples
from ssmscan.results.heavy_tails import sentences, without_moments
from ssmscan.results.printing import evidence, moments, quality
from ssmscan.results.result import Result
from ssmscan.results.summary import STATISTICS, TAILS, ScalarSummary
from ssmscan.results.table import MISSING, Table, count, significant
from ssmscan.results.verdicts import (
    Difference,
    Fault,
    Judgement,
    Verdict,
    differences,
    judge,
    no_verdict,
    wasserstein,
    with_intervals,
)


class EngineReport(NamedTuple):
    """One engine of a comparison.

    Attributes:
        name: the name it was given in `compare`.
        engine: the method.
        size: chains or runs, and draws in each, or points and how many are effective, in words.
        summaries: label of each scalar parameter -> what its draws say.
        costs: what the run cost.
        smallest_ess: the smallest bulk ESS over the parameters.
        ess_per_second: smallest bulk ESS over warm-up and sampling seconds.
        log_evidence: estimate and standard error, None where not given.
        fault: why its draws deserve no verdict, None where they do.
        concerns: why its result cannot be trusted as it is, in sentences.
    """

    name: str
    engine: str
    size: str
    summaries: dict[str, ScalarSummary]
    costs: Costs
    smallest_ess: float
    ess_per_second: float
    log_evidence: tuple[float, float | None] | None
    fault: Fault | None
    concerns: tuple[str, ...]


class PairReport(NamedTuple):
    """Two engines of a comparison.

    Attributes:
        first, second: names of the engines; differences are first minus second.
        judgement: verdict, reason, and how many times the draws would settle it.
        differences: one for each scalar parameter and statistic.
        wasserstein: label -> (distance, distance expected of two samples from one law), in posterior sds.
    """

    first: str
    second: str
    judgement: Judgement
    differences: tuple[Difference, ...]
    wasserstein: dict[str, tuple[float, float]]

    @property
    def title(self) -> str:
        """The two names, as the tables show them."""
        return f"{self.first} - {self.second}"

    @property
    def within(self) -> float:
        """Largest difference that the intervals leave open, in posterior sds; nan where no verdict is given."""
        return float(np.max([d.reach for d in self.differences]))

    @property
    def verdict(self) -> Verdict:
        """The verdict alone."""
        return self.judgement.verdict


@dataclass(frozen=True)
class Comparison:
    """Engines, pairs of them, and the tables that `print` shows.

    Attributes:
        engines: one report an engine, in the order given.
        pairs: one report a pair.
        notes: what else is to be known before the verdicts are believed, in sentences.
        criteria: what the verdicts rest on.
    """

    engines: tuple[EngineReport, ...]
    pairs: tuple[PairReport, ...]
    notes: tuple[str, ...] = ()
    criteria: Criteria = DEFAULT

    def tables(self) -> tuple[Table, ...]:
        """Return the tables: verdicts, differences, parameters, costs."""
        return (self._verdicts(), self._differences(), self._parameters(), self._costs())

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.tables()))

    def to_markdown(self) -> str:
        """Return all tables in Markdown."""
        return "\n\n".join(table.to_markdown() for table in self.tables())

    def _repr_html_(self) -> str:
        return "".join(table._repr_html_() for table in self.tables())

    def __repr__(self) -> str:
        return str(self)

    def _verdicts(self) -> Table:
        rows = []
        for pair in self.pairs:
            verdict, reason, factor = pair.judgement
            draws = f"x{significant(factor)}" if verdict is Verdict.CANNOT_TELL else MISSING
            rows.append((pair.title, verdict.value, _reach(pair), draws, reason))
        title = f"Verdicts: {self.criteria}, cannot tell = more draws needed, equal within = reach of intervals"
        concerns = [f"{report.name}: {' '.join(report.concerns)}" for report in self.engines if report.concerns]
        columns = ("pair", "verdict", "equal within", "more draws", "because")
        return Table(title, columns, tuple(rows), labels=5, notes=(*self.notes, *concerns))

    def _differences(self) -> Table:
        rows = []
        for pair in self.pairs:
            for label, distances in pair.wasserstein.items():
                found = {d.statistic: d.estimate for d in pair.differences if d.parameter == label}
                cells = [
                    f"{e.value:+.3f} ± {significant(e.error)}" if (e := found.get(statistic)) else MISSING
                    for statistic in STATISTICS
                ]
                rows.append((pair.title, label, *cells, *map(significant, distances)))
        columns = ("pair", "parameter", *STATISTICS, "W1", "W1 if equal")
        return Table("Differences in posterior sds, ± one standard error", columns, tuple(rows), labels=2)

    def _parameters(self) -> Table:
        rows = [
            (label, report.name, *moments(report.summaries[label]), *quality(report.summaries[label]))
            for label in self.engines[0].summaries
            for report in self.engines
        ]
        columns = ("parameter", "engine", *STATISTICS, "MCSE", "bulk ESS", "tail ESS", "R-hat")
        return Table("Parameters", columns, tuple(rows), labels=2)

    def _costs(self) -> Table:
        rows = []
        for report in self.engines:
            costs = report.costs
            seconds = (costs.compile_seconds, costs.warmup_seconds, costs.run_seconds)
            work = (costs.particle_steps, costs.gradient_evaluations)
            rows.append(
                (
                    report.name,
                    report.size,
                    *(significant(s, 3) for s in seconds),
                    *(count(w) if w else MISSING for w in work),
                    count(report.smallest_ess),
                    significant(report.ess_per_second),
                    MISSING if report.log_evidence is None else evidence(*report.log_evidence),
                )
            )
        columns = (
            "engine", "draws", "compile s", "warm-up s", "sampling s", "particle-steps", "gradients",
            "least bulk ESS", "ESS/s", "log evidence",
        )  # fmt: skip
        title = "Costs: ESS/s is the least bulk ESS over warm-up and sampling, compilation apart"
        return Table(title, columns, tuple(rows), labels=2)


def compare(
    *unnamed: Any,
    tolerances: Tolerances = DEFAULT.tolerances,
    level: float = DEFAULT.level,
    significance: float = DEFAULT.significance,
    **results: Result,
) -> Comparison:
    """Compare engines that sampled the same parameters.

    Example:
        >>> import jax, ssmscan
        >>> from ssmscan import datasets
        >>> from ssmscan.stochastic_volatility import stochastic_volatility
        >>> ssm = ssmscan.trace(stochastic_volatility, datasets.gbpusd().values[:50])
        >>> nuts = ssmscan.NUTS(num_warmup=500, progress=False).run(jax.random.key(0), ssm)
        >>> sampler = ssmscan.ImportanceSampler(num_paths=100, progress=False)
        >>> print(ssmscan.compare(nuts=nuts, importance=sampler.run(jax.random.key(1), ssm)))
        Verdicts: ...nuts - importance...

    Args:
        unnamed: nothing; a result without a name is refused.
        tolerances: differences that do not matter, by statistic, in posterior sds.
        level: simultaneous level of the intervals that have to lie within them for *agree*.
        significance: Holm-adjusted p value below which a difference beyond them makes *disagree*.
        results: name -> result, at least two, as in ``compare(nuts=..., pmmh=...)``.

    Returns:
        The comparison; ``print`` shows it, ``to_markdown`` is for documents.

    Raises:
        TypeError: if something is not a `Result`, or has no name.
        ValueError: if there are fewer than two, one has no draws, two hold the same draws, or they sampled different
            parameters or were given different data; if a tolerance is not positive or a level not between 0 and 1.
    """
    criteria = require_criteria(tolerances, level, significance)
    require_comparable(unnamed, results)
    results = named_alike(results)
    values = {name: samples(result) for name, result in results.items()}
    summaries = {name: result.summaries for name, result in results.items()}
    heavy = without_moments(results)
    faults = {name: fault for name, result in results.items() if (fault := health.fault(result, heavy))}
    pairs = list(itertools.combinations(results, 2))
    raw = {pair: differences(summaries[pair[0]], summaries[pair[1]], heavy) for pair in pairs}
    fit = [pair for pair in pairs if faults.keys().isdisjoint(pair)]
    family = with_intervals([d for pair in fit for d in raw[pair]], criteria)
    judged = iter(family)
    reports = []
    for pair in pairs:
        if pair in fit:
            own = tuple(itertools.islice(judged, len(raw[pair])))
            judgement = judge(own, len(family), criteria)
        else:
            own = raw[pair]
            judgement = no_verdict(own, {name: faults[name] for name in pair if name in faults}, criteria)
        (one, x), (other, y) = ((summaries[name], values[name]) for name in pair)
        distances = {label: wasserstein(x[label], y[label], one[label], other[label]) for label in x}
        reports.append(PairReport(*pair, judgement, own, distances))
    engines = tuple(_engine_report(name, result, summaries[name], faults.get(name)) for name, result in results.items())
    return Comparison(engines, tuple(reports), (*different_states(results), *sentences(heavy, results)), criteria)


def _reach(pair: PairReport) -> str:
    """Return how far the intervals of a pair reach, tail quantiles apart since their tolerance is."""
    if np.isnan(pair.within):
        return MISSING
    tails, rest = ([d.reach for d in pair.differences if (d.statistic in TAILS) is kind] for kind in (True, False))
    return f"{max(rest):.2f} sd, 5 and 95 % {max(tails):.2f} sd"


def _engine_report(name: str, result: Result, summaries: dict[str, ScalarSummary], fault: Fault | None) -> EngineReport:
    seconds = result.costs.warmup_seconds + result.costs.run_seconds
    smallest = min(s.ess_bulk for s in summaries.values())
    estimate = None if result.log_evidence is None else (result.log_evidence, result.log_evidence_error)
    size = f"{result.num_chains} {'runs' if result.independent_runs else 'chains'} x {result.num_draws}"
    if result.points:
        size = f"{len(result.log_weights)} points, {result.effective_points:.0f} effective"
    return EngineReport(
        name=name,
        engine=result.engine,
        size=f"{size}, interrupted" if result.interrupted else size,
        summaries=summaries,
        costs=result.costs,
        smallest_ess=smallest,
        ess_per_second=smallest / seconds if seconds > 0.0 else float("nan"),
        log_evidence=estimate,
        fault=fault,
        concerns=result.concerns(),
    )

"""A result as people look at it: about ten lines, the verdict first and the reasons for it last, where the eye ends.

What is long is counted instead: parameters beyond a handful, settings of settings, the shapes of arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from ssmscan.health import Health
from ssmscan.results.data import ResultData
from ssmscan.results.summary import STATISTICS, ScalarSummary
from ssmscan.results.table import Table, count, rounded, significant, wrapped

FEW = 6
"""As many scalar parameters are shown with their moments; more are counted."""

DOUBTS = "It cannot be trusted as it is:"
ADVICE = "It can be used, and this is worth a thought:"
_LABEL = 12
# what the title says, and what no draw depends on
_UNSHOWN = ("type", "num_samples", "num_points", "num_chains", "num_runs", "progress")


def text(result: ResultData, health: Health) -> str:
    """Return a result in plain text."""
    lines = [result.title]
    facts = [("health", health.line), *_facts(result)]
    lines += [wrapped(f"{label:{_LABEL}}{words}", " " * _LABEL) for label, words in facts]
    if (table := _parameters(result)) is not None:
        lines += ["", table.grid()]
    for heading, sentences in ((DOUBTS, health.sentences), (ADVICE, health.advice)):
        if sentences:
            lines += ["", heading, *(wrapped(f"- {sentence}") for sentence in sentences)]
    return "\n".join(lines)


def html(result: ResultData, health: Health) -> str:
    """Return a result for a notebook."""
    rows = [("health", health.line), *_facts(result)]
    facts = "".join(f"<tr><td>{label}</td><td>{escape(words)}</td></tr>" for label, words in rows)
    table = _parameters(result)
    shown = f"<p><b>{escape(result.title)}</b></p><table>{facts}</table>{'' if table is None else table.grid_html()}"
    for heading, sentences in ((DOUBTS, health.sentences), (ADVICE, health.advice)):
        if sentences:
            shown += f"<p>{heading}</p><ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"
    return shown


def evidence(value: float, error: float | None) -> str:
    """Print an estimate of the log evidence with its standard error, if it is known."""
    return significant(value, 6) if error is None else f"{rounded(value, error)} ± {significant(error)}"


def moments(s: ScalarSummary) -> tuple[str, ...]:
    """Print the statistics of one scalar, and the error of the mean."""
    return (*(rounded(e.value, e.error) for e in s.statistics), significant(s.mean.error))


def quality(s: ScalarSummary) -> tuple[str, str, str]:
    """Print bulk ESS, tail ESS and R-hat of one scalar."""
    return count(s.ess_bulk), count(s.ess_tail), rounded(s.rhat, 0.01)


def parameters(result: ResultData, notes: tuple[str, ...] = ()) -> Table:
    """Return the table of every scalar parameter; see `Result.summary`."""
    rows = [
        (
            label,
            *moments(s),
            significant(s.mean.half_width(0.95)),
            *quality(s),
        )
        for label, s in result.summaries.items()
    ]
    columns = ("parameter", *STATISTICS, "MCSE", "± 95 %", "bulk ESS", "tail ESS", "R-hat")
    return Table(result.title, columns, tuple(rows), notes=notes)


def _facts(result: ResultData) -> list[tuple[str, str]]:
    """Return what there is to say apart from the parameters: a label and words."""
    facts = [("took", _costs(result))]
    if result.log_evidence is not None:
        facts.append(("evidence", f"log evidence {evidence(result.log_evidence, result.log_evidence_error)}"))
    facts += [("settings", settings)] if (settings := _settings(result.settings)) else []
    facts += [("data", ", ".join(map(_array, result.observed.items())))] if result.observed else []
    facts += [("states", _states(result))] if result.states else []
    computed = [_array((name, values[0, 0])) for name, values in result.deterministics.items() if values.size]
    facts += [("computed", ", ".join(computed))] if computed else []
    if result.num_draws and not _few(result):
        facts.append(("parameters", _counted(result)))
    return facts + [("note", note) for note in result.notes]


def _costs(result: ResultData) -> str:
    costs = result.costs
    seconds = [(costs.warmup_seconds, "warm-up"), (costs.run_seconds, "sampling"), (costs.compile_seconds, "compiling")]
    work = [(costs.particle_steps, "particle steps"), (costs.gradient_evaluations, "gradients")]
    spent = [f"{significant(value)} s {what}" for value, what in seconds if value]
    done = [f"{value:,} {what}" if value < 1e6 else f"{value:.2g} {what}" for value, what in work if value]
    return ", ".join([*spent, *done])


def _settings(settings: Mapping[str, Any]) -> str:
    """Return the settings in brief: numbers as they are, parts by their type and numbers, their parts by their type."""
    told = {name: value for name, value in settings.items() if name not in _UNSHOWN}
    if "used" in told and told["used"] in [value for name, value in told.items() if name != "used"]:
        del told["used"]
    return ", ".join(f"{name}={_brief(value)}" for name, value in told.items() if value not in (None, [], {}, ""))


def _brief(value: Any, depth: int = 1) -> str:
    if isinstance(value, dict):
        inside = {k: v for k, v in value.items() if k != "type" and v not in (None, [], {}, "")}
        shown = [f"{k}={_brief(v, depth - 1)}" for k, v in inside.items()] if depth else []
        return f"{value.get('type', '')}({', '.join(shown)})"
    if isinstance(value, list):
        return f"[{', '.join(_brief(v, 0) for v in value[:3])}{', ...' if len(value) > 3 else ''}]"
    return f"{value:g}" if isinstance(value, float) else str(value)[:60]


def _states(result: ResultData) -> str:
    shapes = ", ".join(_array((name, values[0, 0])) for name, values in result.states.items() if values.size)
    paths = len(result.state_draws)
    each = "" if result.points else f" in each {'run' if result.independent_runs else 'chain'}"
    return f"{shapes or ', '.join(result.states)}: {count(paths)} {'path' if paths == 1 else 'paths'}{each}"


def _array(item: tuple[str, np.ndarray]) -> str:
    name, values = item
    return f"{name} {values.shape}" if values.ndim else name


def _few(result: ResultData) -> bool:
    return _num_scalars(result) <= FEW


def _num_scalars(result: ResultData) -> int:
    return sum(int(np.prod(values.shape[2:])) for values in result.draws.values())


def _counted(result: ResultData) -> str:
    shapes = ", ".join(f"{name} {x.shape[2:]}" if x.ndim > 2 else name for name, x in result.draws.items())
    shapes = shapes if len(shapes) < 200 else f"{shapes[:200]} ..."
    by_ess = [(s.ess_bulk, label) for label, s in result.summaries.items() if np.isfinite(s.ess_bulk)]
    by_rhat = [(s.rhat, label) for label, s in result.summaries.items() if np.isfinite(s.rhat)]
    worst = ""
    if by_ess and by_rhat:
        (ess, one), (rhat, other) = min(by_ess), max(by_rhat)
        worst = f"; least bulk ESS {count(ess)} ({one}), largest R-hat {rounded(rhat, 0.01)} ({other})"
    return f"{_num_scalars(result):,} scalars, of {shapes}{worst}; print(result.summary()) shows all"


def _parameters(result: ResultData) -> Table | None:
    """Return the table of a handful of parameters, None if there are none or more."""
    return parameters(result) if result.num_draws and result.draws and _few(result) else None

"""Whether what was found can be used: one verdict, and reasons to act on.

A `Reason` is made where a fault is seen, by a filter or by an engine, and says what was seen and what to do about it.
A `Health` puts the reasons of one result together: its verdict is the gravest of theirs, and it has the numbers that
were looked at, so that a sound result says what it was found sound by.

Every reason names a heading of ``docs/when_it_goes_wrong.md``, where the symptom is explained, confirmed by a few lines
of code, and cured.
"""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

PAGE = "docs/when_it_goes_wrong.md"
_WIDTH = 100


class Condition(enum.StrEnum):
    """What a result can be used for.

    SOUND: nothing that was looked at speaks against it.  DOUBTFUL: its numbers are worse than their errors say.
    UNUSABLE: its numbers are not of the model and data that were given, or nothing is known of their error.
    """

    SOUND = "sound"
    DOUBTFUL = "doubtful"
    UNUSABLE = "unusable"

    @property
    def gravity(self) -> int:
        """0 for sound, and more for what is worse."""
        return list(Condition).index(self)


class Section(enum.StrEnum):
    """The headings of the page on what goes wrong."""

    STARVES = "The filter starves"
    VANISHED = "Every particle has weight zero"
    NOT_NUMBERS = "Log weights are not numbers"
    HEAVY_TAILS = "A proposal that looks ahead misses a mode"
    PATHS = "Paths are missing or share their past"
    NOISE = "Choosing the number of particles"
    WIDE_PRIOR = "The prior is too wide for a filter"
    STICKS = "PMMH sticks"
    DIVERGENCES = "Divergences and target_accept"
    TREES = "Trees reach their limit"
    MIXING = "R-hat and effective sample sizes"
    EDGE = "The posterior lies at an edge"
    POINTS = "The proposal does not cover the posterior"
    COLLAPSE = "A cloud of parameters collapses"
    FEW_RUNS = "Too few runs"
    STILL = "Particle Gibbs stands still"
    MAXIMUM = "The maximum was not reached"
    STOPPED = "The run was stopped"

    @property
    def anchor(self) -> str:
        """The heading as it ends a link."""
        return self.value.lower().replace(" ", "-")


class Reason(NamedTuple):
    """A reason not to trust a result as it is.

    Attributes:
        sentence: what was seen: the number, and when and where.
        remedy: what to do about it; empty if nothing can be said.
        section: where to read about it; None for a reason that is not one of this package.
        verdict: how grave it is by itself; sound for advice on a result that can be used as it is.
    """

    sentence: str
    remedy: str = ""
    section: Section | None = None
    verdict: Condition = Condition.DOUBTFUL

    def __str__(self) -> str:
        return f"{self.sentence} {self.remedy}".rstrip()

    def about(self, prefix: str) -> Reason:
        """Return the same reason, its sentence after the name of the part that it is about."""
        return self._replace(sentence=f"{prefix}: {self.sentence}")


@dataclass(frozen=True, repr=False)
class Health:
    """Whether a result can be used.

    Attributes:
        verdict: the gravest of its reasons', `Condition.SOUND` without any.
        reasons: why not, the gravest first.
        measured: (name, value) of each number that was looked at, in words.
    """

    verdict: Condition
    reasons: tuple[Reason, ...]
    measured: tuple[tuple[str, str], ...]

    @staticmethod
    def of(reasons: Iterable[Reason | None], measured: Iterable[tuple[str, str]] = ()) -> Health:
        """Put reasons together, the gravest first, without those that are None, and advice on what is unusable."""
        found = sorted((reason for reason in reasons if reason), key=lambda reason: -reason.verdict.gravity)
        verdict = found[0].verdict if found else Condition.SOUND
        if verdict is Condition.UNUSABLE:
            found = [reason for reason in found if reason.verdict is not Condition.SOUND]
        return Health(verdict, tuple(found), tuple(measured))

    @property
    def sentences(self) -> tuple[str, ...]:
        """Each reason not to trust the result with its remedy, as one text."""
        return tuple(str(reason) for reason in self.reasons if reason.verdict is not Condition.SOUND)

    @property
    def advice(self) -> tuple[str, ...]:
        """What is worth a thought though the result can be used, a text each."""
        return tuple(str(reason) for reason in self.reasons if reason.verdict is Condition.SOUND)

    @property
    def headings(self) -> tuple[str, ...]:
        """The headings of the page that the reasons name, each once."""
        return tuple(dict.fromkeys(reason.section.value for reason in self.reasons if reason.section))

    @property
    def line(self) -> str:
        """The verdict, and where to read about its reasons, in one line."""
        if not self.reasons:
            return f"{self.verdict.value}: nothing speaks against it"
        return f"{self.verdict.value}: {self.pointer or self.reasons[0].sentence}"

    @property
    def pointer(self) -> str:
        """Where to read about the reasons; empty without any."""
        return f"see {PAGE}, {'; '.join(self.headings)}" if self.headings else ""

    def __repr__(self) -> str:
        lines = [f"Health: {self.verdict.value}"]
        for reason in self.reasons:
            lines += textwrap.wrap(f"- {reason}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        lines += [self.pointer] if self.pointer else []
        width = max((len(name) for name, _ in self.measured), default=0)
        return "\n".join([*lines, *(f"  {name:{width}}  {value}" for name, value in self.measured)])

    def _repr_html_(self) -> str:
        reasons = "".join(f"<li>{escape(str(reason))}</li>" for reason in self.reasons)
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self.measured)
        below = f"<p>{escape(self.pointer)}</p>" if self.pointer else ""
        return f"<div><strong>Health: {self.verdict.value}</strong><ul>{reasons}</ul>{below}<table>{rows}</table></div>"


def as_reasons(field: str, values: Any) -> tuple[Reason, ...]:
    """Return reasons, or what a file gives back of them; a text is the sentence of a reason of one's own.

    Raises:
        TypeError: if they are neither.
    """
    if not isinstance(values, (tuple, list)) or isinstance(values, Reason):
        raise TypeError(f"{field} of a Result must be text or reasons, got {values!r}")
    return tuple(_reason(field, value) for value in values)


def _reason(field: str, value: Any) -> Reason:
    if isinstance(value, str):
        return Reason(value)
    if isinstance(value, (tuple, list)) and len(value) == len(Reason._fields):
        sentence, remedy, section, verdict = value
        sections, verdicts = [None, *Section], list(Condition)
        if isinstance(sentence, str) and isinstance(remedy, str) and section in sections and verdict in verdicts:
            return Reason(sentence, remedy, Section(section) if section else None, Condition(verdict))
    raise TypeError(f"{field} of a Result must be text or reasons, got {value!r}")

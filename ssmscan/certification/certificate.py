"""What a certificate says: one finding for each check, with what it tested, what it found, and what it could have seen.

A check that passes says little unless it could have failed, so every finding states its power: the smallest fault
that it would have seen with probability `POWER`.  All checks together raise a false alarm with probability
`ERROR_RATE` at most (Bonferroni over checks, and over the comparisons of each).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from ssmscan.results.checked import CrossCheck
from ssmscan.results.table import MISSING, Table, significant
from ssmscan.results.uniformity import Band

ERROR_RATE = 1e-4
"""Probability that a certificate of a sound model has a failed check, over all its checks."""

POWER = 0.9
"""Probability with which the smallest visible fault is seen."""


class Outcome(Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "FAILED"
    UNDECIDED = "not decided"
    SKIPPED = "does not apply"


class Finding(NamedTuple):
    """One check of a certificate.

    Attributes:
        check: its name.
        outcome: how it ended.
        tested: what was compared with what, a sentence.
        statistic: the largest statistic that was found, nan where there is none.
        threshold: what it may be.
        of: what the statistic is, such as "|z| of 12 means".
        power: the smallest fault that it would have seen with probability `POWER`, a clause; empty where it ran not.
        advice: why it failed, was not decided or does not apply, and what to do; empty where it passed.
        seconds: time it took, compilation left out.
        compile_seconds: compilation.
    """

    check: str
    outcome: Outcome
    tested: str
    statistic: float = np.nan
    threshold: float = np.nan
    of: str = ""
    power: str = ""
    advice: str = ""
    seconds: float = 0.0
    compile_seconds: float = 0.0

    @property
    def row(self) -> tuple[str, ...]:
        """The finding as a row of the table."""
        return (
            self.check,
            self.outcome.value,
            self.of or MISSING,
            significant(self.statistic, 3),
            significant(self.threshold, 3),
            self.power or MISSING,
            f"{self.seconds:.1f}",
            f"{self.compile_seconds:.1f}",
        )


class Calibration(NamedTuple):
    """Simulation-based calibration: where the parameters that made the data lie in their posteriors.

    Attributes:
        names: what was ranked, such as "phi" or "log likelihood".
        positions: (replicates, names) probability that the posterior gives to values below the true one, in [0, 1].
        points: (grid,) where the empirical distribution functions are taken.
        differences: (names, grid) empirical distribution function of the positions less that of a uniform.
        bands: simultaneous band of a uniform sample around zero, at the level of `certify` for each name.
        effective: (replicates,) effective number of points of each posterior.
    """

    names: tuple[str, ...]
    positions: np.ndarray
    points: np.ndarray
    differences: np.ndarray
    bands: Band
    effective: np.ndarray

    @property
    def outside(self) -> tuple[str, ...]:
        """Names whose difference leaves the band."""
        lower, upper = self.bands.lower, self.bands.upper
        left = np.any((self.differences < lower) | (self.differences > upper), axis=1)
        return tuple(name for name, out in zip(self.names, left.tolist()) if out)


@dataclass(frozen=True, eq=False, repr=False)
class Certificate:
    """What `ssmscan.certify` found.  It is true, as a condition, where it has passed.

    Attributes:
        findings: one for each check, in the order in which they ran.
        description: the model and how much of it the checks by simulation saw, a sentence.
        calibration: positions, distribution functions and bands; None where calibration was not asked for.
        agreement: the cross-check on the data of the model; None where it did not run.
        seconds: wall time in all.
        interrupted: whether Control-C or time ended it before its last check.
    """

    findings: tuple[Finding, ...]
    description: str
    calibration: Calibration | None = None
    agreement: CrossCheck | None = None
    seconds: float = 0.0
    interrupted: bool = False

    def __bool__(self) -> bool:
        return self.passed

    @property
    def passed(self) -> bool:
        """Whether no check failed, and one passed at least."""
        return not self.failed and any(f.outcome is Outcome.PASSED for f in self.findings)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(f.check for f in self.findings if f.outcome is Outcome.FAILED)

    @property
    def compile_seconds(self) -> float:
        """Compilation of all checks."""
        return sum(f.compile_seconds for f in self.findings)

    @property
    def title(self) -> str:
        """The certificate in one line."""
        counts = {o: sum(f.outcome is o for f in self.findings) for o in Outcome}
        verdict = "sound as far as was tested" if self.passed else f"failed: {', '.join(self.failed)}"
        if not self.passed and not self.failed:
            verdict = "nothing was tested"
        said = ", ".join(f"{number} {outcome.value.lower()}" for outcome, number in counts.items() if number)
        stopped = "; stopped before its end" if self.interrupted else ""
        time = f"{self.seconds:.0f} s, of which {self.compile_seconds:.0f} s compilation"
        return f"Certificate: {verdict} ({said or 'no check ran'}; {time}{stopped})"

    def table(self) -> Table:
        """Return the table: a row for each check, and below it what was tested and what to do."""
        columns = (
            "check",
            "outcome",
            "statistic",
            "found",
            "at most",
            f"seen with probability {POWER:g}",
            "s",
            "comp.",
        )
        notes = [self.description]
        notes += [f"{f.check}: {f.tested}{f' {f.advice}' if f.advice else ''}" for f in self.findings]
        notes.append(
            f"A sound model fails one of these checks with probability {ERROR_RATE:g} at most. s: seconds without "
            "compilation; comp.: seconds of compilation."
        )
        return Table(self.title, columns, tuple(f.row for f in self.findings), labels=3, notes=tuple(notes))

    def __str__(self) -> str:
        return str(self.table())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def to_markdown(self) -> str:
        """Return the table in Markdown."""
        return self.table().to_markdown()


def z_threshold(num_comparisons: int, error_rate: float) -> float:
    """Return the two-sided normal threshold that a family of comparisons exceeds with probability `error_rate`."""
    return -float(ndtri(error_rate / (2 * max(num_comparisons, 1))))


def visible(standard_error: float | np.ndarray, threshold: float) -> float | np.ndarray:
    """Return the difference that is seen with probability `POWER`: the threshold and a quantile, in standard errors."""
    return standard_error * (threshold + float(ndtri(POWER)))

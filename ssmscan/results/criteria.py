"""What counts as agreement: how large a difference matters, and how sure a verdict has to be.

A tolerance is in posterior sds and belongs to a statistic.  Tail quantiles have twice that of the others: they are the
hardest to estimate, with an effective ten thousand draws for ±0.15 sd, and the least that a conclusion rests on.

Whoever looks more than once at runs that grow spends the level and the significance over the looks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ssmscan.arguments import require_instance, require_number
from ssmscan.results.summary import STATISTICS

LARGEST_TOLERANCE = 10.0
"""Ten posterior sds, beyond which no difference is ever seen."""


class Tolerances(NamedTuple):
    """Differences that do not matter, in posterior sds.

    Attributes:
        mean: of the mean.
        sd: of the standard deviation; .15 is 15 %.
        median: of the median.
        quantiles: of the 5 and 95 % quantiles.
    """

    mean: float = 0.15
    sd: float = 0.15
    median: float = 0.15
    quantiles: float = 0.30

    def of(self, statistic: str) -> float:
        """Return the tolerance of one of `STATISTICS`."""
        return dict(zip(STATISTICS, (self.mean, self.sd, self.quantiles, self.median, self.quantiles)))[statistic]

    def __str__(self) -> str:
        named: dict[float, list[str]] = {}
        for name, value in zip(("mean", "sd", "median", "5 and 95 % quantiles"), self):
            named.setdefault(value, []).append(name)
        return " and ".join(f"±{value:g} sd ({', '.join(names)})" for value, names in named.items())


class Criteria(NamedTuple):
    """What a verdict rests on.

    Attributes:
        tolerances: differences that do not matter.
        level: simultaneous level of the intervals that have to lie within them for *agree*.
        significance: Holm-adjusted p value below which a difference beyond them is real, for *disagree*.
    """

    tolerances: Tolerances = Tolerances()
    level: float = 0.99
    significance: float = 0.001

    def __str__(self) -> str:
        return (
            f"agree = {100 * self.level:.6g} % simultaneous intervals within {self.tolerances}, "
            f"disagree = beyond it with Holm p < {self.significance:.3g}"
        )


DEFAULT = Criteria()
"""What `compare` asks unless it is told otherwise."""


def require_criteria(tolerances: Any, level: Any, significance: Any) -> Criteria:
    """Return the criteria of a comparison.

    Raises:
        TypeError: if one is of the wrong type.
        ValueError: if a tolerance is not positive, or a level not between 0 and 1.
    """
    advice = "as in compare(tolerances=ssmscan.Tolerances(mean=0.1), nuts=..., pmmh=...)"
    require_instance("tolerances", tolerances, Tolerances, "ssmscan.Tolerances", advice)
    numbers = [require_number(f"tolerances.{k}", v, 0.0, LARGEST_TOLERANCE) for k, v in tolerances._asdict().items()]
    return Criteria(
        Tolerances(*numbers),
        require_number("level", level, 0.0, 1.0),
        require_number("significance", significance, 0.0, 1.0),
    )

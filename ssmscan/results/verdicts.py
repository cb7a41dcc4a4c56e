r"""When two samples of one posterior agree: differences, their intervals, and three verdicts.

For a parameter sampled twice, each of mean, sd and the 5, 50 and 95 % quantiles gives a difference in
posterior sds, :math:`d = (a - b)/s` with :math:`s^2 = (s_a^2 + s_b^2)/2`, whose error joins the two
simulation errors, :math:`e^2 = (e_a^2 + e_b^2)/s^2`, with Welch's degrees of freedom.  K such differences
are judged together, all parameters, statistics and pairs of a comparison:

* *agree*: all K intervals of one simultaneous level (Bonferroni) lie within the tolerances of their statistics.  This
  is a statement about size: a difference may be real and too small to matter, and is then named.
* *disagree*: a difference that is itself beyond its tolerance is not zero, with a small p value after Holm's correction
  (Holm 1979, Scandinavian Journal of Statistics 6, p. 67).  One that is real and small is not worth it.
* *cannot tell*: neither.  The draws are too few, and the factor by which says how many are needed.

Tolerances, level and significance are `Criteria`, an argument of every function that judges.

The distance between the two distribution functions, which no list of statistics exhausts, is Wasserstein's
:math:`W_1 = \int |F_a - F_b|`.  It is positive for any two samples.  If both are from one law with
distribution function F, then :math:`F_a - F_b` at x is nearly normal with variance
:math:`F(1-F)(1/S_a + 1/S_b)`, :math:`S` the effective sample size of the indicator, and

.. math:: E\,W_1 = \sqrt{2/\pi} \int \sqrt{F(1-F)\,(1/S_a + 1/S_b)}\; dx,

the null value printed beside it (for independent draws: del Barrio, Gine & Matran 1999, Annals of
Probability 27, p. 1014).

Weighted points have these distribution functions and effective sizes too.  What they may lack is a variance: their
weights have a Pareto tail of index k, estimated by k-hat, and errors from the weights cannot be relied on where it is
above :math:`\min(1 - 1/\log_{10} S, \, 0.7)`, S the number of points (Vehtari, Simpson, Gelman, Yao & Gabry 2024, JMLR
25(72), section 3).  An average of h has the tail of :math:`w h`, so the same is asked of the weights times the squared
deviations of each parameter: a proposal with tails that are too light hides it from the weights alone.  Where the sd is
not compared (`heavy_tails`) it is asked of the deviations, for the mean, and where that is not, of the weights alone.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from ssmscan.results.criteria import Criteria
from ssmscan.results.heavy_tails import NotCompared, exceeds, limit_of, quantile_sd, weighted_tail
from ssmscan.results.summary import PROBABILITIES, STATISTICS, Estimate, Sample, ScalarSummary
from ssmscan.results.weighted import effective_number, normalised
from ssmscan.tail_index import tail_index

MAXIMUM_RHAT = 1.01
MINIMUM_ESS = 400.0

MAXIMUM_SHARE = 0.5
"""Share of the weight that one point may have."""

_POWER = 0.9
_FEW_DEGREES = 15.0


class Verdict(enum.Enum):
    """What a comparison of two engines says."""

    AGREE = "agree"
    DISAGREE = "disagree"
    CANNOT_TELL = "cannot tell"


class Difference(NamedTuple):
    """First minus second engine in one statistic of one parameter, in posterior sds.

    Attributes:
        parameter: label of the scalar.
        statistic: one of `STATISTICS`.
        estimate: the difference, its error and Welch's degrees of freedom.
        low, high: simultaneous interval; nan where no verdict is given.
        p_value: that the difference is zero, after Holm's correction; nan where no verdict is given.
    """

    parameter: str
    statistic: str
    estimate: Estimate
    low: float = float("nan")
    high: float = float("nan")
    p_value: float = float("nan")

    @property
    def reach(self) -> float:
        """The largest size that the interval leaves open."""
        return max(-self.low, self.high)

    def __str__(self) -> str:
        return f"{self.parameter} {_WORDS[self.statistic]}"


class Judgement(NamedTuple):
    """A verdict, the sentence that explains it, and how many times the draws would settle it (1: enough)."""

    verdict: Verdict
    reason: str
    more_draws: float


class Fault(NamedTuple):
    """Why an engine's draws deserve no verdict, and how many times as many would (nan: cannot be said)."""

    reason: str
    more_draws: float


_WORDS = dict(zip(STATISTICS, ("mean", "sd", "5 % quantile", "median", "95 % quantile")))


def differences(
    first: dict[str, ScalarSummary],
    second: dict[str, ScalarSummary],
    without: NotCompared | None = None,
) -> tuple[Difference, ...]:
    """Return the standardised differences of all parameters and statistics, not yet judged.

    Args:
        first, second: what the draws of two engines say, by label.
        without: statistics that are not compared, see `ssmscan.results.heavy_tails`.
    """
    without = without or {}

    def scale(label: str) -> float:
        one, other = first[label], second[label]
        if label in without:
            return float(np.sqrt((quantile_sd(one) ** 2 + quantile_sd(other) ** 2) / 2.0))
        return pooled_sd(one, other)

    return tuple(
        Difference(label, statistic, _difference(one, other, scale(label)))
        for label in first
        for statistic, one, other in zip(STATISTICS, first[label].statistics, second[label].statistics)
        if statistic not in without.get(label, ())
    )


def pooled_sd(first: ScalarSummary, second: ScalarSummary) -> float:
    """Return the posterior sd that differences are measured in."""
    return float(np.sqrt((first.sd.value**2 + second.sd.value**2) / 2.0))


def with_intervals(family: Sequence[Difference], criteria: Criteria) -> tuple[Difference, ...]:
    """Return the differences with intervals that hold together and p values that count their number."""
    size = len(family)
    p_values = np.array([_p_value(d.estimate) for d in family])
    order = np.argsort(p_values)
    adjusted = np.empty(size)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * np.arange(size, 0, -1)), 1.0)
    judged = []
    for difference, p_value in zip(family, adjusted):
        half = difference.estimate.half_width(1.0 - (1.0 - criteria.level) / size)
        value = difference.estimate.value
        judged.append(difference._replace(low=value - half, high=value + half, p_value=float(p_value)))
    return tuple(judged)


def judge(family: Sequence[Difference], size: int, criteria: Criteria) -> Judgement:
    """Return the verdict on one pair of engines.

    Args:
        family: the differences of the pair, `with_intervals`.
        size: the number of differences the intervals hold for together.
        criteria: those that the intervals were made with.
    """

    def share(d: Difference) -> float:
        return d.reach / criteria.tolerances.of(d.statistic)

    outside = [d for d in family if share(d) > 1.0]
    furthest = max(family, key=share)
    if not outside:
        clearest = min(family, key=lambda d: d.p_value)
        reason = f"all within {criteria.tolerances}, the furthest {_with_interval(furthest)}"
        if clearest.p_value < criteria.significance:
            reason += f"; small but real: {_with_interval(clearest)}, p = {clearest.p_value:.2g}"
        return Judgement(Verdict.AGREE, reason, 1.0)
    beyond = [d for d in outside if abs(d.estimate.value) > criteria.tolerances.of(d.statistic)]
    clearest = min(beyond, key=lambda d: d.p_value, default=furthest)
    if beyond and clearest.p_value < criteria.significance:
        reason = f"{_with_interval(clearest)}, beyond {_tolerance(clearest, criteria)}, p = {clearest.p_value:.2g}"
        return Judgement(Verdict.DISAGREE, reason, 1.0)
    worst = furthest
    reason = f"{_with_interval(worst)}, beyond {_tolerance(worst, criteria)}"
    if worst.estimate.df < _FEW_DEGREES:
        reason += f"; error with {worst.estimate.df:.0f} degrees of freedom: more independent runs help most"
    return Judgement(Verdict.CANNOT_TELL, reason, more_draws(family, size, criteria))


def more_draws(family: Sequence[Difference], size: int, criteria: Criteria) -> float:
    """Return by what factor to lengthen both runs so that an answer is likely.

    Errors shrink with the square root of the draws.  If the engines sample the same law, the factor brings
    the least certain statistic inside the tolerance with probability 0.9.  Where the errors are already that
    small, it is the factor at which a difference as large as the one seen would be *disagree*, or *agree* if it is
    within its tolerance.
    """
    tolerances = [criteria.tolerances.of(d.statistic) for d in family]
    agree = [
        (d.estimate.half_width(1.0 - (1.0 - criteria.level) / size) + d.estimate.half_width(_POWER)) / tolerance
        for d, tolerance in zip(family, tolerances)
    ]
    if (factor := max(agree) ** 2) > 1.0:
        return float(factor)
    disagree = [
        d.estimate.half_width(1.0 - criteria.significance / size) / abs(d.estimate.value)
        for d, tolerance in zip(family, tolerances)
        if abs(d.estimate.value) > tolerance
    ]
    if disagree:
        return float(max(min(disagree) ** 2, 1.0))
    room = [
        d.estimate.half_width(1.0 - (1.0 - criteria.level) / size) / max(tolerance - abs(d.estimate.value), 1e-3)
        for d, tolerance in zip(family, tolerances)
    ]
    return float(max(max(room) ** 2, 1.0))


def find_fault(
    summaries: dict[str, ScalarSummary],
    *,
    independent_runs: bool,
    log_weights: np.ndarray | None = None,
    points: Mapping[str, Sample] | None = None,
    without: NotCompared | None = None,
) -> Fault | None:
    """Return why an engine's draws, or its weighted points, deserve no verdict, None where they do.

    Its factor rests on R-hat squared minus one falling like one over the draws, which holds for chains
    whose only fault is to be short.
    """
    if log_weights is not None and (fault := find_fault_of_weights(log_weights, points or {}, without)):
        return fault
    undefined = [k for k, s in summaries.items() if not np.isfinite([s.ess_bulk, s.ess_tail, s.rhat]).all()]
    if undefined:
        cause = "a single run" if independent_runs else "fewer than four draws"
        cause = cause if log_weights is None else "too few points"
        return Fault(f"{', '.join(undefined)}: {cause}, or draws all equal or not finite", float("nan"))
    rhat, where_rhat = max((s.rhat, label) for label, s in summaries.items())
    ess, where_ess = min((min(s.ess_bulk, s.ess_tail), label) for label, s in summaries.items())
    reasons = []
    effective = MINIMUM_ESS if log_weights is None else effective_number(log_weights)
    # As they are printed: 1.010 is not more than 1.01, 400 not fewer than 400.
    if round(rhat, 3) > MAXIMUM_RHAT:
        reasons.append(f"R-hat of {where_rhat} is {rhat:.3f} > {MAXIMUM_RHAT}")
    if round(ess) < MINIMUM_ESS:
        reasons.append(f"ESS of {where_ess} is {ess:.0f} < {MINIMUM_ESS:.0f}")
    if round(effective) < MINIMUM_ESS:
        reasons.append(f"{effective:.0f} effective points < {MINIMUM_ESS:.0f}")
    if not reasons:
        return None
    return Fault(", ".join(reasons), max(MINIMUM_ESS / min(ess, effective), (rhat**2 - 1.0) / (MAXIMUM_RHAT**2 - 1.0)))


def find_fault_of_weights(
    log_weights: np.ndarray, points: Mapping[str, Sample], without: NotCompared | None = None
) -> Fault | None:
    """Return why no number that rests on these weights can be relied on, None where there is no reason.

    Args:
        log_weights: (points,) up to a constant.
        points: the scalars that have these weights, by label.
        without: statistics that nothing is to rest on.
    """
    number = len(log_weights)
    share = float(np.max(normalised(log_weights), initial=0.0))
    if np.isnan(share):
        return Fault("no point has any weight", float("nan"))
    if share > MAXIMUM_SHARE:
        return Fault(f"one of {number:,} points has {100 * share:.0f} % of the weight", float("nan"))
    limit = limit_of(number)
    indices = [(tail_index(log_weights), "weights")]
    for label, sample in points.items():
        gone = (without or {}).get(label, {})
        if "sd" not in gone:
            indices.append((weighted_tail(log_weights, sample, 2), f"weighted squared deviations of {label}"))
        elif "mean" not in gone:
            indices.append((weighted_tail(log_weights, sample, 1), f"weighted deviations of {label}"))
    for index, what in indices:
        if exceeds(index, limit):
            return Fault(f"k-hat of the {what} is {index:.2f} > {limit:.2f}", float("nan"))
    return None


def no_verdict(family: Sequence[Difference], faults: dict[str, Fault], criteria: Criteria) -> Judgement:
    """Decline to judge a pair because of faults of one or both engines (name -> fault).

    The factor cures the faults and makes an answer likely, the errors taken as if they were known.
    """
    reason = "; ".join(f"{name}: {fault.reason}" for name, fault in faults.items())
    factors = [fault.more_draws for fault in faults.values()]
    if all(np.isfinite(d.estimate.error) for d in family):
        known = [d._replace(estimate=d.estimate._replace(df=np.inf)) for d in family]
        factors.append(more_draws(known, len(family), criteria))
    return Judgement(Verdict.CANNOT_TELL, reason, float(np.max(factors)))


def wasserstein(first: Sample, second: Sample, one: ScalarSummary, other: ScalarSummary) -> tuple[float, float]:
    """Return the Wasserstein-1 distance of two samples and the distance expected of equal laws, in sds.

    Args:
        first: values and weights of one engine.
        second: those of the other.
        one: summary of `first`.
        other: summary of `second`.
    """
    points = np.sort(np.concatenate([first.values, second.values]))
    gaps, left = np.diff(points), points[:-1]
    F_first, F_second = first.distribution(left), second.distribution(left)
    F = (F_first + F_second) / 2.0
    per_draw = (np.interp(F, PROBABILITIES, 1.0 / np.array(s.ess_quantiles)) for s in (one, other))
    expected = np.sqrt(2.0 / np.pi) * np.sum(gaps * np.sqrt(F * (1.0 - F) * sum(per_draw)))
    scale = pooled_sd(one, other)
    if not scale > 0.0:
        return float("nan"), float("nan")
    return float(np.sum(gaps * np.abs(F_first - F_second)) / scale), float(expected / scale)


def _difference(one: Estimate, other: Estimate, scale: float) -> Estimate:
    if not scale > 0.0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    a, b = (one.error / scale) ** 2, (other.error / scale) ** 2
    df = (a + b) ** 2 / (a**2 / one.df + b**2 / other.df) if a + b > 0.0 else one.df + other.df
    return Estimate((one.value - other.value) / scale, float(np.sqrt(a + b)), df)


def _p_value(estimate: Estimate) -> float:
    if estimate.error == 0.0:
        return float(estimate.value == 0.0)
    return float(2.0 * special.stdtr(estimate.df, -abs(estimate.value) / estimate.error))


def _tolerance(difference: Difference, criteria: Criteria) -> str:
    return f"±{criteria.tolerances.of(difference.statistic):g}"


def _with_interval(difference: Difference) -> str:
    value, low, high = difference.estimate.value, difference.low, difference.high
    return f"{difference} {value:+.2f} sd in [{low:+.2f}, {high:+.2f}]"

r"""What draws say about one number, and how well: estimates with an error and its degrees of freedom.

Mean, sd and the 5, 50 and 95 % quantiles each come as an `Estimate`.  The error is a standard error of
the simulation, not the spread of the posterior, and is itself estimated: the degrees of freedom say how
well, and every interval and test of the package uses the t quantile with them.

*Chains.*  With :math:`S` the effective sample size of the statistic (autocorrelation and disagreement
between chains included; Vehtari et al. 2021, section 3):

* mean: :math:`s/\sqrt{S}`, with :math:`S` of :math:`x`;
* sd: :math:`\mathrm{sd}(u)/(2s\sqrt{S})`, with :math:`S` of :math:`u = (x-\bar x)^2` (delta method);
* quantile p: draws of rank :math:`p \pm c\sqrt{p(1-p)/S}`, :math:`S` of the indicator, are :math:`2c`
  errors apart (Woodruff 1952, JASA 47, p. 638).  Ranks come from a Beta law, so they stay inside (0, 1),
  and c = 3 rather than 1 because the distance of two order statistics is known to one part in the square
  root of the draws between them.

The variance of a truncated autocorrelation sum has relative variance :math:`2(2M+1)/N` for a window of M lags
(Priestley 1981, section 6.2), :math:`10/S` for the window used here; the sample variance adds to it with
the kurtosis :math:`\kappa` of what is averaged.  :math:`\nu = S/(4+\kappa)` covers what is measured on
autoregressions.  An indicator has a known variance, and the spacing of a quantile is noisier than that:
:math:`1/\nu = 5/S + 1/(c\sqrt{p(1-p)S})`.

*Independent runs* of a particle sampler.  Draws inside a run share its luck in ways no autocorrelation shows,
so the error is the spread of the R run values over :math:`\sqrt R`, with :math:`R-1` degrees of freedom.
The effective sample size is the number of independent draws with that error, R-hat compares run means with
the spread inside runs.  One run has no error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from scipy import special

from ssmscan import containers
from ssmscan.labels import Labels

PROBABILITIES = (0.05, 0.5, 0.95)
STATISTICS = ("mean", "sd", "5 %", "50 %", "95 %")
TAILS = ("5 %", "95 %")

SPACING = 3.0
"""Standard errors to either side at which a quantile's error is read off the distribution function."""


class Estimate(NamedTuple):
    """A value, its standard error (nan: unknown) and the degrees of freedom of that error."""

    value: float
    error: float
    df: float

    def half_width(self, level: float) -> float:
        """Return half the width of the t interval that covers with probability `level`."""
        return self.error * t_quantile(1.0 - level, self.df)


class ScalarSummary(NamedTuple):
    """What the draws of one scalar say.

    Attributes:
        statistics: one `Estimate` for each of `STATISTICS`, in that order.
        ess_quantiles: effective sample size of each quantile in `PROBABILITIES`.
        ess_bulk: effective sample size of the rank-normalised draws.
        ess_tail: the smaller of those of the 5 and 95 % quantiles.
        rhat: disagreement of chains or runs, 1 where there is none.
    """

    statistics: tuple[Estimate, ...]
    ess_quantiles: tuple[float, ...]
    ess_bulk: float
    ess_tail: float
    rhat: float

    @property
    def mean(self) -> Estimate:
        """The posterior mean."""
        return self.statistics[0]

    @property
    def sd(self) -> Estimate:
        """The posterior standard deviation."""
        return self.statistics[1]


class Sample(NamedTuple):
    """Values (n,) of one scalar and their weights (n,), which sum to one."""

    values: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, draws: np.ndarray) -> Sample:
        """Return draws of any shape, all of equal weight."""
        return cls(draws.reshape(-1), np.full(draws.size, 1.0 / max(draws.size, 1)))

    def distribution(self, at: np.ndarray) -> np.ndarray:
        """Return the weight of the values that are no larger than each of `at`."""
        order = np.argsort(self.values, kind="stable")
        steps = np.concatenate([[0.0], np.cumsum(self.weights[order])])
        return np.minimum(steps[np.searchsorted(self.values[order], at, side="right")], 1.0)


def scalars(draws: Mapping[str, np.ndarray], labels: Labels) -> Iterator[tuple[str, np.ndarray]]:
    """Yield label and draws (chains, draws) in float64 of each scalar element, as in ``("beta[0,PT]", x)``."""
    for name, values in draws.items():
        rows = np.moveaxis(np.asarray(values, np.float64), (0, 1), (-2, -1))
        for label, index in labels.elements(name, values.shape[2:]):
            yield label, rows[index]


def summarise(draws: np.ndarray, *, independent_runs: bool = False) -> ScalarSummary:
    """Summarise the draws of one scalar.

    Args:
        draws: (chains, draws), or (runs, draws) of independent runs of a particle sampler.
        independent_runs: take the error from the spread between the leading axis' runs.

    Returns:
        The summary.  Errors, effective sizes and R-hat are nan where they are not defined: a value
        that is not finite, draws that are all equal, fewer than four draws a chain, a single run.

    Raises:
        ValueError: if there are no draws.
    """
    if draws.ndim != 2 or draws.size == 0:
        raise ValueError(f"draws must be (chains, draws) with at least one draw, got shape {draws.shape}")
    chains, length = draws.shape
    too_few = chains < 2 if independent_runs else length < containers.MINIMUM_DRAWS
    if too_few or not np.isfinite(draws).all() or np.ptp(draws) == 0.0:
        nan = float("nan")
        with np.errstate(invalid="ignore"):
            statistics = tuple(Estimate(value, nan, nan) for value in _values(draws))
        return ScalarSummary(statistics, (nan,) * len(PROBABILITIES), nan, nan, nan)
    return _summarise_runs(draws) if independent_runs else _summarise_chains(draws)


def t_quantile(probability: float, df: float) -> float:
    """Return the t beyond which, on both sides together, lies `probability`."""
    return float(-special.stdtrit(df, probability / 2.0))


def _values(draws: np.ndarray) -> list[float]:
    return [float(draws.mean()), float(draws.std()), *map(float, _quantiles(draws, PROBABILITIES))]


def _quantiles(draws: np.ndarray, probabilities: np.ndarray | tuple[float, ...]) -> np.ndarray:
    return np.quantile(draws, probabilities, method="median_unbiased")


def _summarise_chains(draws: np.ndarray) -> ScalarSummary:
    values = _values(draws)
    mean, sd = values[:2]
    estimates = [
        Estimate(mean, *_mean_error(draws)),
        Estimate(sd, *_mean_error((draws - mean) ** 2, derivative=0.5 / sd)),
    ]
    ess_quantiles = tuple(containers.ess(draws, "quantile", p) for p in PROBABILITIES)
    ordered = np.sort(draws, axis=None)
    for p, ess, value in zip(PROBABILITIES, ess_quantiles, values[2:]):
        estimates.append(Estimate(value, *_quantile_error(ordered, p, ess)))
    return ScalarSummary(
        statistics=tuple(Estimate(*map(float, estimate)) for estimate in estimates),
        ess_quantiles=ess_quantiles,
        ess_bulk=containers.ess(draws, "bulk"),
        ess_tail=min(ess_quantiles[0], ess_quantiles[-1]),
        rhat=containers.rhat(draws),
    )


def _mean_error(draws: np.ndarray, derivative: float = 1.0) -> tuple[float, float]:
    """Return error and degrees of freedom of a function of the mean of `draws`, given its derivative."""
    sd = draws.std()
    if sd == 0.0:
        return 0.0, np.inf
    ess = containers.ess(draws, "mean")
    kurtosis = np.mean(((draws - draws.mean()) / sd) ** 4)
    return derivative * sd / np.sqrt(ess), ess / (4.0 + kurtosis)


def _quantile_error(ordered: np.ndarray, p: float, ess: float) -> tuple[float, float]:
    ranks = special.betaincinv(ess * p + 1.0, ess * (1.0 - p) + 1.0, special.ndtr([-SPACING, SPACING]))
    low, high = _quantiles(ordered, ranks)
    effective_draws_between = SPACING * np.sqrt(p * (1.0 - p) * ess)
    df = 1.0 / (5.0 / ess + 1.0 / effective_draws_between)
    return (high - low) / (2.0 * SPACING), df


def _summarise_runs(draws: np.ndarray) -> ScalarSummary:
    num_runs, length = draws.shape
    values = np.array(_values(draws))
    per_run = np.array([_values(run) for run in draws])
    errors = per_run.std(axis=0, ddof=1) / np.sqrt(num_runs)
    normal = special.ndtri((_average_ranks(draws) - 0.375) / (draws.size + 0.25))
    below = draws[..., None] <= values[2:]
    ess_quantiles = tuple(_ess_between(below[..., i]) for i in range(len(PROBABILITIES)))
    within = normal.var(axis=1, ddof=1).mean() if length > 1 else float("nan")
    between = normal.mean(axis=1).var(ddof=1)
    return ScalarSummary(
        statistics=tuple(Estimate(float(v), float(e), num_runs - 1.0) for v, e in zip(values, errors)),
        ess_quantiles=ess_quantiles,
        ess_bulk=_ess_between(normal),
        ess_tail=min(ess_quantiles[0], ess_quantiles[-1]),
        rhat=float(np.sqrt((length - 1) / length + between / within)),
    )


def _ess_between(values: np.ndarray) -> float:
    """Return the independent draws that would give the run means their spread, at most all draws."""
    spread = values.mean(axis=1).var(ddof=1) / len(values)
    return float(values.size if spread * values.size <= values.var() else values.var() / spread)


def _average_ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1, ties sharing their mean rank, in the shape of `values`."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse].reshape(values.shape)

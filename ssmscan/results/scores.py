"""How well observations were predicted from those before them: scores of a rolling origin, and what differs in two.

At origin t the first t observations of the loop are known, and what is h steps ahead is predicted.  A `ForecastScores`
holds log predictive densities, CRPS and PIT of each origin and horizon; `a - b` of two of them is the difference of two
models on the same data with its error, which is far smaller than the errors of either.  `LeaveFutureOut` holds the sum
of log predictive densities that takes the place of leave-one-out cross-validation for a time series.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ssmscan.results.scoring_rules import standard_error
from ssmscan.results.table import Table, rounded, significant

WHY_NOT_LOO = (
    "Leave-one-out cross-validation is wrong here: with y_t left out, the later observations, which depend on the same "
    "states, still tell what it was, so that it scores interpolation and not forecasts."
)
"""What is said wherever the question may come up."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Reweighting:
    """How well draws given all observations stand for the posterior at each origin.

    Attributes:
        tail_index: (origins,) k-hat of the weights that take the later observations away, -inf where weights are equal.
        limit: k-hat from which averages under the weights are not reliable.
        effective_draws: (origins,) draws of equal weight that are worth as much.
        noise: (origins,) standard deviation of the log weights that is noise of the filters, 0 of exact ones.
        num_draws: draws of the parameters.
        refits: the origins at which the parameters were sampled anew.
    """

    tail_index: np.ndarray
    limit: float
    effective_draws: np.ndarray
    noise: np.ndarray
    num_draws: int
    refits: tuple[int, ...] = ()

    def concerns(self, origins: np.ndarray) -> tuple[str, ...]:
        """Return why scores that rest on the weights should not be trusted, in sentences."""
        found = []
        bad = origins[self.tail_index > self.limit]
        if len(bad):
            worst = significant(float(self.tail_index.max()))
            found.append(
                f"At {len(bad)} of {len(origins)} origins, {_spans(bad)}, k-hat is above {self.limit:.2f} (up to "
                f"{worst}): draws given all data say too little of the posterior there. Give refit=, a function that "
                "samples the parameters given the first observations; or begin at a later first_origin, use more "
                "draws, or use SMC2, which has the posterior after every observation."
            )
        loud = float(np.max(self.noise, initial=0.0))
        if loud > 1.0:
            found.append(
                f"Noise of the filters changes the log weights by up to {significant(loud)} (one standard deviation): "
                "it costs effective draws, and draws at which filters are noisier get too much weight. Use more "
                "num_particles."
            )
        return tuple(found)


@dataclass(frozen=True, eq=False)
class ForecastScores:
    """Scores of forecasts with a rolling origin; n origins, m horizons, NaN where there is nothing to predict.

    Attributes:
        engine: what sampled the parameters.
        origins: (n,) observations of the loop known at each origin, in increasing order.
        horizons: (m,) steps ahead, in increasing order.
        log_scores: (n, m) log p(y_{t+h} | y_{1:t}), jointly of all sites and elements observed at a step.
        site_log_scores: site -> (n, m) the same of one site; left out for panels with several observed sites.
        crps: site -> (n, m, *shape) of each element.
        pit: site -> (n, m, *shape) in [0, 1], randomised where observations are discrete.
        monte_carlo_error: (m,) standard error of the sum of log scores that comes from finitely many draws.
        weights: how well the draws stand for the posterior at each origin.
        notes: what was chosen, in sentences.
    """

    engine: str
    origins: np.ndarray
    horizons: np.ndarray
    log_scores: np.ndarray
    site_log_scores: Arrays
    crps: Arrays
    pit: Arrays
    monte_carlo_error: np.ndarray
    weights: Reweighting
    notes: tuple[str, ...] = ()

    @property
    def log_score(self) -> np.ndarray:
        """(m,) sum of the log scores of all origins; larger is better."""
        return np.nansum(self.log_scores, axis=0)

    @property
    def log_score_error(self) -> np.ndarray:
        """(m,) standard errors of these sums, autocorrelation accounted for."""
        return _errors(self.log_scores, self.horizons)

    def mean_crps(self) -> dict[str, np.ndarray]:
        """Return the mean CRPS of each site over origins and elements, (m,); smaller is better."""
        return {site: np.array([_mean(column) for column in values.T]) for site, values in self._flat_crps().items()}

    def concerns(self) -> tuple[str, ...]:
        """Return why the scores should not be trusted, in sentences."""
        return self.weights.concerns(self.origins)

    def table(self) -> Table:
        """Return the scores of each horizon with their errors."""
        flat, means = self._flat_crps(), self.mean_crps()
        rows = []
        for i, h in enumerate(self.horizons):
            error, count = float(self.log_score_error[i]), int(np.isfinite(self.log_scores[:, i]).sum())
            cells = [str(h), str(count), rounded(float(self.log_score[i]), error), significant(error)]
            cells += [rounded(_mean(self.log_scores[:, i]), error / max(count, 1))]
            for site, values in flat.items():
                error = _mean_error(values[:, i], int(h))
                cells += [rounded(float(means[site][i]), error), significant(error)]
            rows.append(tuple(cells))
        columns = ["steps ahead", "origins", "log score", "se", "each"]
        for site in flat:
            columns += [f"CRPS {site}", "se"]
        title = f"Forecasts from {len(self.origins)} origins, parameters of {self.engine}"
        return Table(title, tuple(columns), tuple(rows), notes=(*self.notes, *self.concerns()))

    def _flat_crps(self) -> dict[str, np.ndarray]:
        """CRPS by site as (n, m), averaged over the elements that are observed."""
        return {site: _over_elements(values) for site, values in self.crps.items()}

    def __sub__(self, other: ForecastScores) -> ScoreDifference:
        """Compare two models, or two ways to fit one, on the same forecasts.

        Raises:
            ValueError: they predict from other origins or other steps ahead.
        """
        if not isinstance(other, ForecastScores):
            return NotImplemented
        _require_same(self.origins, other.origins, "origins")
        _require_same(self.horizons, other.horizons, "horizons")
        mine, theirs = self._flat_crps(), other._flat_crps()
        return ScoreDifference(
            engines=(self.engine, other.engine),
            origins=self.origins,
            horizons=self.horizons,
            log_scores=self.log_scores - other.log_scores,
            crps={site: mine[site] - theirs[site] for site in mine if site in theirs},
            monte_carlo_error=np.hypot(self.monte_carlo_error, other.monte_carlo_error),
        )

    def __repr__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


@dataclass(frozen=True, eq=False)
class ScoreDifference:
    """How much better one model predicts than another, on the same origins.

    Attributes:
        engines: what sampled the parameters of the first and of the second.
        origins, horizons: as in `ForecastScores`.
        log_scores: (n, m) first minus second; positive where the first is better.
        crps: site -> (n, m) first minus second, averaged over elements; negative where the first is better.
        monte_carlo_error: (m,) of the sum of log_scores.
    """

    engines: tuple[str, str]
    origins: np.ndarray
    horizons: np.ndarray
    log_scores: np.ndarray
    crps: Arrays
    monte_carlo_error: np.ndarray

    @property
    def log_score(self) -> np.ndarray:
        """(m,) sum of the differences."""
        return np.nansum(self.log_scores, axis=0)

    @property
    def log_score_error(self) -> np.ndarray:
        """(m,) standard errors of these sums, autocorrelation accounted for."""
        return _errors(self.log_scores, self.horizons)

    def table(self) -> Table:
        """Return the difference at each horizon with its error."""
        rows = []
        for i, h in enumerate(self.horizons):
            error = float(self.log_score_error[i])
            cells = [str(h), rounded(float(self.log_score[i]), error), significant(error)]
            for values in self.crps.values():
                error = _mean_error(values[:, i], int(h))
                cells += [rounded(_mean(values[:, i]), error), significant(error)]
            rows.append(tuple(cells))
        columns = ["steps ahead", "log score", "se"]
        for site in self.crps:
            columns += [f"CRPS {site}", "se"]
        notes = (
            "First minus second: a positive log score and a negative CRPS speak for the first. A difference in log "
            "score of less than four, or than two standard errors, decides nothing (Sivula, Magnusson, Matamoros & "
            "Vehtari 2020, arXiv:2008.10296).",
        )
        return Table("Difference of forecasts", tuple(columns), tuple(rows), notes=notes)

    def __repr__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


@dataclass(frozen=True, eq=False)
class LeaveFutureOut:
    """The expected log predictive density of a time series by leaving out the future.

    Attributes:
        engine: what sampled the parameters.
        origins: (n,) observations of the loop known at each origin.
        horizon: M, how many observations are predicted together at each.
        pointwise: (n,) log p(y_{t+1:t+M} | y_{1:t}), NaN where all of them are missing.
        monte_carlo_error: standard error of the sum that comes from finitely many draws.
        weights: how well the draws stand for the posterior at each origin.
        notes: what was chosen, in sentences.
    """

    engine: str
    origins: np.ndarray
    horizon: int
    pointwise: np.ndarray
    monte_carlo_error: float
    weights: Reweighting
    notes: tuple[str, ...] = field(default=())

    @property
    def elpd_lfo(self) -> float:
        """The sum over all origins; larger is better."""
        return float(np.nansum(self.pointwise))

    @property
    def standard_error(self) -> float:
        """Its standard error, autocorrelation accounted for."""
        return standard_error(self.pointwise, self.horizon)

    def concerns(self) -> tuple[str, ...]:
        """Return why it should not be trusted, in sentences."""
        return self.weights.concerns(self.origins)

    def __sub__(self, other: LeaveFutureOut) -> ScoreDifference:
        """Compare two models on the same forecasts.

        Raises:
            ValueError: they predict from other origins, or another number of observations.
        """
        if not isinstance(other, LeaveFutureOut):
            return NotImplemented
        _require_same(self.origins, other.origins, "origins")
        _require_same(np.array([self.horizon]), np.array([other.horizon]), "horizons")
        return ScoreDifference(
            engines=(self.engine, other.engine),
            origins=self.origins,
            horizons=np.array([self.horizon]),
            log_scores=(self.pointwise - other.pointwise)[:, None],
            crps={},
            monte_carlo_error=np.array([np.hypot(self.monte_carlo_error, other.monte_carlo_error)]),
        )

    def table(self) -> Table:
        """Return the sum with its errors, and what the weights are worth."""
        error, index = self.standard_error, self.weights.tail_index
        finite = index[np.isfinite(index)]
        row = (
            rounded(self.elpd_lfo, error),
            significant(error),
            significant(self.monte_carlo_error),
            str(int(np.isfinite(self.pointwise).sum())),
            significant(float(finite.max())) if len(finite) else "-",
            f"{self.weights.effective_draws.min():.0f}",
        )
        columns = ("elpd_lfo", "se", "Monte Carlo se", "origins", "largest k-hat", "fewest effective draws")
        title = f"Leave-future-out, {self.horizon} step{'s' * (self.horizon > 1)} ahead, parameters of {self.engine}"
        return Table(title, columns, (row,), labels=0, notes=(WHY_NOT_LOO, *self.notes, *self.concerns()))

    def __repr__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def _errors(scores: np.ndarray, horizons: np.ndarray) -> np.ndarray:
    return np.array([standard_error(column, int(h)) for column, h in zip(scores.T, horizons)])


def _mean(values: np.ndarray) -> float:
    there = np.isfinite(values)
    return float(values[there].mean()) if there.any() else np.nan


def _mean_error(values: np.ndarray, horizon: int) -> float:
    return standard_error(values, horizon) / max(int(np.isfinite(values).sum()), 1)


def _over_elements(values: np.ndarray) -> np.ndarray:
    """Average over the elements of an observation that are there; (n, m, *shape) -> (n, m)."""
    flat = values.reshape(*values.shape[:2], -1)
    there = np.isfinite(flat)
    count = there.sum(-1)
    return np.where(count > 0, np.where(there, flat, 0.0).sum(-1) / np.maximum(count, 1), np.nan)


def _require_same(mine: np.ndarray, theirs: np.ndarray, name: str) -> None:
    if not np.array_equal(mine, theirs):
        raise ValueError(
            f"scores of two models are compared on the same forecasts, and their {name} differ: {_spans(mine)} and "
            f"{_spans(theirs)}. Score both with the same first_origin and horizons on the same data."
        )


def _spans(numbers: Sequence[int] | np.ndarray) -> str:
    """Return whole numbers in increasing order as spans, such as "3 to 7, 12"."""
    parts: list[list[int]] = []
    for number in map(int, numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    shown = [str(p[0]) if len(p) == 1 else f"{p[0]} to {p[-1]}" for p in parts]
    return ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")

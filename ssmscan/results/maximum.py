"""A maximum of the likelihood or of the posterior density: where it is, how sure, and whether it was reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssmscan.health import Condition, Health, Reason, Section
from ssmscan.labels import Labels
from ssmscan.results.data import Costs
from ssmscan.results.table import Table, rounded, significant

DRIFT = 0.25
"""Largest move between the halves of the averaged part, in standard errors of the estimate."""

NOISE = 0.1
"""Largest Monte Carlo error of the average, in the same unit."""

APART = 0.5
"""Starts whose averages are nearer than this, in the same unit, are at one maximum."""

FAILED = 0.5
"""Share of the steps without a finite gradient above which there was no ascent to speak of."""

LOOSE_SD = 1.5
"""Above this standard deviation of the log likelihood of one filter its mean is no guide to the likelihood."""


@dataclass(frozen=True, eq=False)
class Maximum:
    """Where stochastic gradient ascent ended.

    Attributes:
        theta: parameter -> estimate, on the scale of the model; `ssm.deterministics` computes what follows from it.
        standard_errors: parameter -> standard error, from the observed information; NaN where that has none.
        covariance: (d, d) inverse of the observed information in the unconstrained parameters, in the order of the
            names and then row by row.
        standard_error_noise: largest relative Monte Carlo error of the standard errors.
        log_likelihood: log of the average of the likelihoods that filters estimate there.
        log_likelihood_error: its Monte Carlo error.
        log_likelihood_sd: standard deviation there of the log likelihood that one filter estimates.
        objective: "likelihood" or "posterior density".
        starts: parameter -> (starts, *shape), the average of each start.
        start_objective: (starts,) the log of what was maximised, at these.
        best: number of the start that the estimate is from.
        agreeing: how many starts ended at the estimate, itself included.
        drift: largest move between the halves of the averaged part, in standard errors.
        noise: largest Monte Carlo error of the average, in standard errors.
        failed_steps: share of the steps without a finite gradient, which were not taken.
        faulty: share of the filters at the estimate in which a log weight was not a number; it counted as impossible.
        path: parameter -> (starts, steps, *shape), every iterate.
        path_log_likelihood: (starts, steps) the noisy estimate at each.
        converged: whether the estimate is a maximum, as far as can be told; `message` says why not.
        interrupted: whether Control-C ended the ascent; the averages are of the steps made by then.
        costs: what the run cost.
        settings: everything the engine was told.
        versions: package -> version.
        ascent: the state of every start and all that was kept of its steps, for `start=`.
        origin: the key, and what tells this model and its data from others.
        labels: names of the axes of the parameters and what stands along them.
    """

    theta: dict[str, np.ndarray]
    standard_errors: dict[str, np.ndarray]
    covariance: np.ndarray
    standard_error_noise: float
    log_likelihood: float
    log_likelihood_error: float
    log_likelihood_sd: float
    objective: str
    starts: dict[str, np.ndarray]
    start_objective: np.ndarray
    best: int
    agreeing: int
    drift: float
    noise: float
    failed_steps: float
    faulty: float
    path: dict[str, np.ndarray]
    path_log_likelihood: np.ndarray
    interrupted: bool
    costs: Costs
    settings: dict[str, Any] = field(repr=False)
    versions: dict[str, str] = field(repr=False)
    ascent: Any = field(repr=False)
    origin: dict[str, Any] = field(repr=False)
    labels: Labels = field(default_factory=Labels, repr=False)

    @property
    def converged(self) -> bool:
        """Whether the average has settled, at a point of negative curvature that another start found too."""
        return not self._objections()

    def _objections(self) -> list[Reason]:
        num_starts = len(self.start_objective)
        found: list[Reason] = []

        def object_to(
            sentence: str, remedy: str = "", section: Section = Section.MAXIMUM, *, usable: bool = True
        ) -> None:
            found.append(Reason(sentence, remedy, section, Condition.DOUBTFUL if usable else Condition.UNUSABLE))

        if self.interrupted:
            object_to("it was interrupted", "go on from it by start=", Section.STOPPED)
        if self.failed_steps > FAILED:
            object_to(
                f"{self.failed_steps:.0%} of the steps had no finite gradient and were not taken",
                "use more particles, num_particles, or look for a model without a value or a slope",
                usable=False,
            )
        if self.faulty:
            object_to(
                f"in {self.faulty:.0%} of the filters at the estimate log weights were not numbers and counted as "
                "impossible, so that it belongs to another model",
                "mend the density of the model",
                Section.NOT_NUMBERS,
                usable=False,
            )
        if self.interrupted and np.isnan(self.covariance).all():
            object_to("there are no standard errors, and how near the average is is not known", usable=False)
            return found
        if not np.isfinite(self.covariance).all():
            object_to(
                f"the {self.objective} is flat or rises away from the estimate in some direction, so that there are "
                "no standard errors",
                "a parameter is not identified, or lies on the edge of its support",
                Section.EDGE,
                usable=False,
            )
        if self.drift > DRIFT:
            object_to(
                f"the average still moved by {significant(self.drift)} standard errors between its halves",
                "take more steps, num_steps",
            )
        elif self.noise > NOISE:
            object_to(
                f"the average is known to {significant(self.noise)} standard errors only",
                "take more steps, num_steps, or use more particles, num_particles",
            )
        if num_starts > 1 and self.agreeing == 1:
            object_to(
                "no other start ended there",
                "take more steps, num_steps, or look at `starts` and `start_objective` for several maxima",
            )
        return found

    def health(self) -> Health:
        """Return whether this can be used as a maximum, why not and what to do."""
        found = [
            reason._replace(sentence=_capital(reason.sentence), remedy=_capital(reason.remedy))
            for reason in self._objections()
        ]
        if self.log_likelihood_sd > LOOSE_SD:
            found.append(
                Reason(
                    "The log likelihood of one filter has standard deviation "
                    f"{significant(self.log_likelihood_sd)}: the estimate is biased.",
                    "Use more particles, num_particles.",
                    Section.NOISE,
                )
            )
        starts = len(self.start_objective)
        measured = [
            ("starts at the estimate", f"{self.agreeing} of {starts}"),
            ("drift, Monte Carlo error", f"{significant(self.drift)}, {significant(self.noise)} standard errors"),
            ("sd of the log likelihood", significant(self.log_likelihood_sd)),
        ]
        return Health.of(found, measured)

    def concerns(self) -> tuple[str, ...]:
        """Return the sentences of `health`."""
        return self.health().sentences

    def message(self) -> str:
        """Return in plain English whether this is a maximum."""
        num_starts = len(self.start_objective)
        objections = self._objections()
        if objections:
            text = f"Not converged: {'; '.join(': '.join(filter(None, one[:2])) for one in objections)}."
        else:
            others = f"{self.agreeing} of {num_starts} starts ended there" if num_starts > 1 else "from one start"
            text = (
                f"Converged to a maximum of the {self.objective} ({others}); the average is within "
                f"{significant(max(self.drift, self.noise))} standard errors of it."
            )
        if num_starts == 1:
            text += " Other maxima were not looked for: use several starts."
        elif not objections and self.agreeing < num_starts:
            text += f" {num_starts - self.agreeing} ended elsewhere, with a lower value."
        if self.log_likelihood_sd > LOOSE_SD:
            text += (
                f" The log likelihood of one filter has standard deviation {significant(self.log_likelihood_sd)}: the "
                "estimate is biased, use more particles."
            )
        if 0.01 < self.failed_steps <= FAILED:
            text += f" {self.failed_steps:.0%} of the steps had no finite gradient and were not taken."
        return text

    def summary(self) -> Table:
        """Return a table of the estimates and their standard errors, with the verdict as its title."""
        title = f"log-likelihood {rounded(self.log_likelihood, self.log_likelihood_error)}. {self.message()}"
        rows = []
        for name, value in self.theta.items():
            for label, index in self.labels.elements(name, value.shape):
                error = float(self.standard_errors[name][index])
                rows.append((label, rounded(float(value[index]), error), significant(error)))
        return Table(title, ("parameter", "estimate", "standard error"), tuple(rows))

    def __repr__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def _capital(clause: str) -> str:
    """Return a clause as a sentence of its own."""
    return f"{clause[:1].upper()}{clause[1:]}{'.' * bool(clause)}"

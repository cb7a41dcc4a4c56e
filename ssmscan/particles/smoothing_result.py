"""What a smoother found: paths, moments and probabilities of the states given all data, and whether to trust them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import jax
import numpy as np
from jax import Array

from ssmscan.health import Health, Reason, Section
from ssmscan.labels import Labels
from ssmscan.model.protocols import Values
from ssmscan.particles.filter_result import FilterResult
from ssmscan.particles.printing import Card, known

ANCESTRAL = 0.05
"""Share of new parents below which paths are no better than ancestral ones."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["log_likelihood", "paths", "mean", "sd", "renewed", "filtered"],
    meta_fields=["method", "exact", "discrete"],
    drop_fields=["labels"],
)
@dataclass(frozen=True, eq=False, repr=False)
class SmoothingResult:
    """The states given all data, at one theta.

    Attributes:
        log_likelihood: () log p(y | theta), or the filter's estimate of it.
        paths: innovations and deterministics of the loop by site, (num_paths, T, ...), initial sites (num_paths, ...).
            Of `FixedLag` the last lag + 1 steps alone, and of a filter with `LastSteps(k)` the last k.
        mean: by site, without num_paths: exact for the sites in `exact`, of all particles for `FixedLag`, else of
            the paths; NaN where the filter lost all weight.
        sd: the standard deviations, in the same way.
        renewed: (T,) share of the paths whose particle before each step is not the parent of the one after it; of
            several loops one after the other.  None where no path is drawn backward.
        filtered: what the filter found, without its history; None without a filter.
        method: the method, in words.
        exact: names of the sites with exact moments.
        discrete: names of the sites with finitely many values, and these.
        labels: names of the axes and what stands along them; on the host only, absent inside jit.
    """

    log_likelihood: Array
    paths: Values
    mean: Values
    sd: Values
    renewed: Array | None
    filtered: FilterResult | None
    method: str
    exact: tuple[str, ...] = ()
    discrete: tuple[tuple[str, tuple[float, ...]], ...] = ()
    labels: Labels = field(default_factory=Labels)

    @property
    def state_probabilities(self) -> dict[str, np.ndarray]:
        """Return the probabilities of discrete states given all data, (T, *shape, values), values in order.

        By the mean where a site has two values, as exact as that is; else frequencies in the paths, which `FixedLag`
        has of the last steps alone.
        """
        found = {}
        for site, values in self.discrete:
            if len(values) == 2:
                upper = (np.asarray(self.mean[site]) - values[0]) / (values[1] - values[0])
                found[site] = np.stack([1.0 - upper, upper], axis=-1)
            elif site in self.paths:
                found[site] = np.stack([np.mean(np.asarray(self.paths[site]) == x, axis=0) for x in values], axis=-1)
        return found

    def health(self) -> Health:
        """Return whether the paths can be used, why not and what to do; on the host, for one run.

        Raises:
            ValueError: for a batch of runs, as made by vmap, and for traced values.
        """
        if not known(self.log_likelihood) or np.ndim(self.log_likelihood):
            raise ValueError("health() and concerns() are of one run with values: return it from jit, index a batch.")
        found = Health.of(()) if self.filtered is None else self.filtered.health()
        if self.renewed is None or not np.size(self.renewed):
            return found
        share = float(np.median(self.renewed))
        measured = (*found.measured, ("new parents", f"{share:.0%} of the paths at half of the steps"))
        return Health.of((*found.reasons, self._ancestral(share) if share < ANCESTRAL else None), measured)

    def concerns(self) -> tuple[str, ...]:
        """Return the sentences of `health`.

        Raises:
            ValueError: as for `health`.
        """
        return self.health().sentences

    @staticmethod
    def _ancestral(share: float) -> Reason:
        return Reason(
            f"Paths follow their ancestors: at half of the steps {share:.0%} of them or fewer left theirs, as hardly "
            "another particle can have led to the next state. They are right, and have their early states in common.",
            "If the loop carries more than the values it draws (noise that is added up, a longer past), draw the new "
            "state itself, numpyro.sample('x', dist.Normal(mean, sd)); or use more particles, or ssmscan.NUTS.",
            Section.PATHS,
        )

    def card(self) -> Card:
        """Build what is printed, and what a notebook shows."""
        title = f"Smoothing by {self.method}"
        if not known(self.log_likelihood) or np.ndim(self.log_likelihood):
            return Card(f"{title}: states {', '.join(self.mean)}, log likelihood {self.log_likelihood!r}", (), ())
        rows = [
            ("health", self.health().line),
            ("log likelihood", f"{float(self.log_likelihood):.8g}"),
            ("states", ", ".join(self.mean)),
        ]
        if self.paths:
            rows.append(("paths", str(len(next(iter(self.paths.values()))))))
        if self.renewed is not None:
            rows.append(("new parents", f"{float(np.mean(self.renewed)):.0%} of the steps"))
        return Card(title, rows, list(self.concerns()))

    def __repr__(self) -> str:
        return self.card().text()

    def _repr_html_(self) -> str:
        return self.card().html()

"""What a filter found: one result, for one loop or for several independent ones.

Independent loops have a filter each, and their log likelihoods add:

    log p_hat(y | theta) = log h(theta) + sum_k log p_hat(y_k | theta)

The estimates are independent given their keys, so the product of their exponentials is unbiased, and the variances
on the log scale add.  What has no time in common is asked of one loop, `result.loops[k]`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmscan import containers
from ssmscan.health import Health
from ssmscan.labels import Labels
from ssmscan.particles import ancestors, concerns, filter_file
from ssmscan.particles.filter_record import FilterRecord
from ssmscan.particles.filter_step import COMPLETE, FAULTY, NOWHERE, VANISHED
from ssmscan.particles.printing import Card, forms, known, listed


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[f.name for f in fields(FilterRecord) if not f.metadata and f.name != "labels"],
    meta_fields=[f.name for f in fields(FilterRecord) if f.metadata],
    drop_fields=["labels"],
)
@dataclass(frozen=True)
class FilterResult(FilterRecord):
    """What a particle filter found; its fields are those of `FilterRecord`.

    With a model that observes its start the series have T + 1 entries, the start first, else T.

    Of several independent loops, whose steps have no time in common, it has `log_likelihood`, the sum; `increments`,
    those of one loop after those of the other; `summaries` of all sites; `status`, the worst; `failed_step` and
    `faulty_step`, the first in any loop; `health`, `concerns`, `message` and `num_particles`.  All else is in `loops`.

    The M elements of a panel are filtered one by one: log likelihood and increments are sums over them; ess and
    resampled have an axis of length M after time, weights and ancestors one before that of the particles. Values and
    carries have the shapes of the model, each element with weights and ancestors of its own.
    """

    @property
    def loops(self) -> tuple[FilterResult, ...]:
        """The result of each independent loop, in the order of the model; this one alone where there is one loop."""
        return (self,)

    @property
    def state_probabilities(self) -> dict[str, np.ndarray]:
        """Return filtering probabilities of discrete sites, (T, *shape, K), those of the values 0 to K - 1.

        Raises:
            ValueError: the filter did not compute them; the message says how.
        """
        found = self.summaries.get("probabilities")
        if found is None:
            raise ValueError(
                "state_probabilities: the filter was not asked for them. Run ParticleFilter(..., summaries=(Mean(), "
                "SD(), ssmscan.Probabilities(K))), for states with the values 0 to K - 1."
            )
        return {site: np.moveaxis(np.asarray(x), 1, -1) for site, x in found.items()}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the run to a netCDF file and return its path; `ssmscan.load` gives it back, of one run on the host.

        A carry made of dictionaries, lists and tuples comes back as it was, one of other classes as its leaves.

        Raises:
            ValueError: as for `health`.
            OSError: if the file cannot be written; what was there before is untouched.
        """
        return filter_file.save(path, self.loops, self._attributes())

    def to_arviz(self) -> Any:
        """Return the series as what the installed ArviZ works with: a DataTree, or `InferenceData` before ArviZ 1.

        A group `filter` has the log predictive densities, effective sample sizes and whether the cloud was resampled,
        and each summary has one, such as `filtered_mean`.  Particles at one theta are no posterior, and there is none.

        Raises:
            ValueError: as for `health`.
        """
        attributes = self._attributes()
        return containers.export(containers.datatree(filter_file.groups(self.loops), attributes))

    def _attributes(self) -> dict[str, Any]:
        return {
            "inference_library": "ssmscan",
            "ssmscan_concerns": "\n".join(self.concerns()),
            "log_likelihood": float(self.log_likelihood),
        }

    @property
    def starving_limit(self) -> float:
        """Effective sample size below which a step starves."""
        return concerns.starving_limit(self.num_particles)

    def health(self) -> Health:
        """Return whether the run can be used, why not and what to do; on the host, for one run.

        It is sound unless weights vanished or were not numbers, the filter starved, or paths were lost.  The rules are
        in `ssmscan.particles.concerns`.

        Raises:
            ValueError: for a batch of runs, as made by vmap, and for traced values.
        """
        self._refuse_many()
        return concerns.health(self)

    def concerns(self) -> tuple[str, ...]:
        """Return the sentences of `health`; nothing if all is well.

        Raises:
            ValueError: as for `health`.
        """
        return self.health().sentences

    def message(self) -> str:
        """Return how the run ended, and what speaks against it, in sentences; on the host, for one run.

        Raises:
            ValueError: as for `health`.
        """
        self._refuse_many()
        return concerns.message(self)

    def unique_ancestors(self) -> np.ndarray:
        """Return from how many particles the last cloud descends, after each step that the store kept; on the host.

        Returns:
            (steps + 1,) the start, or the cloud before the first step kept, in front; (1,) of the start alone with
            `store=Eves()`.  The least over the elements of a panel.

        Raises:
            ValueError: the store kept no ancestry; for a batch, and for traced values.
        """
        self._refuse_many()
        return ancestors.unique_ancestors(self)

    def likelihood_variance(self) -> float:
        """Return an estimate of the relative variance of the likelihood estimate, by the genealogy of this one run.

        Its root is about the standard deviation of the log likelihood, where that is small; 1 where one ancestor at the
        start is left, whatever the variance.  See `ssmscan.particles.ancestors`.

        Raises:
            ValueError: unless it is of a filter with `resampling=multinomial, threshold=1` and one of the stores
                `Eves()`, `Ancestry()`, `FullHistory()`; for a batch, and for traced values.
        """
        self._refuse_many()
        return ancestors.likelihood_variance(self)

    @staticmethod
    def of_loops(loops: Iterable[FilterResult], labels: Labels | None = None) -> FilterResult:
        """Return what the filters of one or several loops found as one result, with labels where some are given."""
        first, *others = loops if labels is None else (replace(loop, labels=labels) for loop in loops)
        return _SeveralLoops((first, *others)) if others else first

    def _refuse_many(self) -> None:
        if not known(self.status):
            raise ValueError("the run has no values while it is traced: return it from jit, and look at it then.")
        if self.status.ndim:
            raise ValueError(
                "message(), health() and concerns() describe one run; index the batch first, e.g. "
                "jax.tree.map(lambda x: x[0], r)."
            )

    def card(self) -> Card:
        """Build what is printed, and what a notebook shows."""
        series = {name: getattr(self, name) for name in ("log_likelihood", "increments", "ess", "resampled", "status")}
        if not known(*series.values()):
            return forms("FilterResult", series, "of arrays without values")
        title = f"Particle filter, {self.brief()}"
        if self.log_likelihood.ndim:
            return Card(f"{title}: a batch of {self.log_likelihood.shape}", self._of_batch(), [_INDEX])
        rows = [
            ("health", self.health().line),
            ("log likelihood", f"{float(self.log_likelihood):.8g}"),
            *self._of_steps(),
            ("sites", listed(self.final.values)),
            ("summaries", listed(self.summaries) or "none"),
            ("kept", "the last cloud" if self.history is None else f"{type(self.history).__name__} of clouds"),
        ]
        if self.uses_later_data:
            rows.append(("increments", "no predictive scores: the particles knew later data"))
        return Card(title, rows, [self.message()])

    def _of_steps(self) -> list[tuple[str, str]]:
        ess = np.asarray(self.ess)
        if not ess.size:
            return []
        where, step = concerns.smallest(self)
        return [
            ("effective particles", f"least {ess[where]:.1f} {concerns.when(step)}, median {np.median(ess):.1f}"),
            ("resampled", f"before {np.mean(self.resampled):.0%} of the steps"),
        ]

    def brief(self) -> str:
        """Return the size of the run in words."""
        size = f"{self.num_particles} particles, {self.increments.shape[-1] - self.start_observed} steps"
        if self.panel is None:
            return size
        return size + f", {self.panel.size} elements of " + (f"'{self.panel.name}'" if self.panel.name else "a panel")

    def _of_batch(self) -> list[tuple[str, str]]:
        values, status = np.asarray(self.log_likelihood), np.asarray(self.status)
        ended = [f"{np.sum(status == code)} {words}" for code, words in _ENDED.items() if np.any(status == code)]
        return [
            ("log likelihood", f"{values.min():.8g} to {values.max():.8g}" if values.size else "none"),
            ("effective particles", f"least {np.min(self.ess, initial=np.inf):.1f}"),
            ("ended", ", ".join(ended)),
        ]

    def __repr__(self) -> str:
        return self.card().text()

    def _repr_html_(self) -> str:
        return self.card().html()


_INDEX = "For one run and its message index it, e.g. jax.tree.map(lambda x: x[0], r)."

_ENDED = {COMPLETE: "complete", FAULTY: "with log weights that are not numbers", VANISHED: "without any weight left"}


class _SeveralLoops(FilterResult):
    """The result of several independent loops; a pytree of theirs, the rest is computed from them."""

    def __init__(self, loops: Iterable[FilterResult]):
        object.__setattr__(self, "_loops", tuple(loops))

    def __getattr__(self, name: str) -> Any:
        if name in {field.name for field in fields(FilterResult)}:
            raise AttributeError(
                f"the result is of {len(self.loops)} independent loops, which have no time in common: ask one of them, "
                f"result.loops[k].{name}."
            )
        raise AttributeError(f"'FilterResult' object has no attribute '{name}'")

    @property
    def loops(self) -> tuple[FilterResult, ...]:
        return self._loops

    @property
    def num_particles(self) -> int:
        return self.loops[0].num_particles

    @property
    def labels(self) -> Labels:  # type: ignore[override]
        return self.loops[0].labels

    @property
    def log_likelihood(self) -> Array:
        return sum(loop.log_likelihood for loop in self.loops[1:]) + self.loops[0].log_likelihood

    @property
    def increments(self) -> Array:
        return jnp.concatenate([loop.increments for loop in self.loops], axis=-1)

    @property
    def summaries(self) -> dict[str, dict[str, Array]]:
        names = self.loops[0].summaries
        return {name: {site: x for loop in self.loops for site, x in loop.summaries[name].items()} for name in names}

    @property
    def status(self) -> Array:
        return jnp.stack([loop.status for loop in self.loops]).max(0)

    @property
    def failed_step(self) -> Array:
        worst, loops = self.status, self.loops
        return first_fault(jnp.stack([jnp.where(one.status == worst, one.failed_step, NOWHERE) for one in loops]))

    @property
    def faulty_step(self) -> Array:
        return first_fault(jnp.stack([loop.faulty_step for loop in self.loops]))

    def health(self) -> Health:
        every = [(f"Loop {k}", loop.health()) for k, loop in enumerate(self.loops)]
        measured = [(f"{name}, {what}", value) for name, found in every for what, value in found.measured]
        return Health.of((reason.about(name) for name, found in every for reason in found.reasons), measured)

    def likelihood_variance(self) -> float:
        return 1 - float(np.prod([1 - loop.likelihood_variance() for loop in self.loops]))

    def message(self) -> str:
        return " ".join(f"Loop {k}: {loop.message()}" for k, loop in enumerate(self.loops))

    def card(self) -> Card:
        title = f"Particle filters of {len(self.loops)} independent loops"
        values = [loop.log_likelihood for loop in self.loops]
        if not known(*values, *(loop.status for loop in self.loops)):
            return forms(title, {f"loop {k}": value for k, value in enumerate(values)}, "of arrays without values")
        if values[0].ndim:
            return Card(f"{title}: a batch of {values[0].shape}", (), ["Index it for one run and its message."])
        rows = [("health", self.health().line), ("log likelihood", f"{self.log_likelihood:.8g}")]
        for k, loop in enumerate(self.loops):
            rows.append((f"loop {k}", f"log likelihood {loop.log_likelihood:.8g}, {loop.brief()}"))
        return Card(title, rows, self.concerns() or (self.message(),))


jax.tree_util.register_pytree_node(_SeveralLoops, lambda one: (one.loops, None), lambda _, loops: _SeveralLoops(loops))


def first_fault(steps: Array) -> Array:
    """Return the first step of those at which runs met a fault, NOWHERE if none did; replicates in front."""
    met = jnp.where(steps == NOWHERE, np.iinfo(np.int32).max, steps).min(0)
    return jnp.where(met == np.iinfo(np.int32).max, NOWHERE, met).astype(np.int32)

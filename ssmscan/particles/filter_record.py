"""What a filter run is made of: the arrays that `FilterResult` reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from jax import Array

from ssmscan.labels import Labels
from ssmscan.model.protocols import Panel
from ssmscan.particles.clouds import Cloud, History, Origins, Tree

_STATIC = {"static": True}


@dataclass(frozen=True)
class FilterRecord:
    """The arrays and facts of a filter run.

    Attributes:
        log_likelihood: () unbiased estimate of the likelihood, on the log scale, everything observed included.
        increments: one-step-ahead log predictive densities; with the part of the likelihood that no
            state reaches they sum to log_likelihood. No scores where `uses_later_data`: there a step returns what
            others were ahead of it, and the sum alone is an estimate.
        ess: effective sample size after weighing, by the weights with which ancestors are drawn.
        resampled: bool, whether the cloud was resampled before the step.
        summaries: by summary and site, (T, ...).
        final: the last cloud.
        status: int32, see `message`.
        failed_step: int32, step of the event that `status` tells of, -1 the start, -2 none.
        failed_element: int32, the element of a panel it happened to, else 0.
        faulty_step: int32, first step with a log weight that was NaN or +inf, -1 the start, -2 none.
        sparsest: (n,) log weights with which ancestors were drawn, what is ahead included, of up to 1,000 particles
            where ess was smallest, elements of a panel in front; None where particles know no later data.
        history: what the store kept to draw paths from; the tree of each element of a panel by itself, in front.
        observations: names of the observed sites.
        start_observed: whether the series begin with the start.
        panel: where the elements of a panel are, None for one filter.
        first_step: number of the first of the steps, above 0 where an earlier run went on.
        proposal: name of what moved the particles.
        uses_later_data: whether particles knew data of later steps when they moved.
        independent_ancestors: whether every step drew its ancestors independently, by multinomial resampling.
        labels: names of the axes and what stands along them; on the host only, absent inside jit.
    """

    log_likelihood: Array
    increments: Array
    ess: Array
    resampled: Array
    summaries: dict[str, dict[str, Array]]
    final: Cloud
    status: Array
    failed_step: Array
    failed_element: Array
    faulty_step: Array
    sparsest: Array | None
    history: History | Tree | Origins | None
    observations: tuple[str, ...] = field(metadata=_STATIC)
    start_observed: bool = field(metadata=_STATIC)
    panel: Panel | None = field(metadata=_STATIC)
    first_step: int = field(metadata=_STATIC)
    proposal: str = field(metadata=_STATIC)
    uses_later_data: bool = field(metadata=_STATIC)
    independent_ancestors: bool = field(default=False, metadata=_STATIC)
    labels: Labels = field(default_factory=Labels, compare=False)

    @property
    def num_particles(self) -> int:
        """N."""
        return self.final.log_weights.shape[-1]

"""What a model makes of its prior: data like those that were observed, and whether a filter lives there.

Two mistakes show before any inference.  A prior that the data lie outside of, or that is a hundred times as wide, is
seen by simulation.  A filter that starves at draws of the prior is what a sampler on particles meets in its first
steps: where most draws starve it, PMMH needs long to find where to begin, and a prior that says more is the cure.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

import ssmscan
from ssmscan.results.table import significant

DRAWS = 200
"""Draws of the prior that data are simulated from."""

FILTERS, PARTICLES = 20, 1000
"""Draws of the prior that a filter runs at, and its particles."""

AGAIN = 10
"""Runs of the filter at the best of them."""

FEW_INSIDE, MUCH_WIDER = 0.5, 100.0
"""Share of the data within 90 % of the prior's, and its width beside theirs, at which something is said."""


class PriorLook(NamedTuple):
    """Sentences, and whether one of them says that the model cannot have made the data."""

    sentences: tuple[str, ...]
    impossible: bool


def simulated(key: jax.Array, ssm: ssmscan.StateSpaceModel) -> PriorLook:
    """Return how the data lie among those that the prior makes, in sentences for each observed site."""
    made = ssmscan.prior_predictive(key, ssm, num_draws=DRAWS)
    names = [site.name for site in ssm.observations if site.name in made and site.name in ssm.observed]
    found = [_compared(name, np.asarray(made[name][0], float), ssm.observed[name]) for name in names]
    return PriorLook(tuple(sentence for one in found for sentence in one), False)


def _compared(name: str, made: np.ndarray, data: np.ndarray) -> list[str]:
    """Return sentences on the data (T, ...) of a site, beside draws of them (DRAWS, T, ...)."""
    data = np.asarray(data, float)
    seen = np.isfinite(data)
    if not seen.any():
        return [f"{name}: nothing is observed."]
    usable = np.isfinite(made)
    low, high = np.quantile(made[usable], [0.05, 0.95]) if usable.any() else (np.nan, np.nan)
    found = [
        f"{name}: the data lie between {_short(data[seen].min())} and {_short(data[seen].max())}, 90 % of what the "
        f"prior makes between {_short(low)} and {_short(high)}."
    ]
    if not usable.all():
        share = 1.0 - usable.reshape(len(made), -1).all(1).mean()
        found.append(
            f"{name}: {share:.0%} of the draws of the prior make data that are not finite: a scale that can be huge, "
            "or a transition that grows without bound. A prior that says more helps every engine."
        )
    made = np.where(usable, made, np.nan)
    with np.errstate(all="ignore"):
        lower, upper = np.nanquantile(made, [0.05, 0.95], axis=0)
    inside = ((lower <= data) & (data <= upper))[seen].mean()
    wider = (high - low) / np.ptp(data[seen]) if np.ptp(data[seen]) > 0 else 1.0
    if inside < FEW_INSIDE:
        found.append(
            f"{name}: only {inside:.0%} of the data lie within the central 90 % of what the prior makes at their "
            "steps: the prior is elsewhere than the data, or a unit or a scale is not what it should be."
        )
    elif wider > MUCH_WIDER:
        found.append(
            f"{name}: the prior makes data {significant(wider)} times as wide as those observed: filters at its draws "
            "starve, and samplers begin far away. A prior that knows the scale of the data helps every engine."
        )
    return found


def filtered(key: jax.Array, ssm: ssmscan.StateSpaceModel) -> PriorLook:
    """Return how a bootstrap filter fares at draws of the prior."""
    particle_filter = ssmscan.ParticleFilter(PARTICLES, summaries=())
    for_theta, for_runs, for_best = jax.random.split(key, 3)
    number = FILTERS if ssm.parameters else 1
    thetas = jax.jit(lambda keys: jax.lax.map(ssm.sample_prior, keys))(jax.random.split(for_theta, number))

    @jax.jit
    def run(keys: jax.Array, thetas: dict[str, jax.Array]) -> ssmscan.FilterResult:
        return jax.lax.map(lambda one: particle_filter.run(one[0], ssm, one[1]), (keys, thetas))

    runs = run(jax.random.split(for_runs, number), thetas)
    values = np.asarray(runs.log_likelihood, float)
    said = [jax.tree.map(lambda leaf, k=k: leaf[k], runs).concerns() for k in range(number)]
    alive, well = np.isfinite(values), np.array([not sentences for sentences in said])
    where = f"at {number} draws of the prior" if number > 1 else "at the one there is"
    if not alive.any():
        first = said[0][0] if said[0] else ""
        none = f"A bootstrap filter of {PARTICLES:,} particles {where} finds no state that can have made the data."
        return PriorLook((f"{none} At the first: {first}",), True)
    best = int(np.argmax(np.where(alive, values, -np.inf)))
    theta = jax.tree.map(lambda leaf: leaf[best], thetas)
    again = run(jax.random.split(for_best, AGAIN), jax.tree.map(lambda x: np.broadcast_to(x, (AGAIN, *x.shape)), theta))
    spread = float(np.std(np.asarray(again.log_likelihood, float), ddof=1))
    found = [
        f"A bootstrap filter of {PARTICLES:,} particles {where}: {well.sum()} without complaint, "
        f"{(alive & ~well).sum()} starved, {(~alive).sum()} with no likelihood; at the best the log likelihood is "
        f"{values[best]:.6g}, with sd {significant(spread)} between runs."
    ]
    if well.sum() < number / 2:
        found.append(f"{_worst(said)} {_ADVICE}")
    return PriorLook(tuple(found), False)


_ADVICE = (
    "Away from the posterior a filter may starve without harm there; where even the best draw starves, use more "
    "particles, ssmscan.LookAhead(), or a prior that says more."
)


def _worst(said: list[tuple[str, ...]]) -> str:
    """Return what is said of a draw at which the filter starves."""
    return "For one: " + next(sentences[0] for sentences in said if sentences)


def _short(value: float) -> str:
    return significant(float(value), 3)

"""One particle as a function of base noise, staged for each choice of the maps from noise to values.

    particles   exact in law: what a bootstrap filter draws in
    smooth      what gradient engines move; there is none where a site has no such map
    guided      smooth where there is a map from noise that is, else as for particles: what a Gaussian proposal draws in
    surrogate   as guided, smooth stand-ins for the others (`noise.moments`): what the Gaussian approximation expands

Equal choices are one object, staged once.  Where stand-ins make counts real, the leaves of the carry and the outputs
that they enter are real too (`staging.real_values`), and with them what is observed of the outputs after the loop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssmscan.model.jaxprs.dataflow import Reached, Staged
from ssmscan.model.noise.families import NoiseMap
from ssmscan.model.noise.moments import Matched, SiteMap, Transported
from ssmscan.model.protocols import NoiseSpec
from ssmscan.model.staging import functions
from ssmscan.model.staging.discovery import TracedSite
from ssmscan.model.staging.post_loop import stage_post_loop, step_output
from ssmscan.model.staging.real_values import AS_INTEGER, as_for_particles, counts_of, with_real_counts
from ssmscan.model.staging.user_model import UserModel

PyTree = Any


class OfNoise(NamedTuple):
    """The start and a step of one particle as functions of base noise.

    Attributes:
        start: theta, noise -> see `functions.start_noise`.
        step: theta, carry, x, noise -> see `functions.step_noise`.
        specs: the noise of each latent site that is not a parameter.
    """

    start: Staged
    step: Staged
    specs: dict[str, NoiseSpec]


class OneParticle(NamedTuple):
    """What moves and weighs one particle under some maps.

    Attributes:
        maps: start and step.
        row: outside, t, y -> "log_prob" by site, what is observed of a step after the loop.
        start_rows: outside -> "log_prob" by site, what is observed of the start there.
        carry: shapes of the carry.
        output: shapes of the output of a step.
        held: by site whose noise is held at zero, why.
    """

    maps: OfNoise
    row: Staged
    start_rows: Staged
    carry: PyTree
    output: PyTree
    held: dict[str, str]


def latent_sites(user_model: UserModel, parameters: Collection[str]) -> dict[str, TracedSite]:
    """Return the latent sites of this loop that are no parameters."""
    return {
        name: site
        for name, site in (user_model.outside | user_model.innovations).items()
        if site.latent and name not in parameters and name not in user_model.part.foreign
    }


def stage_maps(
    user_model: UserModel, parameters: tuple[str, ...], initial: tuple[str, ...]
) -> tuple[OfNoise, OfNoise | None, OfNoise]:
    """Stage start and step under the maps for particles, the smooth ones (None without), and the guided ones."""
    latent = latent_sites(user_model, parameters)
    particle = {n: s.particle for n, s in latent.items() if s.particle is not None}
    smooth = {n: s.smooth for n, s in latent.items() if s.smooth is not None}
    found = list[tuple[Mapping[str, SiteMap], OfNoise]]()

    def staged(maps: Mapping[str, SiteMap]) -> OfNoise:
        same = [of_noise for known, of_noise in found if known == maps]
        of_noise = same[0] if same else _stage(user_model, parameters, initial, maps)
        found.append((maps, of_noise))
        return of_noise

    under_particle = staged(particle)
    return under_particle, staged(smooth) if smooth.keys() == latent.keys() else None, staged(_guided(latent))


def stage_surrogate(
    user_model: UserModel,
    parameters: tuple[str, ...],
    initial: tuple[str, ...],
    guided: OneParticle,
    after: Collection[str],
) -> OneParticle:
    """Stage what the Gaussian approximation expands; `guided` itself where every site has a smooth map.

    Args:
        user_model: the model.
        parameters, initial: names of sites.
        guided: one particle under the guided maps.
        after: names of the sites that are observed after the loop, from its outputs.
    """
    latent = latent_sites(user_model, parameters)
    held = {n: s.stand_in for n, s in latent.items() if isinstance(s.stand_in, str)}
    maps = _guided(latent)
    maps |= {n: s.stand_in for n, s in latent.items() if isinstance(s.stand_in, Matched | Transported)}
    real, integers = with_real_counts(user_model, parameters, maps)
    row, start_rows = guided.row, guided.start_rows
    read = real.plan.ys != user_model.plan.ys or real.plan.outside != user_model.plan.outside
    if read and row.names("log_prob"):
        try:
            after_loop = stage_post_loop(real, functions.by_value(real), after)
        except Exception:  # The model runs with integers, and may fail in any way where they are not.
            real, integers = user_model, counts_of(user_model, maps)
        else:
            row, start_rows = after_loop.step, after_loop.rest.select(log_prob=start_rows.names("log_prob"))
    held |= dict.fromkeys(integers, AS_INTEGER)
    maps = as_for_particles(user_model, maps, integers)
    own = guided.maps if maps == _guided(latent) else _stage(real, parameters, initial, maps)
    return OneParticle(own, row, start_rows, real.plan.carry, step_output(real.plan), held)


def _guided(latent: Mapping[str, TracedSite]) -> dict[str, SiteMap]:
    """Return the smooth maps from noise, and for the other sites those for particles."""
    maps: dict[str, SiteMap] = {n: s.particle for n, s in latent.items() if s.particle is not None}
    return maps | {n: s.smooth for n, s in latent.items() if isinstance(s.smooth, NoiseMap)}


def _stage(
    user_model: UserModel, parameters: tuple[str, ...], initial: tuple[str, ...], maps: Mapping[str, SiteMap]
) -> OfNoise:
    return OfNoise(
        functions.start_noise(user_model, parameters, {n: maps[n] for n in initial}),
        functions.step_noise(user_model, parameters, {n: maps[n] for n in user_model.innovations}),
        {n: map_.spec for n, map_ in maps.items()},
    )


@lru_cache(maxsize=256)
def varying(start: Staged, step: Staged, held: frozenset[str]) -> tuple[bool, ...]:
    """Find the real leaves of the carry that noise reaches, by a fixpoint of what reaches what in a step.

    Args:
        start, step: theta, noise -> "carry"; theta, carry, x, noise -> "carry".
        held: sites whose noise does not count.
    """

    def reaching(staged: Staged) -> list[set[Reached]]:
        return jax.tree.leaves(staged.reaches("carry"), is_leaf=lambda node: isinstance(node, set))

    def by_noise(staged: Staged) -> set[int]:
        free = {("noise", k) for k, name in enumerate(sorted(staged.argument("noise"))) if name not in held}
        return {k for k, pairs in enumerate(reaching(staged)) if not free.isdisjoint(pairs)}

    reached, moved = by_noise(start) | by_noise(step), reaching(step)
    while grown := {k for k, pairs in enumerate(moved) if any(("carry", i) in pairs for i in reached)} - reached:
        reached |= grown
    leaves = jax.tree.leaves(step.argument("carry"))
    return tuple(k in reached and jnp.issubdtype(leaf.dtype, jnp.inexact) for k, leaf in enumerate(leaves))


def without_held(
    specs: Mapping[str, NoiseSpec], names: Iterable[str], held: Collection[str]
) -> tuple[dict[str, NoiseSpec], dict[str, jax.Array]]:
    """Return the noise of some sites that is free, and the values of what is held: zero, or one key."""
    own = {name: specs[name] for name in names}
    fixed = {n: jax.random.key(0) if s.is_key else jnp.zeros(s.shape) for n, s in own.items() if n in held}
    return {name: spec for name, spec in own.items() if name not in held}, fixed

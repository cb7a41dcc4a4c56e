r"""Check a trace by site at one forward run of NumPyro: cheap enough for every `trace`.

NumPyro draws all latent sites of the model as it was written, (theta, s, z), and counts each site.  At these values
the parts that engines read must count it the same:

.. math::  \log p_i(\text{as written}) = h_i(\theta, s) + \sum_t f_{it}(c_{t-1}, x_t, z_t) + \sum_t g_{it}(y_t)

for every site i, where h is what stands outside the loop, f the density of a step and g a row that is observed after
the loop; of a panel, the sum over its elements too.  Draws from noise are not looked at, which `StateSpaceModel.check`
does: their maps belong to the families and not to the model, and compiling them takes most of the time.

Where NumPyro has no density (values of the data that a horizon leaves open) or none that is finite, nothing is
compared.  A loop that amplifies rounding is told from one that was misunderstood by evaluating NumPyro's side again
at values that differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ssmscan.errors import ModelError
from ssmscan.model.handlers import original
from ssmscan.model.handlers.moving import start_name
from ssmscan.model.handlers.original import Names
from ssmscan.model.noise.families import MapKind
from ssmscan.model.sites import Role
from ssmscan.model.statespace.core import Core
from ssmscan.model.statespace.dynamics import LoopDynamics
from ssmscan.model.statespace.element_dynamics import elements_at
from ssmscan.model.statespace.parameters import cast

Terms = dict[str, Any]
POINT = "_log_density"
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
ELEMENTS = "the sum over the elements of the panel"


class Compared(NamedTuple):
    """Log-density of one site."""

    parts: float
    original: float
    tolerance: float

    @property
    def differ(self) -> bool:
        """Whether both are known and differ by more than rounding."""
        known = np.isfinite(self.original) and not np.isposinf(self.parts)
        return bool(known and not abs(self.parts - self.original) <= self.tolerance)


def names(cores: Sequence[Core]) -> Names:
    """Return the sites of a model by what they are to NumPyro's density."""
    outside = [site for core in cores for site in core.program.plan.outside]
    inside = {site.name for core in cores for site in core.program.plan.inside}
    rows = {name: place for core in cores for name, place in core.program.rows.items()}
    initial = [site.name for core in cores for site in core.initial if site.name not in map(start_name, rows)]
    parameters = [site.name for site in cores[0].parameters]
    innovations = {site.name for core in cores for site in core.innovations}
    return Names(
        parameters=parameters,
        initial=initial,
        summed=[site.name for core in cores for site in core.summed_out],
        masked=frozenset(site.name for site in outside if site.masked),
        simulated=[site.name for site in outside if site.simulated and site.name not in inside],
        latent=frozenset({*parameters, *initial} | innovations),
        rows=rows,
    )


def check_sites(key: jax.Array, cores: tuple[Core, ...], call: Callable[[list], Any], arrays: list) -> None:
    """Compare every site at one forward run of NumPyro.

    Args:
        key: PRNG key of the run.
        cores: the loops, missing elements of their data filled.
        call: the model as it was written, as a function of its array arguments.
        arrays: those arguments.

    Raises:
        ModelError: the parts count a site otherwise than NumPyro does; the message has both numbers.
    """
    sites = names(cores)

    def both(key: jax.Array, cores: tuple[Core, ...], arrays: list, simple: bool) -> tuple[dict, Terms]:
        found = original.forward(key, lambda: call(arrays), sites, {}, simple=simple)
        ours, elements = _by_site(cores, found.values)
        return _pairs(ours, elements, found), found.values

    for simple in (True, False):
        try:
            pairs, values = compiled_quickly(partial(both, simple=simple), key, cores, arrays)
        except original.NoDensity:
            return
        compared = {name: Compared(*map(float, pair)) for name, pair in jax.device_get(pairs).items()}
        if all(np.isfinite(found.original) for found in compared.values()):
            break
    wrong = {name: found for name, found in compared.items() if found.differ}
    if not wrong:
        return
    scale = _rounding(values, sites, call, arrays)
    for name, found in wrong.items():
        if abs(found.parts - found.original) > found.tolerance + scale.get(name, sum(scale.values())):
            what = name if name == ELEMENTS else f"site '{name}'"
            raise ModelError(
                f"in the traced parts {what} has log-density {found.parts:.6g} at values where NumPyro counts "
                f"{found.original:.6g} (tolerance {found.tolerance:.2g}); the model was not understood. Please report "
                "it with the model. ssmscan.enable_validation(False) traces it all the same."
            )


def is_plain(core: Core) -> bool:
    """Return whether nothing but the plainest rules took a loop apart.

    All sites stand before the loop or in it, the observed ones in it without gaps, all count by their law, and states
    are drawn by exact maps; elements of a panel, other loops and what stands after the loop take rules of more steps.
    """
    plan, after = core.program.plan, (Role.POST_LOOP_OBSERVATION, Role.START_OBSERVATION)
    before = not any(site.loop for site in plan.outside) and not core.with_role(*after)
    alone = not (plan.main or plan.horizons or plan.noise_free or plan.drawn_after or core.program.rows)
    alone = alone and core.panel is None
    as_drawn = not any(site.gaps or site.scaled or site.masked or site.reweighted for site in core.traced_sites)
    exact = all(site.particle.kind is MapKind.EXACT for site in plan.inside if site.particle is not None)
    return before and alone and as_drawn and exact


def _by_site(cores: Sequence[Core], values: Mapping[str, jax.Array]) -> tuple[Terms, Any]:
    """Sum what the parts count of each site at given values, and the elements of a panel, None where there are none."""
    total: Terms = {}

    def add(terms: Mapping[str, Any]) -> None:
        for name, value in terms.items():
            total[name] = total.get(name, 0.0) + jnp.sum(value)

    elements = None
    for number, core in enumerate(cores):
        theta = cast(core, {site.name: values[site.name] for site in core.parameters})
        initial = {site.name: values[site.name].astype(site.dtype) for site in core.initial}
        path = {site.name: values[site.name].astype(site.dtype) for site in core.innovations}
        outside, densities = core.outside(theta, initial), core.program.densities
        for staged in (densities.prior,) * (number == 0) + (densities.initial, densities.start, densities.static):
            for terms in staged(core.arrays, outside=outside).values():
                add(terms)
        for staged in (densities.start_rows, densities.static_rows):
            for terms in staged(core.arrays, outside=outside).values():
                add(terms)
        last, ys, terms = _run(LoopDynamics(core, theta), core.start(theta, initial), path)
        add(terms)
        if core.program.post_loop.mixing:
            add(densities.mixing(core.arrays, outside=outside, ys=ys, last=last)["outside_log_prob"])
        if core.panel is not None and len(cores) == 1:
            elements = _by_element(core, theta, initial, path) + core.log_static(theta)
    return total, elements


def _run(bound: LoopDynamics, start: Any, path: Mapping[str, jax.Array]) -> tuple[Any, Any, Terms]:
    """Step through a loop at given values; last carry, outputs, and log-densities by site with time in front."""

    def body(carry: Any, inputs: Any) -> tuple[Any, Any]:
        carry, y, terms = bound.evaluate_by_site(carry, *inputs)
        return carry, (y, terms)

    last, (ys, terms) = lax.scan(body, start, (bound.xs, path))
    return last, ys, terms


def _by_element(core: Core, theta: Terms, initial: Terms, path: Terms) -> jax.Array:
    """Sum the log-densities of the elements of a panel, evaluated one by one at their rows of the values."""
    panel, at = core.panel, elements_at(core, theta)
    assert panel is not None
    axes = dict(panel.values)

    def density(number: jax.Array) -> jax.Array:
        element = at(number)

        def rows(values: Terms) -> Terms:
            return {
                n: lax.dynamic_slice_in_dim(v, number, 1, v.ndim + axes[n]) if axes[n] else v for n, v in values.items()
            }

        def body(carry: Any, inputs: Any) -> tuple[Any, Any]:
            found = element.evaluate(carry, *inputs)
            return found.carry, found.log_transition + found.log_observation

        start = element.evaluate_start(rows(initial))
        densities = lax.scan(body, start.carry, (element.xs, rows(path)))[1]
        return start.log_initial + start.log_observation + jnp.sum(densities)

    return jnp.sum(jax.vmap(density)(jnp.arange(panel.size, dtype=jnp.int32)))


def _pairs(ours: Terms, elements: Any, found: original.Original) -> dict[str, tuple[Any, Any, Any]]:
    """Pair what the parts and NumPyro count of every site, with the difference that rounding explains."""
    # The log-density of a point is a factor of its own here, and so is a row before the first step.
    factors = {name + POINT: name for name in found.counted if name + POINT in ours}
    factors |= {start_name(name): name for name in found.sites.rows if start_name(name) in ours}
    ours = {name: value for name, value in ours.items() if name not in factors} | {
        name: ours.get(name, 0.0) + ours[factor] for factor, name in factors.items()
    }
    pairs, rounding = {}, 64 * float(jnp.finfo(jnp.result_type(float)).eps)
    for name in {**found.counted, **ours}:
        mine, theirs = jnp.asarray(ours.get(name, 0.0)), jnp.asarray(found.counted.get(name, 0.0))
        pairs[name] = mine, theirs, rounding * (found.sizes.get(name, 0.0) + abs(mine) + 1.0)
    if elements is not None:
        states = found.total - sum(found.counted[name] for name in found.sites.parameters)
        pairs[ELEMENTS] = elements, states, sum(pair[2] for pair in pairs.values())
    return pairs


def _rounding(values: Terms, sites: Names, call: Callable, arrays: list) -> dict[str, float]:
    """Return how far values that differ by rounding alone move the log-density of each site, with a margin of 16."""
    host = {name: np.asarray(value) for name, value in jax.device_get(values).items()}
    draws = np.random.default_rng(0)

    def counted(values: Terms, arrays: list) -> Terms:
        return original.at_values(lambda: call(arrays), sites, values).counted

    def moved(value: np.ndarray) -> np.ndarray:
        if not np.issubdtype(value.dtype, np.floating):
            return value
        return (value * (1 + np.finfo(value.dtype).eps * draws.uniform(-2, 2, value.shape))).astype(value.dtype)

    run = jax.jit(counted)
    found = [run({name: moved(value) for name, value in host.items()} if k else host, arrays) for k in range(4)]
    first, *others = jax.device_get(found)
    return {name: 16 * float(max(abs(other[name] - first[name]) for other in others)) for name in first}


def compiled_quickly(function: Callable, *args: Any) -> Any:
    """Evaluate a function that is run once or twice: compilation takes longer than a slow program does."""
    return jax.jit(function, compiler_options=_known_options())(*args)


@cache
def _known_options() -> dict[str, Any]:
    """Return the options of a quick compilation that this version of XLA knows."""

    def known(name: str) -> bool:
        try:
            jax.jit(lambda: 0, compiler_options={name: QUICK[name]})()
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in QUICK.items() if known(name)}

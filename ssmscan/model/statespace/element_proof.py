"""One attempt to prove that elements of a panel do not interact, and the staged functions of one; see `elements`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ssmscan.model.jaxprs.axes import constants, follow_staged, is_tracked
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.placeholders import Shape, zeros
from ssmscan.model.jaxprs.source_lines import Mixing
from ssmscan.model.jaxprs.tracked_axis import Axis, MixesRows, Tracked, Window
from ssmscan.model.protocols import NoiseSpec, Panel
from ssmscan.model.sites import Role
from ssmscan.model.staging.discovery import TracedSite
from ssmscan.model.staging.functions import by_element
from ssmscan.model.staging.post_loop import stage_observed
from ssmscan.model.staging.user_model import UserModel, x_shapes
from ssmscan.model.statespace.element_functions import ElementFunctions, ElementsInteract, OneElement
from ssmscan.model.statespace.loop_functions import LoopFunctions
from ssmscan.model.statespace.one_particle import OfNoise, OneParticle

PyTree = Any


def latent_noise(loop: LoopFunctions, maps: OfNoise) -> dict[str, NoiseSpec]:
    """Return the noise of the innovations and the initial-state sites."""
    return {name: maps.specs[name] for name in (*loop.names(Role.INNOVATION), *loop.initial)}


class Proof:
    """One attempt: a size, and which of the axes of that size is taken where there are several."""

    def __init__(self, user_model: UserModel, loop: LoopFunctions, particle: OneParticle, size: int, *, last: bool):
        self.user_model, self.loop, self.particle, self.size = user_model, loop, particle, size
        self.specs = specs = latent_noise(loop, particle.maps)
        self.noise_axes: dict[str, Axis] = {}
        if common := tuple(name for name in loop.initial if size not in user_model.outside[name].shape):
            which = f"{', '.join(map(repr, common))} {'are' if len(common) > 1 else 'is'} common to all elements"
            raise ElementsInteract(f"{which}; ssm.with_roles(parameters={common!r}) lets them be filtered one by one")
        for name, spec in specs.items():
            places = [k for k, n in enumerate(spec.shape) if n == size]
            if spec.is_key:
                raise ElementsInteract(f"'{name}' is drawn by its family's own sampler, for all elements at once")
            if not places:
                raise ElementsInteract(f"'{name}' is common to all elements")
            self.noise_axes[name] = Axis(places[-1 if last else 0], size)
        self.value_axes: dict[str, Axis | None] = {}
        self.carry_axes: list[Axis | None] = [None] * len(jax.tree.leaves(loop.plan.carry))
        self.one = {"theta": user_model.shapes(loop.parameters), "m": Shape((), "int32")}

    def one_element(self) -> OneElement:
        """Find the fixpoint over the carry, and stage a start and a step."""
        while True:
            before = list(self.carry_axes)
            start = {**self.one, "noise": self._noise_shapes(self.loop.initial)}
            jax.eval_shape(self._start, self.user_model.data_shapes(), **start)
            step = {**self._here(), "noise": self._noise_shapes(self.loop.names(Role.INNOVATION))}
            jax.eval_shape(self._step, self.user_model.data_shapes(), **step)
            if self.carry_axes == before:
                break
        noise = {n: NoiseSpec(self._one_row(spec.shape, self.noise_axes[n]), False) for n, spec in self.specs.items()}
        stage = self.user_model.stage
        return OneElement(stage(self._start, start), stage(self._step, step), noise, self.particle.held)

    def elements(
        self, particles: OneElement, guided: OneElement, surrogate: OneElement, moved: tuple[str, ...]
    ) -> ElementFunctions:
        """Stage what else there is of one element, its axes known."""
        inside, outside = self.user_model.innovations, {n: self.user_model.outside[n] for n in self.loop.initial}
        here, stage = self._here(), self.user_model.stage
        start, step = (
            {**self.one, "values": self._value_shapes(outside)},
            {**here, "values": self._value_shapes(inside)},
        )
        invertible = self._invertible(start, step)
        return ElementFunctions(
            self._panel(),
            particles,
            guided,
            surrogate,
            moved,
            stage(self._evaluate_start, start),
            stage(self._evaluate, step),
            invertible,
            stage(partial(self._start_noise_of, invertible), start),
            stage(partial(self._noise_of, invertible), step),
            stage(self._cdf, step),
            self._stage_observed({"m": self.one["m"], "x": here["x"]}),
        )

    def _here(self) -> dict[str, Any]:
        """Return the shapes of the arguments of a step beside its noise or values."""
        return {**self.one, "carry": self._carry_shapes(self.particle.carry), "x": x_shapes(self.loop.plan)}

    # ---- the functions of one element -------------------------------------------------------------

    def _start(self, data: list, theta: dict, m: Array, noise: dict) -> dict:
        window, loop = self._window(m), self.loop
        arguments = {"theta": constants(theta), "noise": self._track_noise(noise)}
        out = self._follow(self.particle.maps.start, data, arguments, window)
        log_weight = [out["log_excess"], out["correction"]]
        log_weight += (out["log_observation"][n] for n in loop.names(Role.START_OBSERVATION))
        outside = {**constants(self.user_model.known(theta)), **{n: out["values"][n] for n in loop.initial}}
        log_weight += self._follow(self.particle.start_rows, data, {"outside": outside}, window)["log_prob"].values()
        return {
            "carry": self._settle_carry(out["carry"], window),
            "log_weight": self._sum(log_weight, window),
            "log_rough": self._sum([out["log_rough"]], window),
            "values": self._note_values(out["values"], window),
        }

    def _evaluate_start(self, data: list, theta: dict, m: Array, values: dict) -> dict:
        window, loop, outside = self._window(m), self.loop, self._outside(theta, values)

        def find(staged: Staged, entry: str) -> Any:
            return self._follow(staged, data, {"outside": outside}, window)[entry]

        seen = find(loop.densities.start, "outside_log_prob"), find(loop.densities.start_rows, "log_prob")
        return {
            "carry": self._settle_carry(find(loop.initial_carry, "start"), window),
            "log_initial": self._sum([*find(loop.densities.initial, "outside_log_density").values()], window),
            "log_observation": self._sum([term for terms in seen for term in terms.values()], window),
            "log_excess": self._sum([*find(loop.densities.initial_excess, "outside_log_excess").values()], window),
        }

    def _start_noise_of(self, names: Collection[str], data: list, theta: dict, m: Array, values: dict) -> dict:
        arguments = {"outside": self._outside(theta, values)}
        return self._noise(self.loop.start_noise_of, "outside_noise", names, data, arguments, self._window(m))

    def _noise_of(
        self, names: Collection[str], data: list, theta: dict, m: Array, carry: PyTree, x: PyTree, values: dict
    ) -> dict:
        arguments = self._by_value(theta, carry, x, values)
        return self._noise(self.loop.noise_of, "noise", names, data, arguments, self._window(m))

    def _noise(
        self, staged: Staged, entry: str, names: Collection[str], data: list, arguments: dict, window: Window
    ) -> dict[str, Array]:
        kept = staged.select(**{entry: [name for name in staged.names(entry) if name in names]})
        found = self._follow(kept, data, arguments, window)[entry]
        for name, noise in found.items():
            if self._axis(noise, f"the noise of '{name}'") != self.noise_axes[name]:
                raise ElementsInteract(f"the noise of '{name}' has the elements along another axis than its map takes")
        return {name: noise.value for name, noise in found.items()}

    def _invertible(self, start: dict, step: dict) -> tuple[str, ...]:
        """Find the sites whose noise is a function of the values of its element alone."""

        def one_by_one(name: str) -> bool:
            try:
                jax.eval_shape(partial(self._start_noise_of, {name}), self.user_model.data_shapes(), **start)
                jax.eval_shape(partial(self._noise_of, {name}), self.user_model.data_shapes(), **step)
            except ElementsInteract:
                return False
            return True

        return tuple(name for name in self.loop.invertible if one_by_one(name))

    def _step(self, data: list, theta: dict, m: Array, carry: PyTree, x: PyTree, noise: dict) -> dict:
        window = self._window(m)
        arguments = {"theta": constants(theta), "noise": self._track_noise(noise)}
        arguments |= {"carry": self._track_carry(carry), "x": constants(x)}
        out = self._follow(self.particle.maps.step, data, arguments, window)
        post_loop = self._post_loop(data, theta, x, out["y"], window)
        return {
            "carry": self._settle_carry(out["carry"], window),
            "log_weight": self._sum([out["log_weight"], out["correction"], *post_loop], window),
            "log_rough": self._sum([out["log_rough"]], window),
            "values": self._note_values(out["values"], window),
            "cdf": self._note_cdf(out["cdf"], window),
        }

    def _evaluate(self, data: list, theta: dict, m: Array, carry: PyTree, x: PyTree, values: dict) -> dict:
        window, loop = self._window(m), self.loop
        arguments = self._by_value(theta, carry, x, values)
        staged = loop.evaluate.select("carry", "y", "log_transition", "log_excess", "log_observation", "deterministic")
        out = self._follow(staged, data, arguments, window)
        post_loop = self._post_loop(data, theta, x, out["y"], window)
        return {
            "carry": self._settle_carry(out["carry"], window),
            "log_transition": self._sum([*out["log_transition"].values()], window),
            "log_observation": self._sum([*out["log_observation"].values(), *post_loop], window),
            "deterministic": self._note_values(out["deterministic"], window),
            "log_excess": self._sum([*out["log_excess"].values()], window),
        }

    def _cdf(self, data: list, theta: dict, m: Array, carry: PyTree, x: PyTree, values: dict) -> dict:
        window = self._window(m)
        arguments = self._by_value(theta, carry, x, values)
        return {"cdf": self._note_cdf(self._follow(self.loop.cdf, data, arguments, window)["cdf"], window)}

    def _outside(self, theta: dict, initial: dict) -> dict[str, Tracked]:
        followed = {n: Tracked(v, self.value_axes[n]) for n, v in initial.items()}
        return {**constants(self.user_model.known(theta)), **followed}

    def _by_value(self, theta: dict, carry: PyTree, x: PyTree, values: dict) -> dict:
        followed = {n: Tracked(v, self.value_axes[n]) for n, v in values.items()}
        outside = constants(self.user_model.known(theta))
        return {"outside": outside, "carry": self._track_carry(carry), "x": constants(x), "values": followed}

    def _stage_observed(self, arguments: dict) -> Staged:
        """Cut the observed values where their densities have the axis; other arguments do not reach them."""
        loop, own = self.loop, self.user_model.with_own_table()
        elements, after = by_element(own), stage_observed(own, loop.value, loop.post_loop.direct)
        names = sorted(set(loop.data.observed_step.names("observed")).intersection(elements.names("inside")))

        def observed(data: list, m: Array, x: PyTree) -> dict:
            window, arrays = self._window(m), own.arrays(data)
            nothing = (self.user_model.shapes(loop.parameters), self._carry_shapes(loop.plan.carry))
            (theta, carry), values = zeros(nothing), zeros(self._value_shapes(self.user_model.innovations))
            by_value = self._by_value(theta, carry, x, values)
            pairs = follow_staged(elements.select(inside=names), arrays, by_value, window)["inside"]
            whole = follow_staged(loop.data.observed_step, arrays, by_value, window)["observed"]
            y = follow_staged(loop.evaluate.select("y"), arrays, by_value, window)["y"]
            rows = follow_staged(after, arrays, {"outside": by_value["outside"], "t": Tracked(x[0]), "y": y}, window)
            pairs |= {n: (value, rows["log_density"][n]) for n, value in rows["value"].items()}
            out = {}
            for name, (like, log_density) in pairs.items():
                value = jnp.broadcast_to((whole | rows["value"])[name].value, jnp.shape(like.value))
                mark = log_density.mark
                out[name] = window.rows(value, mark) if isinstance(mark, Axis) else value
            return {"observed": out}

        return self.user_model.with_constants_of(own, own.stage(observed, arguments))

    def _post_loop(self, data: list, theta: dict, x: PyTree, y: PyTree, window: Window) -> list[Tracked]:
        outside = self.user_model.known(theta)
        arguments = {"outside": constants(outside), "t": Tracked(x[0]), "y": y}
        return list(self._follow(self.particle.row, data, arguments, window)["log_prob"].values())

    # ---- what the proof requires ------------------------------------------------------------------

    def _settle_carry(self, carry: PyTree, window: Window) -> PyTree:
        """Note where leaves of a carry have the axis, and return them; a constant is cut if it has it elsewhere."""
        settled = []
        for k, leaf in enumerate(jax.tree.leaves(carry, is_leaf=is_tracked)):
            axis = self._axis(leaf, "the carry")
            if None not in (axis, self.carry_axes[k]) and axis != self.carry_axes[k]:
                raise ElementsInteract("a leaf of the carry has the elements along another axis after a step")
            place = self.carry_axes[k] = axis or self.carry_axes[k]
            settled.append(window.rows(leaf.value, place) if axis is None and place is not None else leaf.value)
        return jax.tree.unflatten(jax.tree.structure(self.loop.plan.carry), settled)

    def _note_values(self, values: Mapping[str, Tracked], window: Window) -> dict[str, Array]:
        """Note where values have the axis, and return them."""
        for name, value in values.items():
            axis = self._axis(value, f"'{name}'")
            if name in self.noise_axes and axis is None:
                raise ElementsInteract(f"'{name}' is common to all elements")
            self.value_axes[name] = axis
        return {name: value.value for name, value in values.items()}

    def _note_cdf(self, cdf: Mapping[str, tuple[Tracked, ...]], window: Window) -> dict[str, tuple[Array, ...]]:
        return {name: tuple(self._note_values({name: c}, window)[name] for c in pair) for name, pair in cdf.items()}

    def _axis(self, tracked: Tracked, what: str) -> Axis | None:
        mark = tracked.mark
        if mark is None or (isinstance(mark, Axis) and mark == Axis(mark.axis, self.size) and mark.axis is not None):
            return mark
        if isinstance(mark, Axis):
            how = "belongs to one element alone" if mark.axis is None else "reorders elements"
            raise ElementsInteract(f"{what} {how}")
        origin = mark if isinstance(mark, Mixing) else mark.origin
        raise ElementsInteract(f"{what} joins elements, {origin}")

    def _sum(self, terms: list[Tracked], window: Window) -> Array:
        try:
            return sum((window.contribution(term) for term in terms), jnp.zeros((), jnp.result_type(float)))
        except MixesRows as found:
            raise ElementsInteract(f"an observation joins elements, {found.origin}") from None

    # ---- helpers ----------------------------------------------------------------------------------

    def _window(self, m: Array) -> Window:
        return Window(self.size, m, headless=True)

    def _follow(self, staged: Staged, data: list, arguments: dict, window: Window) -> Any:
        return follow_staged(staged, self.user_model.arrays(data), arguments, window)

    def _one_row(self, shape: tuple[int, ...], axis: Axis | None) -> tuple[int, ...]:
        return tuple(shape) if axis is None else (*shape[: axis.axis], 1, *shape[axis.axis + 1 :])  # type: ignore[operator]

    def _noise_shapes(self, names: tuple[str, ...]) -> dict[str, Shape]:
        dtype = jnp.result_type(float)
        return {name: Shape(self._one_row(self.specs[name].shape, self.noise_axes[name]), dtype) for name in names}

    def _track_noise(self, noise: dict) -> dict[str, Tracked]:
        return {name: Tracked(value, self.noise_axes[name]) for name, value in noise.items()}

    def _carry_shapes(self, carry: PyTree) -> PyTree:
        leaves, tree = jax.tree.flatten(carry)
        shapes = [Shape(self._one_row(s.shape, a), s.dtype) for s, a in zip(leaves, self.carry_axes)]
        return jax.tree.unflatten(tree, shapes)

    def _track_carry(self, carry: PyTree) -> PyTree:
        leaves, tree = jax.tree.flatten(carry)
        return jax.tree.unflatten(tree, [Tracked(leaf, axis) for leaf, axis in zip(leaves, self.carry_axes)])

    def _value_shapes(self, sites: Mapping[str, TracedSite]) -> dict[str, Shape]:
        return {n: Shape(self._one_row(site.shape, self.value_axes[n]), site.dtype) for n, site in sites.items()}

    def _panel(self) -> Panel:
        def back(axis: Axis | None, ndim: int) -> int:
            return 0 if axis is None else axis.axis - ndim  # type: ignore[operator]

        sites = {site.name: site for site in (*self.loop.plan.outside, *self.loop.plan.inside)}
        plates = [{(plate, size) for plate, size, _ in sites[name].plates} for name in self.loop.names(Role.INNOVATION)]
        names = [name for name, size in sorted(set.intersection(*plates)) if size == self.size]
        return Panel(
            self.size,
            names[0] if names else None,
            tuple((name, axis.axis or 0) for name, axis in self.noise_axes.items()),
            tuple((name, back(axis, len(sites[name].shape))) for name, axis in self.value_axes.items()),
            tuple(back(a, len(s.shape)) for a, s in zip(self.carry_axes, jax.tree.leaves(self.loop.plan.carry))),
        )

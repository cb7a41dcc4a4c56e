"""Run the user's function under control: we give every site its value and take over every loop.

Two handlers do it.  `_Outside` stands around the model: it hands each latent site outside the loop
to a function of ours and each `numpyro.contrib.control_flow.scan` to another.  `_Inside` stands
around the body of a loop, alone: the body runs once, as one step, with sites known by position
(names built from a traced index are not stable).

NumPyro sends a scan as a message of type `control_flow` whose `fn` runs after every handler has
spoken.  We replace that `fn`, so conditioned values, keys and masks of the user's handlers have
arrived wherever they stand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.ops.pytree import PytreeTrace
from numpyro.primitives import _PYRO_STACK, Messenger

from ssmscan.errors import ModelError
from ssmscan.model.handlers import missing
from ssmscan.model.handlers.messages import (
    OUTSIDE,
    SiteMessage,
    can_be_drawn,
    clean_name,
    is_factor,
    is_point,
    point_counts,
    unmasked,
    with_sample_shape,
)
from ssmscan.model.handlers.missing import NO_GAPS, Gaps
from ssmscan.model.handlers.names import SiteNames, given_in_loop, prefix_of
from ssmscan.model.handlers.params import Constants
from ssmscan.model.handlers.scans import Loop, Simulated, given_value, number_of_steps, returning_pairs
from ssmscan.model.handlers.stack import isolated, lifted_names, refuse_around, reparam_names
from ssmscan.model.handlers.stand_ins import with_stand_ins
from ssmscan.model.handlers.tables import as_arrays
from ssmscan.model.handlers.totals import with_data_totals

PyTree = Any


class LeaveModel(Exception):
    """Raised at the loop by callers that need nothing after it."""


def run_model(
    call: Callable,
    value_of: Callable,
    at_loop: Callable,
    redrawn: Collection[str] = (),
    gaps: Gaps = NO_GAPS,
    constants: Constants | None = None,
    names: SiteNames | None = None,
) -> tuple[list[SiteMessage], Any]:
    """Run a model with latent values from `value_of` and loops handed to `at_loop`.

    Args:
        call: the model with its arguments bound.
        value_of: `(name, fn) -> value` for a latent site outside loops.
        at_loop: `(index, loop) -> (last_carry, ys)`, or NumPyro's own result from `loop.default()`, which is
            `Simulated` if the sites of the loop are drawn and not inferred.
        redrawn: names of observed sites outside loops that get their value from `value_of` too.
        gaps: which observed sites have missing elements.
        constants: what answers for parameters and keys, kept by a caller that wants to know what was asked.
        names: names of the sites, kept by a caller that wants to know which were met.

    Returns:
        The messages of the sites outside loops in order, and what the model returned.
    """
    constants = Constants() if constants is None else constants
    handler = _Outside(value_of, at_loop, redrawn, gaps, constants, SiteNames() if names is None else names)
    with handler, constants:
        try:
            returned = call()
        except LeaveModel:
            return handler.messages, None
    return handler.messages, returned


def run_step(loop: Loop, t: jax.Array, carry: PyTree, x: PyTree, value_of: Callable):
    """Run the body of a loop once.

    Args:
        loop: the loop.
        t: index of the step, an integer scalar.
        carry: the carry before the step.
        x: the user's input of the step.
        value_of: `(position, name, fn) -> value` for a latent site.

    Returns:
        carry after the step, output of the step, messages in order.
    """
    handler, constants = _Inside(loop, t, value_of), Constants(key=loop.constants.key)
    with isolated(), handler, constants:
        carry, y = loop.f(carry, x)
    loop.constants.requests += constants.requests
    return carry, y, handler.messages


class _Sites(Messenger):
    """What both handlers share: keeping messages and refusing what has no meaning for engines."""

    where = ""
    gaps: Gaps
    prefixes: Mapping[str, str] = MappingProxyType({})

    def __init__(self):
        self.messages: list[SiteMessage] = []
        self.trace_state = get_opaque_trace_state(convention="ssmscan")
        super().__init__()

    def under_transformation(self) -> bool:
        return get_opaque_trace_state(convention="ssmscan") != self.trace_state

    def refuse(self, msg: dict) -> None:
        kind, name = msg["type"], clean_name(str(msg.get("name")))
        if kind in ("sample", "deterministic") and self.under_transformation():
            raise ModelError(
                f"site '{name}' stands inside jax.lax.scan or another JAX transformation (jit, vmap, lax.cond), which "
                "hides it from inference. For a time loop use numpyro.contrib.control_flow.scan, which takes the same "
                "arguments as jax.lax.scan; for several elements use numpyro.plate."
            )
        if kind == "plate" and msg["args"][0] != msg["args"][1] and msg["args"][1] is not None:
            raise ModelError(
                f"plate '{name}' {self.where} draws a random subsample; inference in the loop needs all "
                f"{msg['args'][0]} elements. Remove subsample_size."
            )

    def fill(self, msg: dict, present: Any, impute: Callable | None, **where) -> None:
        """Fill the missing elements of an observed value, and record which they are.

        Args:
            msg: the message of the site, its value given.
            present: which elements are there, or None.
            impute: `(name, fn) -> value` of the missing elements, None where they are not drawn.
            where: position for the message of what is drawn.
        """
        fn, name = with_sample_shape(msg), msg["_name"]
        value = jnp.asarray(msg["value"])
        if name in self.gaps.names and jnp.issubdtype(value.dtype, jnp.inexact):
            number = value == value
            present = number if present is None else present & number
        if present is None or is_factor(fn):
            return
        value, present = jnp.broadcast_to(value, fn.shape()), jnp.broadcast_to(present, fn.shape())
        msg["_gaps"] = {"present": present, "raw": value}
        value = missing.fill(fn, value, present)
        if impute is not None and self.gaps.imputes(name):
            hidden = name + missing.SUFFIX
            value = missing.complete(unmasked(fn), value, present, impute(hidden, unmasked(fn)))
            facts = {**where, "present": present, "plates": self.plates(msg)}
            self.messages.append(SiteMessage(hidden, fn, value, False, None, **facts))
        msg["value"] = value

    def set_point_value(self, msg: dict) -> bool:
        """Set the value of a site that can have only one, making it a deterministic or a factor; return whether."""
        if msg["value"] is None and is_point(msg["fn"]):
            msg["value"], msg["_point"] = with_sample_shape(msg).sample(jax.random.key(0)), True
        return msg.get("_point", False)

    def record(self, msg: dict, **where) -> None:
        name, where["written"] = msg.get("_name", ""), str(msg.get("name"))
        if msg.get("_point"):
            fn = with_sample_shape(msg)
            self.messages.append(SiteMessage(name, None, msg["value"], False, None, **where, plates=self.plates(msg)))
            if point_counts(fn):
                factor = dist.Unit(fn.log_prob(msg["value"]))
                nothing, facts = jnp.zeros(factor.shape()), {**where, "plates": self.plates(msg)}
                self.messages.append(SiteMessage(f"{name}_log_density", factor, nothing, True, msg["scale"], **facts))
        elif msg["type"] == "sample":
            fn, facts = with_sample_shape(msg), {**where, **msg.get("_gaps", {}), "plates": self.plates(msg)}
            # NumPyro's `obs_mask` splits a site in two, one after the other.
            facts["auxiliary"] = bool(self.messages) and (
                (self.messages[-1].name, name)
                == tuple(f"{name.removesuffix('_unobserved')}_{part}" for part in ("observed", "unobserved"))
            )
            self.messages.append(SiteMessage(name, fn, msg["value"], msg["_fixed"], msg["scale"], **facts))
        elif msg["type"] == "deterministic":
            self.messages.append(SiteMessage(name, None, msg["value"], False, None, **where, plates=self.plates(msg)))

    def plates(self, msg: dict) -> tuple[tuple[str, int, int], ...]:
        prefix, behind = self.prefixes.get("plate", ""), getattr(msg.get("fn"), "event_dim", 0)
        return tuple((f"{prefix}{one.name}", one.size, one.dim - behind) for one in msg["cond_indep_stack"])


class _Outside(_Sites):
    where = "outside the loop"

    def __init__(self, value_of, at_loop, redrawn, gaps, constants, names):
        self.value_of, self.at_loop, self.redrawn, self.gaps = value_of, at_loop, redrawn, gaps
        self.constants, self.names = constants, names
        self.numbering: dict[int | None, Callable[[str], str]] = defaultdict(names.numbering)
        self.loops, self.replaying, self.simulated = 0, None, set()
        super().__init__()

    def process_message(self, msg: dict) -> None:
        self.refuse(msg)
        if msg["type"] == "control_flow":
            return self._loop(msg)
        if msg["type"] not in ("sample", "deterministic"):
            return None
        replayed = msg.get("_control_flow_done", False)
        self.replaying = self.replaying if replayed else None
        msg["_name"] = self.numbering[self.replaying](str(msg["name"]))
        if msg["type"] == "sample":
            if replayed and self.replaying is None:
                raise ModelError(
                    f"site '{clean_name(msg['name'])}' stands inside numpyro.contrib.control_flow.cond; "
                    "use jnp.where on the parameters of one site instead."
                )
            msg["fn"], msg["value"] = with_data_totals(msg["fn"]), as_arrays(msg["value"])
            msg["_fixed"] = msg["value"] is not None
            if self.set_point_value(msg):
                return None
            if msg["value"] is None or msg["_name"] in self.redrawn:
                msg["value"] = self.value_of(msg["_name"], with_sample_shape(msg))
            elif replayed:
                self.fill(msg, None, None)
            else:
                self.fill(msg, None, self.value_of, loop=self.loops)

    def postprocess_message(self, msg: dict) -> None:
        if msg["type"] in ("sample", "deterministic"):
            replayed = self.replaying if msg.get("_control_flow_done", False) else None
            if replayed in self.simulated:
                self.messages.append(
                    SiteMessage(msg["_name"], None, msg["value"], False, None, self.loops, replayed, simulated=True)
                )
            else:
                self.record(msg, loop=self.loops, replayed=replayed)

    def _loop(self, msg: dict) -> None:
        original, kwargs = msg["fn"], msg["kwargs"]
        # A key is needed only to find shapes; the values drawn with it are never used.
        kwargs["rng_key"] = jax.random.key(0) if kwargs.get("rng_key") is None else kwargs["rng_key"]
        # Under jit or vmap a scan can only compute: its sites are refused when NumPyro sends them after it.
        if len(msg["args"]) != 5 or self.under_transformation():
            return
        index, self.loops = self.loops, self.loops + 1
        around = [handler for handler in _PYRO_STACK if handler is not self]

        def fn(f, init, xs, length, reverse, **rest):
            init, xs = as_arrays((init, xs))
            f, length = returning_pairs(f), number_of_steps(xs, length)
            given = given_in_loop(around, rest["substitute_stack"])
            rest["substitute_stack"] = [(kind, in_loop) for kind, in_loop, *_ in given]
            loop = Loop(
                f,
                init,
                xs,
                length,
                reverse,
                given,
                lambda key=None: with_stand_ins(
                    original, f, init, xs, length, reverse, **(rest if key is None else rest | {"rng_key": key})
                ),
                reparam_names(around),
                self.constants,
                hidden=tuple(h.hide_fn for h in around if isinstance(h, handlers.block)),
                gaps=self.gaps,
                names=self.names,
                prefixes={kind: prefix_of(kind, around) for kind in ("sample", "deterministic", "plate")},
                lifted=lifted_names(around),
            )
            refuse_around(around)
            result = self.at_loop(index, loop)
            if isinstance(result, Simulated):
                self.simulated.add(index)
                result = result.result
            if len(result) == 2 and isinstance(result[1], tuple) and isinstance(result[1][0], PytreeTrace):
                self.replaying = index
                return result
            last_carry, ys = result
            return (length, None, last_carry), (PytreeTrace({}), ys)

        msg["fn"] = fn


class _Inside(_Sites):
    where = "inside the loop"

    def __init__(self, loop: Loop, t, value_of):
        self.loop, self.t, self.value_of, self.gaps, self.prefixes = loop, t, value_of, loop.gaps, loop.prefixes
        self.name_of = loop.names.numbering()
        super().__init__()

    def process_message(self, msg: dict) -> None:
        self.refuse(msg)
        kind = msg["type"]
        lifted = self.loop.lifted is None or any(str(name).endswith(msg.get("name", "")) for name in self.loop.lifted)
        if kind == "param" and (lifted or not msg["args"]):
            why = "a handlers.lift around the scan does not reach it" if msg["args"] else "its initial value is drawn"
            raise ModelError(
                f"numpyro.param '{msg['name']}' stands inside the loop, where {why}; move it before the scan or make "
                "it a sample site."
            )
        if kind in ("sample", "deterministic") and msg.get("_control_flow_done", False):
            raise ModelError(
                f"site '{clean_name(msg['name'])}' stands inside a scan or cond nested in the loop. Only a nested "
                "scan without sites is supported; move its draws into the outer body as one site of larger shape."
            )
        if kind == "control_flow" and msg["kwargs"].get("rng_key") is None:
            msg["kwargs"]["rng_key"] = jax.random.key(0)
        if kind in ("sample", "deterministic"):
            prefix = "" if msg.get("infer", {}).get(OUTSIDE) else self.prefixes.get(kind, "")
            msg["_name"] = self.name_of(prefix + str(msg["name"]))
        if kind != "sample":
            return
        if any(hides(msg) for hides in self.loop.hidden):
            raise ModelError(
                f"site '{clean_name(msg['name'])}' is hidden by a handlers.block around the scan, so NumPyro does not "
                "count it. Remove the handler, or expose the site."
            )
        if msg["name"] in self.loop.reparam:
            raise ModelError(
                f"site '{msg['name']}' is named in a handlers.reparam around the scan, which does not reach into the "
                "loop. Put the handler inside the transition, or drop it: noise_outside reparameterises for you."
            )
        given, present = given_value(self.loop, msg, self.t)
        if given is not None:
            msg["value"] = given
        msg["_fixed"] = msg["value"] is not None
        if msg["_fixed"]:
            self.fill(msg, present, lambda name, fn: self.value_of(len(self.messages), name, fn))
            if self.loop.draw_observed is not None and can_be_drawn(msg["fn"]):
                msg["value"] = self.loop.draw_observed(with_sample_shape(msg))
                if self.messages and self.messages[-1].name == msg["_name"] + missing.SUFFIX:
                    self.messages[-1] = self.messages[-1]._replace(value=msg["value"])
        elif not self.set_point_value(msg):
            msg["value"] = self.value_of(len(self.messages), msg["_name"], with_sample_shape(msg))

    def postprocess_message(self, msg: dict) -> None:
        self.record(msg)

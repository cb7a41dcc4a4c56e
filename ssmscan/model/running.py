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

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import get_opaque_trace_state
from numpyro import handlers
from numpyro.ops.pytree import PytreeTrace
from numpyro.primitives import _PYRO_STACK, Messenger

from ssmscan.model.records import Record, clean_name, is_factor, with_sample_shape

PyTree = Any


class ModelError(ValueError):
    """The model cannot be taken apart; the message names the site and the way out."""


class Loop(NamedTuple):
    """One scan as it was met.

    Attributes:
        f: the transition.
        init: initial carry.
        xs: per-step inputs.
        length: number of steps.
        reverse: whether it runs backwards.
        history: NumPyro's `history`.
        substitutions: pairs (kind, mapping) of `condition` and `substitute` handlers around it.
        default: runs it as NumPyro does and returns NumPyro's result.
        reparam: names that a `reparam` handler around it would change.
        draw_observed: `fn -> value` to simulate data at observed sites, None to keep them.
    """

    f: Callable
    init: PyTree
    xs: PyTree
    length: int
    reverse: bool
    history: int
    substitutions: list
    default: Callable
    reparam: frozenset[str]
    draw_observed: Callable | None = None


class LeaveModel(Exception):
    """Raised at the loop by callers that need nothing after it."""


def run_model(
    call: Callable, value_of: Callable, at_loop: Callable, redrawn: Collection[str] = ()
) -> tuple[list[Record], Any]:
    """Run a model with latent values from `value_of` and loops handed to `at_loop`.

    Args:
        call: the model with its arguments bound.
        value_of: `(name, fn) -> value` for a latent site outside loops.
        at_loop: `(index, loop) -> (last_carry, ys)`, or NumPyro's own result from `loop.default()`.
        redrawn: names of observed sites outside loops that get their value from `value_of` too.

    Returns:
        The records of the sites outside loops in order, and what the model returned.
    """
    handler = _Outside(value_of, at_loop, redrawn)
    with handler:
        try:
            returned = call()
        except LeaveModel:
            return handler.records, None
    return handler.records, returned


def run_step(loop: Loop, t: jax.Array, carry: PyTree, x: PyTree, value_of: Callable):
    """Run the body of a loop once.

    Args:
        loop: the loop.
        t: index of the step, an integer scalar.
        carry: the carry before the step.
        x: the user's input of the step.
        value_of: `(position, name, fn) -> value` for a latent site.

    Returns:
        carry after the step, output of the step, records in order.
    """
    handler = _Inside(loop, t, value_of)
    with isolated(), handler:
        carry, y = loop.f(carry, x)
    return carry, y, handler.records


@contextmanager
def isolated() -> Iterator[None]:
    """Hide every active handler; `handlers.block` would still let key requests through."""
    saved = list(_PYRO_STACK)
    _PYRO_STACK.clear()
    try:
        yield
    finally:
        _PYRO_STACK[:] = saved


def refuse_active_handlers() -> None:
    """Raise if `trace` was called inside a handler, whose effect could not be kept."""
    if _PYRO_STACK:
        names = ", ".join(type(handler).__name__ for handler in _PYRO_STACK)
        raise ModelError(
            f"ssmscan.trace was called inside the NumPyro handler(s) {names}; their effect would end with "
            "the block. Wrap the model instead: ssmscan.trace(handlers.condition(model, data=...), ...)."
        )


class _Sites(Messenger):
    """What both handlers share: keeping records and refusing what has no meaning for engines."""

    where = ""

    def __init__(self):
        self.records: list[Record] = []
        self.trace_state = get_opaque_trace_state(convention="ssmscan")
        super().__init__()

    def refuse(self, msg: dict) -> None:
        kind, name = msg["type"], clean_name(str(msg.get("name")))
        visible = kind in ("sample", "deterministic", "control_flow")
        if visible and get_opaque_trace_state(convention="ssmscan") != self.trace_state:
            raise ModelError(
                f"{'a scan' if kind == 'control_flow' else f'site {name!r}'} stands inside jax.lax.scan or another JAX "
                "transformation (jit, vmap, lax.cond), which hides it from inference. For a time loop use "
                "numpyro.contrib.control_flow.scan, which takes the same arguments as jax.lax.scan; for several "
                "elements use numpyro.plate."
            )
        if kind == "prng_key" and msg["value"] is None:
            raise ModelError(
                "the model calls numpyro.prng_key(): the draws made from it are invisible to inference. "
                "Draw with numpyro.sample instead."
            )
        if kind == "plate" and msg["args"][0] != msg["args"][1] and msg["args"][1] is not None:
            raise ModelError(
                f"plate '{name}' {self.where} draws a random subsample; inference in the loop needs all "
                f"{msg['args'][0]} elements. Remove subsample_size."
            )

    def keep(self, msg: dict, name: str, **where) -> None:
        if msg["type"] == "sample":
            fn = with_sample_shape(msg)
            plates = tuple((frame.name, frame.size) for frame in msg["cond_indep_stack"])
            self.records.append(Record(name, fn, msg["value"], msg["_fixed"], msg["scale"], plates=plates, **where))
        elif msg["type"] == "deterministic":
            self.records.append(Record(name, None, msg["value"], False, None, **where))


class _Outside(_Sites):
    where = "outside the loop"

    def __init__(self, value_of, at_loop, redrawn):
        self.value_of, self.at_loop, self.redrawn = value_of, at_loop, redrawn
        self.loops, self.replaying = 0, None
        super().__init__()

    def process_message(self, msg: dict) -> None:
        self.refuse(msg)
        if msg["type"] == "control_flow":
            return self._loop(msg)
        if msg["type"] not in ("sample", "deterministic"):
            return None
        replayed = msg.get("_control_flow_done", False)
        self.replaying = self.replaying if replayed else None
        if msg["type"] == "sample":
            if replayed and self.replaying is None:
                raise ModelError(
                    f"site '{clean_name(msg['name'])}' stands inside numpyro.contrib.control_flow.cond; "
                    "use jnp.where on the parameters of one site instead."
                )
            msg["_fixed"] = msg["value"] is not None
            if msg["value"] is None or msg["name"] in self.redrawn:
                msg["value"] = self.value_of(msg["name"], with_sample_shape(msg))

    def postprocess_message(self, msg: dict) -> None:
        if msg["type"] in ("sample", "deterministic"):
            replayed = self.replaying if msg.get("_control_flow_done", False) else None
            self.keep(msg, clean_name(msg["name"]), loop=self.loops, replayed=replayed)

    def _loop(self, msg: dict) -> None:
        if len(msg["args"]) != 5:
            return
        index, self.loops = self.loops, self.loops + 1
        original, kwargs = msg["fn"], msg["kwargs"]
        around = [handler for handler in _PYRO_STACK if handler is not self]
        # A key is needed only to find shapes; the values drawn with it are never used.
        kwargs["rng_key"] = jax.random.key(0) if kwargs.get("rng_key") is None else kwargs["rng_key"]

        def fn(f, init, xs, length, reverse, **rest):
            leaves = jax.tree.leaves(xs)
            if length is None and leaves:
                length = jnp.shape(leaves[0])[0]
            loop = Loop(
                f,
                init,
                xs,
                length,
                reverse,
                rest.get("history", 1),
                rest["substitute_stack"],
                lambda: original(f, init, xs, length, reverse, **rest),
                _reparam_names(around),
            )
            _refuse_around(around)
            result = self.at_loop(index, loop)
            if len(result) == 2 and isinstance(result[1], tuple) and isinstance(result[1][0], PytreeTrace):
                self.replaying = index
                return result
            last_carry, ys = result
            return (length, None, last_carry), (PytreeTrace({}), ys)

        msg["fn"] = fn


class _Inside(_Sites):
    where = "inside the loop"

    def __init__(self, loop: Loop, t, value_of):
        self.loop, self.t, self.value_of = loop, t, value_of
        super().__init__()

    def process_message(self, msg: dict) -> None:
        self.refuse(msg)
        kind = msg["type"]
        if kind == "param":
            raise ModelError(
                f"numpyro.param '{msg['name']}' stands inside the loop; move it before the scan or make it a "
                "sample site."
            )
        if kind in ("sample", "deterministic") and msg.get("_control_flow_done", False):
            raise ModelError(
                f"site '{clean_name(msg['name'])}' stands inside a scan or cond nested in the loop. Only a nested "
                "scan without sites is supported; move its draws into the outer body as one site of larger shape."
            )
        if kind == "control_flow" and msg["kwargs"].get("rng_key") is None:
            msg["kwargs"]["rng_key"] = jax.random.key(0)
        if kind != "sample":
            return
        if msg["name"] in self.loop.reparam:
            raise ModelError(
                f"site '{msg['name']}' is named in a handlers.reparam around the scan, which does not reach into the "
                "loop. Put the handler inside the transition, or drop it: noise_outside reparameterises for you."
            )
        given = given_value(self.loop, msg, self.t)
        if given is not None:
            msg["value"] = given
        msg["_fixed"] = msg["value"] is not None
        if msg["_fixed"] and self.loop.draw_observed is not None and not is_factor(msg["fn"]):
            msg["value"] = self.loop.draw_observed(with_sample_shape(msg))
        if msg["value"] is None:
            msg["value"] = self.value_of(len(self.records), msg["name"], with_sample_shape(msg))

    def postprocess_message(self, msg: dict) -> None:
        self.keep(msg, msg.get("name", ""))


def given_value(loop: Loop, msg: dict, t):
    """The value that `condition` or `substitute` around the loop gives to a site at step t, or None."""
    value = None
    for _, mapping in loop.substitutions:
        found = mapping.get(msg["name"]) if isinstance(mapping, dict) else mapping(msg)
        value = value if found is None else jnp.asarray(found)
    if value is None:
        return None
    fn, name = with_sample_shape(msg), clean_name(msg["name"])
    ndim = len(fn.shape())
    if value.ndim == ndim:
        return value
    if value.ndim != ndim + 1:
        raise ModelError(
            f"site '{name}' is conditioned on a value of shape {value.shape}; expected {('T', *fn.shape())} with "
            f"T = {loop.length}, or {fn.shape()} for the same value at every step."
        )
    if value.shape[0] > loop.length:
        raise ModelError(
            f"site '{name}' is conditioned on {value.shape[0]} values but the loop has {loop.length} steps; "
            "shorten the data or lengthen the loop."
        )
    if value.shape[0] < loop.length:
        raise ModelError(
            f"site '{name}' is conditioned on {value.shape[0]} values but the loop has {loop.length} steps. "
            "Trace the model with as many steps as there are data."
        )
    return lax.dynamic_index_in_dim(value, t, keepdims=False)


def _reparam_names(around: list[Messenger]) -> frozenset[str]:
    configs = [h.config for h in around if isinstance(h, handlers.reparam) and isinstance(h.config, dict)]
    return frozenset(name for config in configs for name in config)


def _refuse_around(around: list[Messenger]) -> None:
    harmful = {"mask", "scale", "scope", "do", "uncondition", "plate", "collapse", "lift", "replay"}
    for handler in around:
        name = type(handler).__name__
        if name in harmful or (name == "reparam" and not isinstance(handler.config, dict)):
            raise ModelError(
                f"numpyro handler or plate '{name}' stands around the scan, where NumPyro does not carry its meaning "
                "into the loop. Put it inside the transition, around the sites it is meant for."
            )

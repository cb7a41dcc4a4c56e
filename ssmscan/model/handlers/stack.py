"""NumPyro's stack of active handlers, of which there is one for the whole process.

Two threads that ran models at once would push handlers onto each other's stack and see each other's sites.  Whatever
of this package runs a model holds one lock; what NumPyro runs by itself in another thread cannot be held back, but is
seen and refused.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from numpyro import handlers
from numpyro.primitives import _PYRO_STACK, Messenger

from ssmscan.errors import ModelError

P = ParamSpec("P")
R = TypeVar("R")

_LOCK = threading.RLock()


def exclusive(function: Callable[P, R]) -> Callable[P, R]:
    """Let one thread at a time run a function that runs models."""

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        with _LOCK:
            return function(*args, **kwargs)

    return alone


@contextmanager
def isolated() -> Iterator[None]:
    """Hide every active handler; `handlers.block` would still let key requests through."""
    with _LOCK:
        saved = list(_PYRO_STACK)
        _PYRO_STACK.clear()
        try:
            yield
        finally:
            _PYRO_STACK[:] = saved


@contextmanager
def beyond(handler: Messenger) -> Iterator[None]:
    """Speak only to the handlers around an active one: not to it, nor to those within it."""
    at = _PYRO_STACK.index(handler)
    inner = _PYRO_STACK[at:]
    del _PYRO_STACK[at:]
    try:
        yield
    finally:
        _PYRO_STACK.extend(inner)


def innermost(model: Callable) -> Callable:
    """Return the function under the handlers that a model is wrapped in."""
    while isinstance(model, Messenger) and model.fn is not None:
        model = model.fn
    return model


def refuse_active_handlers() -> None:
    """Raise if `trace` was called while handlers are active, whose effect could not be kept."""
    if _PYRO_STACK:
        names = ", ".join(type(handler).__name__ for handler in _PYRO_STACK)
        raise ModelError(
            f"the NumPyro handler(s) {names} are active while ssmscan.trace is called. If it stands in their block, "
            "their effect would end there: wrap the model instead, as in ssmscan.trace(handlers.condition(model, "
            "data=...), ...). If another thread is running a NumPyro model, trace before or after: the stack of "
            "handlers is one for all threads."
        )


def reparam_names(around: list[Messenger]) -> frozenset[str]:
    """Return the names that `reparam` handlers around a scan would change."""
    configs = [h.config for h in around if isinstance(h, handlers.reparam) and isinstance(h.config, dict)]
    return frozenset(name for config in configs for name in config)


def lifted_names(around: list[Messenger]) -> frozenset[str] | None:
    """Return the names to which `lift` handlers around a scan give a prior, None for all."""
    priors = [h.prior for h in around if isinstance(h, handlers.lift)]
    if any(not isinstance(prior, dict) for prior in priors):
        return None
    return frozenset(name for prior in priors for name in prior)


def refuse_around(around: list[Messenger]) -> None:
    """Raise if a handler stands around a scan that NumPyro does not carry into it."""
    harmful = {"mask", "scale", "do", "uncondition", "plate", "collapse", "replay"}
    for handler in around:
        name = type(handler).__name__
        if name in harmful or (name == "reparam" and not isinstance(handler.config, dict)):
            raise ModelError(
                f"numpyro handler or plate '{name}' stands around the scan, where NumPyro does not carry its meaning "
                "into the loop. Put it inside the transition, around the sites it is meant for."
            )

"""The check that `trace` makes of its own work, and the switch that turns it off.

    with ssmscan.validation_enabled(False):
        ssm = ssmscan.trace(model, y)

A model that the plainest rules take apart is not checked, nor is one whose program was found right for the same code.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from ssmscan.model.handlers.stack import innermost
from ssmscan.model.statespace import data, site_check
from ssmscan.model.statespace.front import StateSpaceModel

_SETTINGS = {"enabled": True}
_RIGHT: OrderedDict[Any, None] = OrderedDict()
_REMEMBERED = 256


def enable_validation(is_validate: bool = True) -> None:
    """Let `ssmscan.trace` check what it makes of a model, as it does by default, or not.

    See `StateSpaceModel.check` for what is compared.

    Args:
        is_validate: whether it does.
    """
    _SETTINGS["enabled"] = is_validate


@contextmanager
def validation_enabled(is_validate: bool = True) -> Iterator[None]:
    """Let `ssmscan.trace` check what it makes of a model inside the block, or not.

    Args:
        is_validate: whether it does.
    """
    before = _SETTINGS["enabled"]
    enable_validation(is_validate)
    try:
        yield
    finally:
        enable_validation(before)


def validate(ssm: StateSpaceModel) -> None:
    """Compare the parts of a model with NumPyro, site by site, unless the plainest rules took it apart.

    Raises:
        ModelError: they differ; the message names the site and has both numbers.
    """
    source = ssm.source
    assert source is not None
    if not _SETTINGS["enabled"] or any(isinstance(a, jax.core.Tracer) for core in ssm.cores for a in core.arrays):
        return
    written, wrapped = _code(source.model)
    plain = len(ssm.cores) == 1 and not wrapped and site_check.is_plain(ssm.cores[0])
    key = (written, wrapped, *(core.program for core in ssm.cores))
    if plain or key in _RIGHT:
        return
    # Not under jax.ensure_compile_time_eval, which would compile operations on constants one by one.
    random_key = jax.random.key(0)
    if isinstance(random_key, jax.core.Tracer):
        return
    if ssm.has_gaps:
        ssm, source = source.over_arrays(ssm)
    arrays = source.arrays
    if ssm.has_gaps:
        arrays = data.filled(arrays)
        ssm = ssm.over(arrays)
        # NumPyro's forward run has no site for missing elements that the model reads.
        if ssm.missing_sites or any(map(data.with_missing, ssm.cores)):
            return
    site_check.check_sites(random_key, ssm.cores, source.call, arrays)
    _RIGHT[key] = None
    if len(_RIGHT) > _REMEMBERED:
        _RIGHT.popitem(last=False)


def _code(model: Callable) -> tuple[Any, tuple[type, ...]]:
    """Return the code of a model, which closures that are made again share, and the kinds of handlers around it."""
    kinds: list[type] = []
    while True:
        inner = innermost(model)
        inner = inner.func if isinstance(inner, functools.partial) else inner
        if inner is model:
            return getattr(model, "__code__", model), tuple(kinds)
        kinds.append(type(model))
        model = inner

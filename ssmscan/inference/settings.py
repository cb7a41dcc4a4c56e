"""What an engine was told: checked when it is made, written down when it has run.

Engines are frozen dataclasses.  Their ``__post_init__`` checks every setting, by `ssmscan.arguments`, before anything
is compiled; a `Result` keeps the settings as JSON can hold them, and the versions of the packages that did the work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import jax
import numpy as np

from ssmscan.errors import ModelError
from ssmscan.model.keys import one_key
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.results.data import Costs
from ssmscan.results.result import Result


def require_parameters(ssm: StateSpaceModel) -> None:
    """Refuse a model in which nothing is left to draw but the states.

    Raises:
        ModelError: the model has no parameters.
    """
    if not ssm.parameters:
        raise ModelError(
            "the model has no parameters, so a random walk on them has nothing to do. Use ssmscan.ParticleFilter for "
            "states and likelihood, or ssmscan.NUTS for states."
        )


def require_result_can_hold(ssm: StateSpaceModel, settings: Any = None) -> None:
    """Raise what the `Result` of a run would raise when its draws have been made; call it before anything is compiled.

    A `Result` without draws is made of every site that an engine may report, with its name, shape and dtype, so that
    there is one set of rules.

    Args:
        ssm: the model.
        settings: the engine.

    Raises:
        TypeError: a site or an observation is not of real numbers, or a setting is not what JSON can hold.
        ValueError: two sites have one name in a file, or a name that no file can hold.
    """
    sites = {site.name: site for site in ssm.sites}
    lengths = {site.name: (part.num_steps,) for part in ssm.loops for site in part.sites if site.in_loop}
    observed = ssm.observed
    parameters = [site.name for site in ssm.parameters]
    latent = [site.name for site in (*ssm.initial, *ssm.innovations, *ssm.deterministic) if site.name not in observed]

    def none_of(name: str) -> np.ndarray:
        return np.zeros((1, 0, *lengths.get(name, ()), *sites[name].shape), sites[name].dtype)

    Result(
        engine="",
        draws={name: none_of(name) for name in parameters},
        states={name: none_of(name) for name in latent},
        state_draws=np.zeros(0, np.int64),
        sample_stats={"accepted": np.zeros((1, 0), bool)},
        independent_runs=False,
        log_evidence=None,
        log_evidence_error=None,
        costs=Costs(0.0, 0.0, 0.0),
        settings={"engine": describe(settings)},
        versions={},
        observed=observed,
        initial=tuple(name for name in latent if name not in lengths),
    )


NO_GRADIENT = {
    "Reverse-mode differentiation does not work": "a lax.while_loop, or a lax.fori_loop whose ends are not known when "
    "it is traced, cannot be differentiated backwards",
    "callbacks do not support JVP": "a callback to Python cannot be differentiated",
}
"""Part of what JAX says where it has no gradient -> what that means."""


@contextmanager
def gradients_required(engine: str) -> Iterator[None]:
    """Compile inside what takes gradients of a model.

    Raises:
        ModelError: if JAX has no gradient of it.
    """
    try:
        yield
    except ValueError as error:
        reasons = [meaning for words, meaning in NO_GRADIENT.items() if words in str(error)]
        if not reasons:
            raise
        raise ModelError(
            f"{engine} needs the gradient of the model, and JAX has none: {reasons[0]}. Use a lax.scan instead, or "
            "jax.custom_jvp to say what the derivative is, or ssmscan.PMMH, which needs no gradient."
        ) from None


def describe(settings: Any) -> Any:
    """Return settings as JSON can hold them: fields of dataclasses by name, functions by their name."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
        return {"type": type(settings).__name__, **{name: describe(value) for name, value in fields.items()}}
    if isinstance(settings, (tuple, list)):
        return [describe(value) for value in settings]
    if isinstance(settings, dict):
        return {str(name): describe(value) for name, value in settings.items()}
    if isinstance(settings, np.generic) or (isinstance(settings, (np.ndarray, jax.Array)) and settings.ndim == 0):
        return describe(settings.item())
    if settings is None or isinstance(settings, (bool, int, float, str)):
        return settings
    return getattr(settings, "__qualname__", type(settings).__name__)


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of JAX, NumPyro, this package and others given, where installed."""
    found = {}
    for package in ("ssmscan", "jax", "numpyro", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def stock_key(key: Any) -> jax.Array:
    """Check one PRNG key, typed or raw, and return it with JAX's own generator.

    Other people's kernels draw little and compile faster with it than with the unrolled one of the filters.
    """
    return one_key(key)


def spread(num_draws: int, num_paths: int) -> np.ndarray:
    """Choose at most num_paths draws, evenly spaced and without repetition; (paths,) int."""
    return np.linspace(0, num_draws - 1, min(num_draws, num_paths)).round().astype(np.int64)

"""What the package exports: all that its public functions return, each thing once, in an order that teaches."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import ssmscan

EXPORTED = [getattr(ssmscan, name) for name in ssmscan.__all__]
ENGINES = (ssmscan.NUTS, ssmscan.PMMH, ssmscan.ParticleGibbs, ssmscan.TemperedSMC, ssmscan.MaximumLikelihood)
PROTOCOLS = (
    ssmscan.Model,
    ssmscan.Dynamics,
    ssmscan.Estimator,
    ssmscan.Proposal,
    ssmscan.Resampling,
    ssmscan.Store,
    ssmscan.Summary,
)
OF_JAX = ("tree_flatten", "tree_unflatten")
# What is promised of these is `Dynamics`, and of what a store holds meanwhile nothing.
INTERNAL = ("at", "elements_at", "begin", "keep", "core", "program")


# A model holds what was staged, and a filter between two steps its state: nobody else looks into them.
OPAQUE = (ssmscan.StateSpaceModel, ssmscan.Online)


def classes_in(hint: object) -> Iterator[type]:
    if isinstance(hint, type):
        yield hint
    for argument in typing.get_args(hint):
        yield from classes_in(argument)


def functions_of(thing: object) -> Iterator[object]:
    """Yield what can be called or read of a public thing."""
    if inspect.isfunction(thing):
        yield thing
    if not isinstance(thing, type):
        return
    for name in dir(thing):
        if name.startswith("_") or name in (*OF_JAX, *INTERNAL):
            continue
        member = inspect.getattr_static(thing, name)
        member = getattr(member, "fget", None) or getattr(member, "func", None) or getattr(member, "__func__", member)
        if inspect.isfunction(member):
            yield member


def returned(thing: object) -> set[type]:
    """Collect the classes that a public function returns, and that the fields of a public record hold."""
    hints = [typing.get_type_hints(function).get("return") for function in functions_of(thing)]
    if thing not in OPAQUE and (dataclasses.is_dataclass(thing) or hasattr(thing, "_fields")):
        hints += typing.get_type_hints(thing).values()
    return {found for hint in hints for found in classes_in(hint)}


@pytest.mark.parametrize("name", ssmscan.__all__)
def test_what_a_public_function_returns_is_public(name):
    found = returned(getattr(ssmscan, name))
    missing = {c.__qualname__ for c in found if c.__module__.startswith("ssmscan") and c not in EXPORTED}
    assert missing == set()


def test_a_type_that_is_not_exported_is_found():
    class Hidden:
        pass

    class Public:
        @property
        def of(self) -> dict[str, Hidden]:
            raise NotImplementedError

    Public.of.fget.__annotations__["return"] = dict[str, Hidden]
    assert Hidden in returned(Public)


def test_every_name_is_exported_once_and_every_import_is():
    tree = ast.parse(Path(ssmscan.__file__).read_text())
    imported = {name.name for node in tree.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert len(set(ssmscan.__all__)) == len(ssmscan.__all__)
    assert set(ssmscan.__all__) == imported | {"__version__"}


def test_every_protocol_of_a_setting_is_exported():
    assert all(getattr(protocol, "_is_protocol", False) for protocol in PROTOCOLS)
    for thing in (*ENGINES, ssmscan.ParticleFilter, ssmscan.Replicates):
        for found in returned(thing):
            assert not getattr(found, "_is_protocol", False) or found in EXPORTED


@pytest.mark.parametrize("engine", [*ENGINES, ssmscan.ParticleFilter], ids=lambda engine: engine.__name__)
def test_settings_are_given_by_name(engine):
    positional = [p for p in inspect.signature(engine).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    assert [p.name for p in positional] == (["num_particles"] if engine is ssmscan.ParticleFilter else [])

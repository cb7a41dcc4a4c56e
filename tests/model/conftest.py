"""Models traced once for all tests of a module."""

from __future__ import annotations

import pytest

import ssmscan
from tests.model.zoo import CASES


@pytest.fixture(scope="session")
def traced():
    """Trace a model of the zoo by name, once."""
    cache = {}

    def get(name: str) -> ssmscan.StateSpaceModel:
        if name not in cache:
            case = CASES[name]
            cache[name] = ssmscan.trace(case.model, *case.args, **case.kwargs)
        return cache[name]

    return get

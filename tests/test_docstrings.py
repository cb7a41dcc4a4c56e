"""The examples in docstrings run as they stand, print what they say, and warn of nothing."""

from __future__ import annotations

import doctest
import importlib
import warnings
from pathlib import Path

import pytest

from ssmscan.results.health import ResultWarning

ROOT = Path(__file__).parent.parent
# These compile samplers, the same ones.
SLOW = (
    *("inference.nuts", "inference.pmmh", "inference.gibbs", "inference.cross_check", "inference.importance"),
    *("particles.choosing", "particles.conditional", "results.agreement"),
)
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "ssmscan").rglob("*.py")
    if ">>>" in path.read_text()
)
MARKED = [pytest.param(name, marks=pytest.mark.slow if name.endswith(SLOW) else ()) for name in MODULES]


@pytest.mark.parametrize("name", MARKED)
def test_examples_in_docstrings_run(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResultWarning)
        failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert tried > 0 and failed == 0


def test_what_people_start_with_has_an_example():
    assert {"ssmscan.model.tracing", "ssmscan.particles.filter", *(f"ssmscan.{name}" for name in SLOW)} <= set(MODULES)

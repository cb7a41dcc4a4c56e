"""Accuracy of the three engines on `log_sp500_small`; minutes, under `-m heavy`."""

import numpy as np
import pytest

from ssmscan import datasets
from tests.inference.sp500 import ENGINES, check, run
from tests.inference.sv_quadrature import quadrature

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def exact():
    return quadrature(datasets.sp500().values)


def test_the_quadrature_has_the_published_values(exact):
    # Confirmed independently by a grid of its own and by long chains.
    assert exact.log_evidence == pytest.approx(222.9789, abs=1e-3)
    assert exact.marginals["phi"].mean == pytest.approx(0.93163, abs=1e-4)
    assert exact.marginals["sigma"].mean == pytest.approx(0.53441, abs=1e-4)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_agrees_with_quadrature(name, exact):
    result = run(name)
    for found in check(result, exact):
        assert abs(found.z) < 4, found
        assert found.relative_error < ENGINES[name][1], found
        assert np.isnan(found.rhat) or found.rhat < 1.01, found
    if result.log_evidence is not None:
        assert result.log_evidence_error < 0.15
        assert abs(result.log_evidence - exact.log_evidence) < 4 * result.log_evidence_error

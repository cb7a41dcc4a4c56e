"""PMMH with gains of the proposed theta is exact with four particles; with those of the present state it is not."""

import jax
import numpy as np
import pytest

from tests.inference.exact_ahead import NAMES, z_scores
from tests.truth import z_threshold

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gains_of_the_proposed_parameters_are_exact(seed):
    assert np.abs(z_scores(jax.random.key(seed), "right", 10_000)).max() < z_threshold(len(NAMES))


def test_gains_of_the_present_state_are_rejected():
    assert np.abs(z_scores(jax.random.key(0), "gains of the present state", 10_000)).max() > z_threshold(len(NAMES))

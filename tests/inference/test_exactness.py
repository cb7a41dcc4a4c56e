"""The kernel of PMMH from exact draws: small by default, the evidence under `-m heavy`."""

import jax
import numpy as np
import pytest

from tests.inference.exactness import KERNELS, NAMES, z_scores
from tests.truth import z_threshold

RIGHT = [name for name in KERNELS if name.startswith("right")]
WRONG = [name for name in KERNELS if name not in RIGHT]
REJECTED = 8.0


@pytest.mark.heavy
def test_redrawing_the_estimate_is_found_even_by_a_small_run():
    z = z_scores(jax.random.key(0), "redrawn estimate", 1000)
    assert np.abs(z).max() > z_threshold(len(NAMES))


@pytest.mark.heavy
@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_right_kernel_is_exact(seed, name):
    assert np.abs(z_scores(jax.random.key(seed), name, 10_000)).max() < 4.5


@pytest.mark.heavy
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_is_rejected(name):
    assert np.abs(z_scores(jax.random.key(0), name, 10_000)).max() > REJECTED


@pytest.mark.heavy
def test_a_fresh_first_filter_is_itself_the_bug():
    z = z_scores(jax.random.key(0), "right", 10_000, conditional=False)
    assert np.abs(z).max() > REJECTED

"""The search for the number of particles ends, whatever the noise does."""

import numpy as np
import pytest

from ssmscan.inference.sizing import FEWEST, best_size, next_size, power_of_two

TARGET, MOST = 1.2, 2**14


def search(noise, start=100, most=MOST):
    measured, size = {}, start
    while size is not None:
        assert size not in measured, "no number is tried twice"
        measured[size] = noise(size)
        size = next_size(measured, size, TARGET, most)
    return best_size(measured, TARGET), measured


@pytest.mark.parametrize("needed", [1, 40, 90, 170, 700, 5000])
def test_under_the_law_of_large_numbers_few_tries_are_enough(needed):
    found, measured = search(lambda n: TARGET * np.sqrt(needed / n))
    assert max(FEWEST, needed / 1.8) <= found <= max(FEWEST, 1.8 * needed)
    assert len(measured) <= 5


def test_noise_that_jumps_does_not_alternate():
    """Infinite with 100, next to nothing with eight times as many: the rule alone would go up and down for ever."""
    found, measured = search(lambda n: np.inf if n < 300 else 0.05)
    assert found in (256, 512) and measured[found] == 0.05 and len(measured) <= 5


def test_a_target_out_of_reach_ends_at_the_most_allowed():
    found, measured = search(lambda n: np.inf)
    assert found == MOST and len(measured) <= 5
    found, _ = search(lambda n: 9.0 - np.log10(n), most=5000)
    assert found == 4096


def test_measurements_that_contradict_each_other_end_too():
    rng = np.random.default_rng(0)
    for _ in range(200):
        found, measured = search(lambda n: float(np.exp(rng.normal(0.2, 2.0))), start=int(rng.integers(2, 5000)))
        assert found in measured and len(measured) < 12


def test_sizes_are_powers_of_two_within_bounds():
    assert [power_of_two(x, 5000) for x in (1.0, 90.0, 91.0, 4096.0, 1e9)] == [16, 64, 128, 4096, 4096]
    assert power_of_two(3.0, 2) == FEWEST

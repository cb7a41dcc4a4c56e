"""The exact values of the self-test are those of independent computations, and a number that is off is said."""

import jax
import numpy as np
import pytest

from ssmscan import datasets
from ssmscan.certification import oracles, selftest
from tests.inference.sp500 import quadrature
from tests.inference.sv_quadrature import log_likelihood
from tests.truth import LinearGaussian, linear_gaussian


def nile(sd_level, sd_flow):
    model = LinearGaussian.scalar(1000.0, 500.0**2, 1.0, sd_level**2, 1.0, sd_flow**2)
    return linear_gaussian(model, datasets.nile().values[:, None])


def test_values_of_the_nile():
    found = nile(**oracles.NILE)
    assert np.isclose(found.log_likelihood, oracles.NILE_LOG_LIKELIHOOD, rtol=1e-12)
    np.testing.assert_allclose(found.smoothed_mean[oracles.YEARS, 0], oracles.SMOOTHED, rtol=1e-10)
    at = oracles.ELSEWHERE
    assert np.isclose(nile(**at).log_likelihood, oracles.ELSEWHERE_LOG_LIKELIHOOD, rtol=1e-12)
    for name, score in oracles.ELSEWHERE_SCORE.items():
        up, down = (nile(**{**at, name: at[name] + h}).log_likelihood for h in (1e-3, -1e-3))
        assert np.isclose((up - down) / 2e-3, score, rtol=1e-6)


def test_value_of_the_volatilities():
    theta, y = oracles.VOLATILITY, datasets.gbpusd().values[:200]
    found = log_likelihood(y, np.array([theta["mu"]]), theta["rho"], theta["sigma"])
    assert np.isclose(found[0], oracles.VOLATILITY_LOG_LIKELIHOOD, atol=1e-6)


@pytest.mark.heavy
def test_evidence_of_the_volatilities():
    exact = quadrature(datasets.sp500().values)
    assert np.isclose(exact.log_evidence, oracles.SP500_LOG_EVIDENCE, atol=4e-4)
    assert np.isclose(exact.marginals["phi"].mean, oracles.SP500_PERSISTENCE, atol=2e-5)


@pytest.mark.parametrize("numbers", [{}, {"wrong": 0.99}, {"not a number": np.nan}])
def test_a_number_that_is_off_is_said(monkeypatch, numbers):
    def oracle(value):
        return lambda key: oracles.Number([1.0, 2.0], [1.0, 2.0 * value], [1e-3, 1e-3])

    known = {"right": 1.0, **numbers}
    monkeypatch.setattr(selftest, "ORACLES", {name: oracle(value) for name, value in known.items()})
    found = selftest.selftest(progress=False)
    assert found.passed == (not numbers) == bool(found)
    assert [o.passed for o in found.oracles] == [True, *(False for _ in numbers)]
    text = str(found)
    assert jax.__version__ in text and "float" in text
    assert ("WRONG" in text) == bool(numbers) and all(name in text for name in known)
    assert "WRONG" not in found.to_markdown() or numbers


def test_rounding_is_bounded_and_not_a_matter_of_chance(monkeypatch):
    def within(share):
        return {"sum": lambda key: oracles.Number(1.0, 1.0 + share * 1e-3, 1e-3, rounding=True)}

    for share, passed in ((0.9, True), (1.1, False)):
        monkeypatch.setattr(selftest, "ORACLES", within(share))
        assert selftest.selftest(progress=False).passed == passed


def test_control_c_leaves_the_oracles_that_are_done(monkeypatch):
    def stop(key):
        raise KeyboardInterrupt

    right = {"right": lambda key: oracles.Number(1.0, 1.0, 1.0), "long": stop}
    monkeypatch.setattr(selftest, "ORACLES", right)
    found = selftest.selftest(progress=False)
    assert found.interrupted and not found.passed and [o.name for o in found.oracles] == ["right"]


@pytest.mark.heavy
def test_all_oracles_agree_on_this_machine():
    found = selftest.selftest(progress=False)
    assert found.passed, str(found)

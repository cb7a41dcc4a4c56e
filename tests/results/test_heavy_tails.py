"""What has no mean or sd is not compared by them, if the draws of every engine say so."""

import numpy as np
import pytest

from ssmscan.results.agreement import compare
from ssmscan.results.heavy_tails import without_moments
from ssmscan.results.verdicts import Verdict
from tests.results.samples import result

SHAPE = (4, 4000)


def draws(law, seed):
    rng = np.random.default_rng(seed)
    x = {"normal": rng.standard_normal, "t": lambda n: rng.standard_t(2.2, n), "cauchy": rng.standard_cauchy}[law]
    return result({"mu": x(SHAPE), "sigma": np.exp(0.3 * rng.standard_normal(SHAPE))})


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("law", "gone"), [("normal", ()), ("t", ("sd",)), ("cauchy", ("sd", "mean"))])
def test_tails_that_both_engines_have_are_the_posteriors(law, gone, seed):
    engines = {"one": draws(law, [seed, 0]), "other": draws(law, [seed, 1])}
    assert without_moments(engines) == ({"mu": gone} if gone else {})
    compared = compare(**engines)
    left = {d.statistic for d in compared.pairs[0].differences if d.parameter == "mu"}
    assert left == {"mean", "sd", "5 %", "50 %", "95 %"} - set(gone)
    assert any("of mu not compared" in note for note in compared.notes) == bool(gone)
    # The 95 % quantile of a Cauchy law would need more draws.
    assert compared.pairs[0].verdict is (Verdict.CANNOT_TELL if law == "cauchy" else Verdict.AGREE)
    assert str(compared)


def test_tails_of_one_engine_alone_are_a_difference():
    engines = {"one": draws("normal", 0), "other": draws("cauchy", 1)}
    assert without_moments(engines) == {}
    assert compare(**engines).pairs[0].verdict is not Verdict.AGREE

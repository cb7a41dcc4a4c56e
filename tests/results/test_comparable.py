"""Only results of the same data and of two runs are compared; what else differs is said."""

import dataclasses

import numpy as np
import pytest

from ssmscan.results.agreement import compare
from ssmscan.results.result import load
from tests.results.samples import autoregression, result

Y = np.array([1.0, np.nan, 3.0, 0.1])


def engine(seed, draws=60, **changes):
    fields = {"observed": {"y": Y}} | changes
    return result({"phi": autoregression(np.random.default_rng(seed), (4, draws), 1.0)}, **fields)


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        ({"y": Y + [0.0, 0.0, 0.0, 0.5]}, r"y: 1 of 4 values is different, the first at \[3\]: 0.1 and 0.6"),
        ({"y": np.ones(4)}, r"y: 1 of 4 values is missing \(NaN\) in one and not in the other"),
        ({"y": Y[:3]}, r"y: shape \(4,\) in nuts, shape \(3,\) in pmmh"),
        ({"z": Y}, r"y: shape \(4,\) in nuts, absent from pmmh; z: absent from nuts"),
        ({}, r"y: shape \(4,\) in nuts, absent from pmmh"),
        ({"y": Y, "count": np.array(3)}, "count: absent from nuts"),
    ],
)
def test_results_of_different_data_are_refused_by_site(observed, message):
    with pytest.raises(ValueError, match=f"nuts and pmmh are posteriors given different data.*{message}"):
        compare(nuts=engine(0), pmmh=engine(1, observed=observed))


@pytest.mark.parametrize("data", [Y, Y.astype(np.float32), np.array([[1e300, 2.0]]), np.array([1, 2]), np.array(True)])
def test_the_same_data_in_another_precision_are_the_same(data):
    other = data.astype(np.float32) if data.dtype == np.float64 and np.nanmax(data) < 1e30 else data
    assert compare(nuts=engine(0, observed={"y": data}), pmmh=engine(1, observed={"y": other})).pairs


def test_a_run_is_not_compared_with_itself(tmp_path):
    one = result({k: engine(i).draws["phi"] for i, k in enumerate(("phi", "beta"))}, observed={"y": Y})
    copies = {
        "itself": one,
        "a copy": dataclasses.replace(one, engine="PMMH"),
        "a file": load(one.save(tmp_path / "r.nc")),
        "another order": dataclasses.replace(one, draws=dict(reversed(one.draws.items()))),
        "the beginning": dataclasses.replace(one, draws={k: x[:, :20] for k, x in one.draws.items()}),
        "some chains": dataclasses.replace(one, draws={k: x[2:] for k, x in one.draws.items()}),
    }
    for copy in copies.values():
        with pytest.raises(ValueError, match="a and b hold the same draws: a run always agrees with itself"):
            compare(a=one, b=copy)
    with pytest.raises(ValueError, match="a and c hold the same draws"):
        compare(a=engine(0), b=engine(1), c=engine(0))


def test_draws_that_never_move_are_no_sign_of_one_run():
    stuck = [dataclasses.replace(engine(seed), draws={"phi": np.full((4, 60), 0.9)}) for seed in (0, 1)]
    assert compare(a=stuck[0], b=stuck[1]).pairs


def test_results_need_a_name():
    with pytest.raises(TypeError, match=r"by name, as in compare\(nuts=..., pmmh=...\), got 2 without a name"):
        compare(engine(0), engine(1))
    with pytest.raises(TypeError, match="got 1 without a name"):
        compare({"nuts": engine(0), "pmmh": engine(1)})
    with pytest.raises(ValueError, match="two results.*got 0"):
        compare()


def test_states_of_another_name_are_mentioned():
    one, other = (engine(k, states={name: np.zeros((4, 1, 4))}, state_draws=[0]) for k, name in enumerate("xz"))
    assert compare(a=one, b=engine(2)).notes == ()
    (note,) = compare(a=one, b=other).notes
    assert note == "b has states ['z'] and a ['x']: is it the same model?"
    assert note in str(compare(a=one, b=other))


def test_what_cannot_be_trusted_is_said_under_the_verdicts():
    stats = {"diverging": np.arange(240).reshape(4, 60) < 11}
    comparison = compare(nuts=engine(0, sample_stats=stats, interrupted=True), smc=engine(1, draws=2000))
    nuts, smc = comparison.engines
    assert smc.concerns == () and len(nuts.concerns) == 3
    verdicts = comparison.tables()[0]
    text, markdown, html = str(comparison), comparison.to_markdown(), comparison._repr_html_()
    assert verdicts.notes == (f"nuts: {' '.join(nuts.concerns)}",)
    for shown in (text, markdown, html, repr(comparison)):
        assert "11 of 240 draws ended in a divergence" in " ".join(shown.split())
        assert "smc:" not in shown

"""A result that cannot be trusted says so, in a sentence with what to do."""

import sys

import numpy as np
import pytest

from ssmscan.results import health
from ssmscan.results.health import ResultWarning, warn_of_concerns
from ssmscan.results.verdicts import find_fault
from tests.results.samples import autoregression, result

RNG = np.random.default_rng(0)
GOOD = {"phi": autoregression(RNG, (4, 2000), 1.5)}
SHAPE = (4, 2000)


def stats(name, count):
    flat = np.zeros(SHAPE, bool).reshape(-1)
    flat[:count] = True
    return {name: flat.reshape(SHAPE)}


def test_draws_without_a_fault_raise_no_concern(recwarn):
    good = result(GOOD, sample_stats={**stats("diverging", 0), "accepted": np.arange(8000).reshape(SHAPE) % 3 == 0})
    assert good.concerns() == ()
    assert warn_of_concerns(good) is good
    assert not recwarn


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sample_stats": stats("diverging", 8)}, ["8 of 8,000", "divergence", "target_accept"]),
        ({"sample_stats": stats("reached_max_treedepth", 81)}, ["81 of 8,000", "max_tree_depth"]),
        ({"sample_stats": stats("accepted", 6020)}, ["Chain 3 accepted 1.0 % of its proposals", "more particles"]),
        ({"interrupted": True}, ["stopped before its end"]),
        ({"doubts": ("The pilot gave up: use more particles.",)}, ["The pilot gave up"]),
        ({"draws": {"phi": GOOD["phi"] + np.arange(4)[:, None]}}, ["R-hat of phi", "times as many"]),
        ({"draws": {"phi": GOOD["phi"][:, :100]}}, ["ESS of phi", "400", "times as many"]),
        ({"draws": {"phi": np.ones(SHAPE)}}, ["phi: ", "all equal"]),
    ],
)
def test_each_fault_is_a_sentence(changes, words):
    doubtful = result(**({"draws": GOOD} | changes))
    (sentence,) = doubtful.concerns()
    assert sentence.endswith(".")
    assert all(word in sentence for word in words), sentence
    with pytest.warns(ResultWarning, match="AR"):
        warn_of_concerns(doubtful)


@pytest.mark.parametrize(("name", "count"), [("diverging", 7), ("reached_max_treedepth", 80), ("accepted", 6040)])
def test_what_is_on_the_line_is_not_worth_a_word(name, count):
    assert result(GOOD, sample_stats=stats(name, count)).concerns() == ()


def test_a_run_without_draws_has_one_concern():
    empty = result({"phi": np.zeros((4, 0))}, interrupted=True, sample_stats={"diverging": np.zeros((4, 0), bool)})
    (sentence,) = empty.concerns()
    assert "before its first draw" in sentence


def test_control_c_while_looking_loses_no_draw(monkeypatch):
    def interrupt(result):
        raise KeyboardInterrupt

    made = result(GOOD)
    monkeypatch.setattr(health, "health", interrupt)
    with pytest.warns(ResultWarning, match="was not found out, since Control-C came"):
        assert warn_of_concerns(made) is made


def test_what_is_printed_as_the_limit_is_not_beyond_it():
    # 1.0103 is printed as 1.010, an effective sample size of 399.7 as 400
    (summary,) = result(GOOD).summaries.values()
    assert find_fault({"phi": summary._replace(rhat=1.0103, ess_tail=399.7)}, independent_runs=False) is None
    fault = find_fault({"phi": summary._replace(rhat=1.0106, ess_tail=399.2)}, independent_runs=False)
    assert fault.reason == "R-hat of phi is 1.011 > 1.01, ESS of phi is 399 < 400"


def test_a_missing_package_loses_no_draw(monkeypatch):
    made = result(GOOD)
    for name in ("arviz", "arviz_stats"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.warns(ResultWarning, match="was not found out: .* needs 'arviz"):
        assert warn_of_concerns(made) is made

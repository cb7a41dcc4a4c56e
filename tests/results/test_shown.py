"""A result is printed in about ten lines, and wherever it is seen it says why it cannot be trusted."""

import json

import arviz
import numpy as np
import pytest

from ssmscan.results.agreement import compare
from ssmscan.results.result import CONCERNS, load
from tests.results.samples import autoregression, result

RNG = np.random.default_rng(0)
SETTINGS = {
    "type": "PMMH",
    "num_samples": 2000,
    "num_warmup": 100,
    "num_particles": None,
    "target_sd": 1.2,
    "particle_filter": {"type": "ParticleFilter", "num_particles": 100, "store": {"type": "Last", "k": 3}, "kept": []},
    "progress": True,
}


def example(num_scalars=1, **changes):
    fields = {
        "engine": "PMMH",
        "states": {"level": np.zeros((4, 3, 50)), "x0": np.zeros((4, 3))},
        "initial": ("x0",),
        "state_draws": [0, 1, 2],
        "sample_stats": {"diverging": np.zeros((4, 2000), bool)},
        "settings": SETTINGS,
        "observed": {"flow": np.zeros(50)},
        "notes": ("The pilot chose 100 particles.",),
        "log_evidence": -639.71,
        "log_evidence_error": 0.37,
    } | changes
    draws = autoregression(RNG, (4, num_scalars, 2000), 1.0).swapaxes(1, 2)
    return result({"sd": draws if num_scalars > 1 else draws[..., 0]}, **fields)


DOUBTFUL = {
    "a divergence": ({"sample_stats": {"diverging": np.arange(8000).reshape(4, 2000) < 11}}, "11 of 8,000 draws ended"),
    "a doubt": ({"doubts": ("The pilot gave up: use more particles.",)}, "The pilot gave up: use more particles."),
    "interrupted": ({"interrupted": True}, "The run was stopped before its end"),
}


def test_a_result_is_about_ten_lines():
    shown = example()
    assert repr(shown) == str(shown)
    lines = str(shown).splitlines()
    assert len(lines) <= 12 and max(map(len, lines)) <= 110
    assert lines[0] == "PMMH: 4 chains of 2000 draws"
    text = " ".join(str(shown).split())
    for part in (
        "took 2.0 s warm-up, 3.0 s sampling, 1.0 s compiling, 1,000 particle steps",
        "evidence log evidence -639.71 ± 0.37",
        "settings num_warmup=100, target_sd=1.2, particle_filter=ParticleFilter(num_particles=100, store=Last()) data",
        "data flow (50,)",
        "states level (50,), x0: 3 paths in each chain",
        "note The pilot chose 100 particles.",
        "parameter mean sd 5 %",
    ):
        assert part in text, text
    assert "trusted" not in text


def test_settings_that_were_used_are_shown_where_they_are_others():
    same = example(settings=SETTINGS | {"used": SETTINGS["particle_filter"]})
    assert "used" not in str(same)
    other = example(settings=SETTINGS | {"used": SETTINGS["particle_filter"] | {"num_particles": 800}})
    assert "used=ParticleFilter(num_particles=800" in " ".join(str(other).split())


def test_many_parameters_are_counted_with_the_worst_of_them():
    lines = str(example(30)).splitlines()
    assert len(lines) <= 12
    text = " ".join(" ".join(lines).split())
    assert "30 scalars, of sd (30,); least bulk ESS" in text and "print(result.summary()) shows all" in text


@pytest.mark.parametrize(("changes", "words"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_what_cannot_be_trusted_is_said_wherever_it_is_seen(tmp_path, changes, words):
    fresh = example(**changes)
    path = fresh.save(tmp_path / "r.nc")
    for doubtful in (fresh, load(path)):
        (sentence,) = doubtful.concerns()
        assert sentence.startswith(words)
        comparison = compare(one=doubtful, other=example())
        summary = doubtful.summary()
        for seen in (str(doubtful), doubtful._repr_html_(), str(summary), summary.to_markdown(), summary._repr_html_(),
                     str(comparison), comparison.to_markdown(), comparison._repr_html_()):  # fmt: skip
            assert sentence in " ".join(seen.split())
        assert "It cannot be trusted as it is:" in str(doubtful)
        assert doubtful.to_arviz().posterior.attrs[CONCERNS] == sentence
    read = arviz.from_netcdf(path)
    assert read.posterior.attrs[CONCERNS] == read.attrs[CONCERNS] == sentence


def test_nothing_is_said_of_a_result_that_can_be_trusted(tmp_path):
    good = example()
    assert good.concerns() == good.summary().notes == ()
    assert good.to_arviz().posterior.attrs[CONCERNS] == ""
    assert arviz.from_netcdf(good.save(tmp_path / "r.nc")).posterior.attrs[CONCERNS] == ""


@pytest.mark.parametrize(
    "bare",
    [
        lambda: result({"phi": np.zeros((4, 0))}, interrupted=True),
        lambda: result({}, sample_stats={"lp": np.zeros((1, 4))}, states={"x": np.zeros((1, 0, 5))}),
        lambda: result({"phi": np.full((4, 9), np.nan)}, settings={"a": [1, 2, 3, 4], "b": {}}, log_evidence=-np.inf),
        lambda: result({"phi": np.full((4, 9, 10), np.nan)}),
        lambda: result({"phi": np.zeros((4, 9, 0))}),
    ],
    ids=["no draws", "no parameters", "not finite", "many not finite", "an empty parameter"],
)
def test_what_has_little_to_show_is_shown(bare):
    made = bare()
    assert str(made).startswith("AR(1): ") and made._repr_html_() and json.dumps(made.concerns())

"""Every reason that a result can give is reached here, names a heading of the page, and a remedy that exists.

`Reason.__new__` is watched while faults are planted; the source says where reasons are made.  A reason that no fault
reaches, or that no section explains, fails.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
import warnings
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import ssmscan
from ssmscan import Condition, Health, Reason, Section
from ssmscan.health import as_reasons
from ssmscan.inference import common_doubts, gibbs_doubts, importance_doubts, pmmh, rewarming, smc2_record, tempering
from ssmscan.inference.edge import edge_advice
from ssmscan.inference.evidence import EvidenceEstimate
from ssmscan.inference.importance import ImportanceSampler
from ssmscan.inference.paths import Paths
from ssmscan.model.sites import Site
from ssmscan.particles.clouds import Tree
from ssmscan.particles.filter_step import FAULTY, VANISHED
from ssmscan.particles.smoothing import SmoothingResult
from ssmscan.results.data import Costs
from tests.particles.test_concerns import VAGUE, run
from tests.results.samples import autoregression, result

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "when_it_goes_wrong.md").read_text()
HEADINGS = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
RNG = np.random.default_rng(0)
GOOD = {"phi": autoregression(RNG, (4, 1000), 1.5)}
SHAPE = (4, 1000)
COSTS = Costs(1.0, 2.0, 3.0)
MIXED = {"phi": GOOD["phi"] + np.arange(4)[:, None]}


# ---- the page -----------------------------------------------------------------------------------------------------


def test_every_section_is_a_heading_and_every_heading_a_section():
    assert [section.value for section in Section] == HEADINGS
    for section in Section:
        assert re.fullmatch(r"[a-z0-9_-]+", section.anchor)


def test_every_section_says_why_and_what_to_do():
    for text in re.split(r"^## .*$", PAGE, flags=re.MULTILINE)[1:]:
        assert re.search(r"^> ", text, re.MULTILINE) and "**Do.**" in text


# ---- faults, each with the section that it leads to ---------------------------------------------------------------


@pytest.fixture(scope="module")
def filtered():
    return run(VAGUE)


def with_ess(found, *ess, **changed):
    return replace(found, ess=np.array(ess, np.float32), **changed)


def tree(parents, steps, lost=-1):
    """Four particles; the nodes of the last step stand last."""
    numbers = np.asarray(parents, np.int32)
    weights = np.full(4, -np.log(4), np.float32)
    return Tree({}, numbers, {}, weights, np.int32(len(numbers) - 4), np.int32(lost), steps)


def filters(found):
    heavy = np.log1p(np.random.default_rng(0).pareto(1.0, 100))
    met = [-1, -2, -3, -4, 0, 0, 0, 0, 4, 4, 4, 4, 8, 9, 10, 11]
    four = {"final": found.final._replace(log_weights=np.full(4, -np.log(4)))}
    yield Section.VANISHED, replace(found, status=np.int32(VANISHED), failed_step=np.int32(3))
    yield Section.NOT_NUMBERS, replace(found, status=np.int32(FAULTY), faulty_step=np.int32(3))
    yield Section.NOT_NUMBERS, replace(found, log_likelihood=np.float32(np.nan))
    yield Section.STARVES, with_ess(found, 20, 2.0, 20)
    yield Section.HEAVY_TAILS, with_ess(found, 20, 2.0, 20, sparsest=heavy, proposal="LookAhead", uses_later_data=True)
    yield Section.PATHS, replace(found, history=tree([-1] * 8, 1, lost=1))
    yield Section.PATHS, with_ess(found, 4, 4, 4, 4, history=tree(met, 4), increments=np.zeros(4), **four)
    share = np.zeros(10)
    yield Section.PATHS, SmoothingResult(np.float32(0.0), {}, {}, {}, share, found, "a test")


def samplers():
    many = np.zeros(SHAPE, bool)
    many[0] = True
    yield Section.DIVERGENCES, result(GOOD, sample_stats={"diverging": many})
    yield Section.TREES, result(GOOD, sample_stats={"reached_max_treedepth": many})
    yield Section.STICKS, result(GOOD, sample_stats={"accepted": many})
    yield Section.MIXING, result(MIXED)
    yield Section.STOPPED, result(GOOD, interrupted=True)
    empty = {"phi": np.zeros((4, 0))}
    yield Section.STOPPED, result(empty, interrupted=True)
    weights = np.where(np.arange(1000) == 0, 0.0, -20.0)
    points = {"phi": GOOD["phi"][0]}
    yield Section.POINTS, result({"phi": GOOD["phi"][:1]}, points=points, log_weights=weights)


def maxima():
    sound = ssmscan.Maximum(
        theta={"a": np.zeros(())},
        standard_errors={"a": np.ones(())},
        covariance=np.eye(1),
        standard_error_noise=0.01,
        log_likelihood=0.0,
        log_likelihood_error=0.1,
        log_likelihood_sd=0.5,
        objective="likelihood",
        starts={"a": np.zeros(2)},
        start_objective=np.zeros(2),
        best=0,
        agreeing=2,
        drift=0.1,
        noise=0.05,
        failed_steps=0.0,
        faulty=0.0,
        path={"a": np.zeros((2, 3))},
        path_log_likelihood=np.zeros((2, 3)),
        interrupted=False,
        costs=COSTS,
        settings={},
        versions={},
        ascent=None,
        origin={},
    )
    assert sound.health().verdict is Condition.SOUND and sound.converged
    yield Section.MAXIMUM, replace(sound, drift=0.4)
    yield Section.MAXIMUM, replace(sound, agreeing=1)
    yield Section.EDGE, replace(sound, covariance=np.full((1, 1), np.nan))
    yield Section.NOT_NUMBERS, replace(sound, faulty=0.1)
    yield Section.STOPPED, replace(sound, interrupted=True)
    yield Section.NOISE, replace(sound, log_likelihood_sd=3.0)


def cloud(**changed):
    """A cloud of SMC2 after one step, as far as its doubts look at it."""
    row = {"log_evidence": 0.0, "variance": 0.0, "ess": 90.0, "num_particles": 64.0, "moved": 0.9, "num_moves": 3.0}
    row = row | {"noise": 1.0} | changed
    return SimpleNamespace(table=np.array([list(row.values())]), size=100, num_particles=64)


def engines():
    """Reasons that engines hand over."""
    pilot = SimpleNamespace(estimator=ssmscan.ParticleFilter(64), sd=9.0, interrupted=False, limit="")
    for given in (None, 64):
        yield from ssmscan.PMMH(num_particles=given)._pilot_doubts(pilot)
    accepted = np.zeros((2, 1000), bool)
    accepted[0, :40], accepted[1, :700] = True, True
    yield from pmmh.acceptance_doubts(accepted)
    stats = {"filter_status": np.zeros(SHAPE)}
    yield from pmmh.fault_doubts({}, stats, 3, None, None)
    few, nothing = np.zeros(50), np.full(50, -np.inf)
    points = SimpleNamespace(z=np.zeros((50, 2)))
    for log_weights, temperature in ((few, 0.5), (np.arange(50.0) * 10, 1.0), (nothing, 1.0)):
        yield from importance_doubts.doubts(points, log_weights, (), temperature)
    frozen = SimpleNamespace(found=(9.0, 1.0, 1.0, 3), estimator=ssmscan.ParticleFilter(64), said=("", ""))
    yield from ImportanceSampler(num_particles=64)._noise_doubt(frozen)
    still = {"a": np.zeros((2, 200))}, {"impossible": np.ones((2, 200), bool), "n_steps": np.ones((2, 200))}
    yield from gibbs_doubts.doubts_of(*still, np.zeros((2, 10)), ssmscan.ConditionalSMC(8))
    ended = tempering.Ended(0.0, 12, 0.8, 0.8, 1.0)
    halted, slow = ended._replace(temperature=0.1), ended._replace(last_acceptance=0.1)
    yield from tempering._doubts([ended, slow, halted], np.array([400, 9, 400]), 400)
    yield from smc2_record.doubts([cloud(ess=2.0), cloud(moved=0.1), cloud(noise=9.0)], 1.2, 0.5)
    nowhere = Paths({}, np.zeros(3), {}, None, 0.0, 0.0, True, "MemoryError: none")
    yield from (*nowhere.doubts(9), *nowhere._replace(interrupted=False).doubts(9))
    tally = rewarming.Tally(9, 10, 0.9, 10)
    for ended_early in (False, True):
        yield from rewarming.rewarmed(tally, tally, stopped=ended_early)[1]
    yield common_doubts.stopped("points")
    none = EvidenceEstimate(0.0, 0.1, np.full(9, -np.inf), "a test", (), COSTS)
    for log_weights in (none.log_weights, np.arange(50.0) * 10, np.zeros(50)):
        yield from replace(none, log_weights=log_weights).health().reasons
    yield from edge_advice([uniform("a")], {"a": np.random.default_rng(0).exponential(size=SHAPE)})


def uniform(name):
    low = "Interval(lower_bound=0.0, upper_bound=100.0)"
    drawn = {"name": name, "shape": (), "family": "Uniform", "support": low, "discrete": False}
    others = {field: None for field in Site._fields if field not in drawn}
    return Site(**drawn, **others)


FAULTS = {"filters": filters, "samplers": samplers, "maxima": maxima}


def planted(name, filtered):
    return list(filters(filtered) if name == "filters" else FAULTS[name]())


@pytest.mark.parametrize("name", FAULTS)
def test_a_result_with_a_fault_leads_to_its_section(name, filtered):
    for section, faulty in planted(name, filtered):
        health = faulty.health()
        found = [reason for reason in health.reasons if reason.section is section]
        assert found, f"{section}: {health}"
        grave = [reason.verdict.gravity for reason in health.reasons]
        assert grave == sorted(grave, reverse=True) and health.verdict.gravity == max(grave)
        assert section.value in health.line and section.value in repr(health) and section.value in health._repr_html_()
        assert faulty.concerns() == health.sentences == tuple(map(str, health.reasons))[: len(health.sentences)]


def test_every_reason_is_reached(filtered, monkeypatch):
    made, plain = [], Reason.__new__

    def watched(cls, *args, **kwargs):
        frame = sys._getframe(1)
        made.append((frame.f_code.co_filename, frame.f_lineno))
        return plain(cls, *args, **kwargs)

    monkeypatch.setattr(Reason, "__new__", watched)
    for name in FAULTS:
        for _, faulty in planted(name, filtered):
            faulty.health()
    reasons = list(engines())
    monkeypatch.undo()
    missing = [f"{path}:{first}" for path, first, last in sites() if not any(
        file == str(path) and first <= line <= last for file, line in made
    )]  # fmt: skip
    assert not missing
    for reason in reasons:
        assert isinstance(reason, Reason) and reason.section and reason.sentence.endswith("."), reason


def sites():
    """Where the package makes reasons: file, first and last line; in `health` only what a text becomes."""
    for path in sorted((ROOT / "ssmscan").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Reason":
                if path != ROOT / "ssmscan" / "health.py":
                    yield path, node.lineno, node.end_lineno


# ---- remedies name what there is ----------------------------------------------------------------------------------

WORD = re.compile(r"[a-z]+(?:_[a-z]+)+|(?<=ssmscan\.)\w+|\b[A-Z][a-z]+[A-Z]\w+|\b[a-z]+(?==)")


def known_names():
    """Names of the package, their arguments, fields and methods, and of a model's."""
    for name in ssmscan.__all__:
        thing = getattr(ssmscan, name)
        yield name
        yield from (field.name for field in fields(thing)) if is_dataclass(thing) else ()
        for member in [thing, *vars(thing).values()] if isinstance(thing, type) else [thing]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if callable(member):
                    try:
                        yield from inspect.signature(member).parameters
                    except (TypeError, ValueError):
                        pass
        yield from vars(thing) if isinstance(thing, type) else ()


def test_a_remedy_names_arguments_that_exist(filtered):
    every = [reason for name in FAULTS for _, faulty in planted(name, filtered) for reason in faulty.health().reasons]
    names, unknown = {*known_names(), *dir(builtins)}, {}
    for reason in [*every, *engines()]:
        wrong = [word for word in WORD.findall(reason.remedy) if word not in names]
        if wrong:
            unknown[reason.remedy] = wrong
    assert not unknown
    assert [word for word in WORD.findall("Raise target_acceptance.") if word not in names] == ["target_acceptance"]


# ---- sound results are told nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [0, 1, 2])
def test_what_is_sound_is_called_sound(key):
    import jax

    from tests.particles.handmade import autoregression as model

    found = ssmscan.ParticleFilter(32).run(jax.random.key(key), model(), VAGUE)
    assert found.health().verdict is Condition.SOUND and not found.health().reasons
    assert "sound: nothing speaks against it" in str(found)
    rng = np.random.default_rng(key)
    good = {"phi": autoregression(rng, SHAPE, 1.5)}
    stats = {"diverging": np.zeros(SHAPE, bool), "accepted": rng.random(SHAPE) < 0.25}
    health = result(good, sample_stats=stats).health()
    assert (health.verdict, health.reasons) == (Condition.SOUND, ())
    assert [name for name, _ in health.measured] == ["largest R-hat", "least ESS", "divergences", "acceptance"]


@pytest.mark.parametrize("key", [0, 1, 2])
def test_a_density_that_falls_away_from_a_bound_is_told_and_others_are_not(key):
    """At 4,000 draws the shares of a level, half a normal and an exponential law are 4.8, 7.8 and 13.7 %, +- 0.5 %."""
    rng = np.random.default_rng(key)
    sites = [uniform("a")]
    for inside in (
        rng.random(SHAPE),
        np.abs(rng.normal(size=SHAPE)),
        50 + rng.normal(size=SHAPE),
        rng.gamma(2.0, size=SHAPE),
    ):
        assert edge_advice(sites, {"a": inside}) == ()
    pushed = rng.exponential(size=SHAPE)
    for draws, words in ((pushed, "lower bound 0.0"), (100 - pushed, "upper bound 100.0")):
        (advice,) = edge_advice(sites, {"a": draws})
        assert words in advice.sentence and (advice.section, advice.verdict) == (Section.EDGE, Condition.SOUND)
    assert edge_advice(sites, {"a": pushed[:, :50]}) == ()
    assert edge_advice([sites[0]._replace(family="Exponential")], {"a": pushed}) == ()


def test_advice_is_shown_and_is_no_concern():
    advised = result(GOOD, doubts=edge_advice([uniform("a")], {"a": np.random.default_rng(0).exponential(size=SHAPE)}))
    assert advised.health().verdict is Condition.SOUND and advised.concerns() == ()
    assert "pile up" in str(advised) and "worth a thought" in str(advised) and "cannot be trusted" not in str(advised)
    assert not result(MIXED, doubts=advised.doubts).health().advice


# ---- reasons go through files and through users' hands ------------------------------------------------------------


def test_reasons_come_back_from_a_file(tmp_path):
    doubts = tuple(engines())
    kept = result(GOOD, doubts=(*doubts, "A doubt of one's own."))
    again = ssmscan.load(kept.save(tmp_path / "kept.nc"))
    assert again.doubts == kept.doubts == (*doubts, Reason("A doubt of one's own."))
    assert isinstance(again.doubts[0].section, Section) and isinstance(again.doubts[0].verdict, Condition)
    assert again.health() == kept.health()


@pytest.mark.parametrize("wrong", ["text", [3], [("a", "b", "no heading", "doubtful")], [("a", "b", None, "fine")]])
def test_what_is_no_reason_is_refused(wrong):
    with pytest.raises(TypeError, match="doubts of a Result must be text or reasons"):
        as_reasons("doubts", wrong)


def test_a_reason_of_ones_own_needs_no_section():
    health = Health.of([Reason("It is odd."), None])
    assert health.line == "doubtful: It is odd." and health.pointer == "" and health.headings == ()

"""Malformed values by kind of argument: what people pass by mistake, and what nobody should.

A kind is a strategy of values that are *not* what an argument expects.  Every value knows how it is shown, so that a
call can be repeated from the report, and, where there is a proper value of the same meaning, what it is taken for.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas
from hypothesis import strategies as st

import ssmscan
from tests.fuzz import world

NOTHING = object()


class Bad(NamedTuple):
    """A malformed value.

    Attributes:
        value: what is passed.
        shown: how it is written.
        meant: the proper value of the same meaning, `NOTHING` where there is none.
        traced: whether a tracer of the value is passed instead, under `jax.jit`.
    """

    value: Any
    shown: str
    meant: Any = NOTHING
    traced: bool = False


def of(shown: str, value: Any, meant: Any = NOTHING, traced: bool = False) -> Bad:
    """Write down a value."""
    return Bad(value, shown, meant, traced)


OBJECTS = [
    of("object()", object()),
    of("lambda: None", lambda: None),
    of("int", int),
    of("...", ...),
    of("np", np),
    of("1j", 1j),
    of("set()", set()),
    of("datetime.date(2020, 1, 1)", datetime.date(2020, 1, 1)),
    of("np.array([])", np.array([])),
    of("np.zeros((2, 0, 3))", np.zeros((2, 0, 3))),
    of("np.array(['a'])", np.array(["a"])),
    of("np.array([None])", np.array([None])),
    of("np.array([np.nan])", np.array([np.nan])),
    of("np.arange(3)", np.arange(3)),
    of("jnp.zeros((2, 2))", jnp.zeros((2, 2))),
    of("pandas.Series([1.0, 2.0])", pandas.Series([1.0, 2.0])),
    of("pandas.DataFrame({'a': [1.0]})", pandas.DataFrame({"a": [1.0]})),
    of("np.datetime64('2020-01-01')", np.datetime64("2020-01-01")),
    of("range(3)", range(3)),
    of("iter([1])", iter([1])),
]

PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([-(10**12), 2**70]),
    st.sampled_from([-1.0, 0.0, 0.5, 1.5]),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e300, -0.0]),
    st.sampled_from(["", "a", "0.5", "é"]),
    st.just(b"ab"),
    st.lists(st.sampled_from([0, 1]), max_size=1),
    st.dictionaries(st.sampled_from(["a", "x"]), st.sampled_from([0.5]), max_size=1),
    st.tuples(),
).map(lambda value: of(repr(value), value))


class Kind(NamedTuple):
    """Mistakes for one argument: those that are all tried, and a strategy of others."""

    special: tuple[Bad, ...]
    plain: st.SearchStrategy[Bad] | None

    def without(self, right: Callable[[Any], bool]) -> Kind:
        """Leave out what is right here."""
        return Kind(
            tuple(bad for bad in self.special if bad.traced or not right(bad.value)),
            self.plain.filter(lambda bad: not right(bad.value)),
        )


def but(right: Callable[[Any], bool], *special: Bad) -> Kind:
    """Special values of a kind, and all sorts of values but those that are right."""
    others = Kind(tuple(OBJECTS), PLAIN).without(right)
    return Kind((*special, *others.special), others.plain)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def count(at_least: int = 1, too_large: int = 10**9) -> Kind:
    """No count: negative, zero, broken, a word, a class."""
    traced = of("<tracer of 3>", jnp.asarray(3), traced=True)
    return but(
        lambda value: _is_integer(value) and at_least <= value < too_large,
        of("3.0", 3.0, 3),
        of("'3'", "3"),
        of("np.float32(3)", np.float32(3), 3),
        of("jnp.asarray(3)", jnp.asarray(3), 3),
        of("np.array(3)", np.array(3), 3),
        of("[3]", [3]),
        of("True", True),
        traced,
    )


def number(low: float, high: float, *, closed: bool = False) -> Kind:
    """No number between two bounds."""

    def right(value: Any) -> bool:
        real = isinstance(value, int | float) and not isinstance(value, bool)
        return real and (low <= value <= high if closed else low < value < high)

    middle = (low + min(high, low + 1)) / 2
    return but(
        right,
        of(f"'{middle}'", str(middle)),
        of(f"np.array([{middle}])", np.array([middle])),
        of(f"np.array({middle})", np.array(middle), middle),
        of(f"<tracer of {middle}>", jnp.asarray(middle), traced=True),
        of(str(high + 1), high + 1),
    )


FLAG = but(lambda value: isinstance(value, bool), of("'no'", "no"), of("np.True_", np.True_, True))
KEY = but(
    lambda value: False,
    of("jax.random.key", jax.random.key),
    of("jax.random.split(key)", jax.random.split(jax.random.key(0))),
    of("np.zeros(2)", np.zeros(2)),
    of("np.zeros((2, 2), np.uint32)", np.zeros((2, 2), np.uint32)),
    of("np.uint32(1)", np.uint32(1)),
    of("'key'", "key"),
)


@cache
def theta() -> Kind:
    """Parameters of other names, shapes, types and values than `world.level` has."""
    values = [
        ("{}", {}),
        ("{'s': 0.5, 'q': 1.0}", {"s": 0.5, "q": 1.0}),
        ("{'q': 1.0}", {"q": 1.0}),
        ("{'s': -1.0}", {"s": -1.0}),
        ("{'s': np.nan}", {"s": np.nan}),
        ("{'s': np.inf}", {"s": np.inf}),
        ("{'s': 1e60}", {"s": 1e60}),
        ("{'s': None}", {"s": None}),
        ("{'s': 'a'}", {"s": "a"}),
        ("{'s': [0.5]}", {"s": [0.5]}),
        ("{'s': []}", {"s": []}),
        ("{'s': {}}", {"s": {}}),
        ("{'s': 1j}", {"s": 1j}),
        ("{'s': np.zeros((2, 2))}", {"s": np.zeros((2, 2))}),
        ("{'s': object()}", {"s": object()}),
        ("{'s': np.array('a')}", {"s": np.array("a")}),
        ("{'s': float}", {"s": float}),
        ("{'s': np.datetime64('2020-01-01')}", {"s": np.datetime64("2020-01-01")}),
        ("{1: 0.5}", {1: 0.5}),
        ("{None: 0.5, 's': 0.5}", {None: 0.5, "s": 0.5}),
        ("'s'", "s"),
        ("['s']", ["s"]),
        ("{'s'}", {"s"}),
        ("(0.5,)", (0.5,)),
        ("dict", dict),
        ("ssm.sample_prior", world.model().sample_prior),
        ("result.draws", world.result().draws),
    ]
    same = [
        of("{'s': True}", {"s": True}, {"s": 1.0}),
        of("{'s': np.float64(0.5)}", {"s": np.float64(0.5)}, {"s": 0.5}),
        of("pandas.Series({'s': 0.5})", pandas.Series({"s": 0.5}), {"s": 0.5}),
    ]
    return but(lambda value: isinstance(value, dict) and set(value) == {"s"}, *same, *(of(*pair) for pair in values))


@cache
def models() -> Kind:
    """No traced model, or not one that the call is for."""
    return but(
        lambda value: False,
        of("level", world.level),
        of("StateSpaceModel", ssmscan.StateSpaceModel),
        of("ssm.program", world.model().program),
        of("ssm.source", world.model().source),
        of("result", world.result()),
        of("[ssm]", [world.model()]),
        of("'ssm'", "ssm"),
    )


@cache
def other_models() -> Kind:
    """No traced model, or one of other sites."""
    return models()._replace(special=(of("other", world.other()), *models().special))


@cache
def filters() -> Kind:
    """No settings of a filter."""
    return but(
        lambda value: False,
        of("ParticleFilter", ssmscan.ParticleFilter),
        of("NUTS()", ssmscan.NUTS()),
        of("100", 100),
        of("systematic", ssmscan.systematic),
        of("{'num_particles': 100}", {"num_particles": 100}),
    )


SUMMARIES = but(
    lambda value: value == () if isinstance(value, tuple) else isinstance(value, list) and not value,
    of("Mean()", ssmscan.Mean()),
    of("Mean", ssmscan.Mean),
    of("(Mean,)", (ssmscan.Mean,)),
    of("(Mean(), Mean())", (ssmscan.Mean(), ssmscan.Mean())),
    of("'mean'", "mean"),
    of("('mean', 'sd')", ("mean", "sd")),
    of("(None,)", (None,)),
    of("(len,)", (len,)),
    of("{'mean': Mean()}", {"mean": ssmscan.Mean()}),
    of("(Quantiles, SD)", (ssmscan.Quantiles, ssmscan.SD)),
    of("[Mean()]", [ssmscan.Mean()], (ssmscan.Mean(),)),
)
STORES = but(
    lambda value: False,
    of("FullHistory", ssmscan.FullHistory),
    of("FinalCloud", ssmscan.FinalCloud),
    of("LastSteps", ssmscan.LastSteps),
    of("'full'", "full"),
    of("Mean()", ssmscan.Mean()),
    of("(FullHistory(),)", (ssmscan.FullHistory(),)),
)
SCHEMES = but(
    lambda value: False,
    of("'systematic'", "systematic"),
    of("lambda key, weights: weights", lambda key, weights: weights),
    of("lambda key, weights, n: weights", lambda key, weights, n: weights),
    of("lambda key, weights, n: None", lambda key, weights, n: None),
    of("lambda key, weights, n: jnp.arange(2)", lambda key, weights, n: jnp.arange(2)),
    of("Mean", ssmscan.Mean),
)
PROPOSALS = but(
    lambda value: False,
    of("Bootstrap", ssmscan.particles.proposals.Bootstrap),
    of("'bootstrap'", "bootstrap"),
    of("Mean()", ssmscan.Mean()),
)
CALLABLES = but(
    lambda value: False,
    of("'level'", "level"),
    of("lambda y: None", lambda y: None),
    of("lambda: 0", lambda: 0),
    of("print", print),
    of("ssm", world.model()),
    of("random", world.random_model),
    of("without return", world.without_return),
)


@cache
def data() -> Kind:
    """No array of the observations of `world.level`: of a wrong type, shape, or with what is no number."""
    y = world.Y
    return but(
        lambda value: False,
        of("list(y)", list(y), y),
        of("tuple(y)", tuple(y), y),
        of("pandas.Series(y)", pandas.Series(y), y),
        of("pandas.DataFrame(y)", pandas.DataFrame(y)),
        of("y[:, None]", y[:, None]),
        of("y[:0]", y[:0]),
        of("y[:, None, None]", y[:, None, None]),
        of("y * 1j", y * 1j),
        of("y.astype(str)", y.astype(str)),
        of("y.astype(object)", y.astype(object)),
        of("y with inf", np.where(np.arange(len(y)) == 1, np.inf, y)),
        of("np.ma.masked_array(y, y > 0)", np.ma.masked_array(y, y > 0)),
        of("np.datetime64 array", np.arange("2020-01", "2020-05", dtype="datetime64[M]")),
        of("{'y': y}", {"y": y}),
        of("[y]", [y]),
        of("y.copy", y.copy),
        of("level", world.level),
    )


WEIGHTS = but(
    lambda value: False,
    of("np.log(w)", np.log([0.5, 0.5])),
    of("np.ones(4)", np.ones(4)),
    of("[0.5, 0.5]", [0.5, 0.5], np.array([0.5, 0.5])),
    of("np.array([0.5, np.nan])", np.array([0.5, np.nan])),
    of("np.array([1.5, -0.5])", np.array([1.5, -0.5])),
    of("np.full((2, 2), 0.25)", np.full((2, 2), 0.25)),
    of("np.array([1, 0])", np.array([1, 0]), np.array([1.0, 0.0])),
    of("np.array(1.0)", np.array(1.0)),
    of("pandas.Series([0.5, 0.5])", pandas.Series([0.5, 0.5]), np.array([0.5, 0.5])),
    of("np.array([0.5, np.inf])", np.array([0.5, np.inf])),
    of("np.array([True, False])", np.array([True, False])),
)


@cache
def filter_results() -> Kind:
    """No result of a filter, or one that holds no paths, many at once, or of another model."""
    return but(
        lambda value: False,
        of("FilterResult", ssmscan.FilterResult),
        of("result", world.result()),
        of("filter without store", world.filtered()),
        of("a batch of results", world.batch_of_filtered()),
        of("filtered of another model", world.filtered_other()),
        of("filtered.history", world.filtered_full().history),
        of("Ancestry", ssmscan.Ancestry),
    )


@cache
def plotted_filters() -> Kind:
    """No result of a filter that can be drawn."""
    return but(
        lambda value: False,
        of("FilterResult", ssmscan.FilterResult),
        of("a batch of results", world.batch_of_filtered()),
        of("ParticleFilter(4)", ssmscan.ParticleFilter(4)),
    )


@cache
def results() -> Kind:
    """No Result, or one of another model."""
    return but(
        lambda value: False,
        of("Result", ssmscan.Result),
        of("filtered", world.filtered()),
        of("result of another model", world.result_of_other()),
        of("result without paths", world.result_without_paths()),
        of("result.draws", world.result().draws),
        of("{'a': result}", {"a": world.result()}),
        of("[result, result]", [world.result()] * 2),
        of("result.summary()", world.result().summary()),
    )


@cache
def files() -> Kind:
    """Paths of no file, of a folder, and of files of other kinds and broken ones."""
    folder = Path(tempfile.mkdtemp(prefix="ssmscan-fuzz-"))
    good = world.result().save(folder / "good.nc")
    saved = world.online().save(folder / "good.npz")
    (folder / "empty").write_bytes(b"")
    (folder / "text").write_text("hello\n")
    (folder / "half.nc").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (folder / "half.npz").write_bytes(saved.read_bytes()[: saved.stat().st_size // 2])
    np.savez(folder / "other.npz", a=np.arange(3))
    np.save(folder / "other.npy", np.arange(3))
    (folder / "other.json").write_text("{}")
    names = ["missing", "empty", "text", "half.nc", "half.npz", "other.npz", "other.npy", "other.json", "no/folder"]
    paths = [of(name, folder / name) for name in names]
    return but(
        lambda value: False,
        of("a folder", folder),
        of("'good\\0'", "a\0b"),
        *paths,
        of("a saved filter", saved),
        of("a saved result", good),
    )


def _files(right: str) -> Kind:
    return files()._replace(special=tuple(bad for bad in files().special if bad.shown != right))


def load_files() -> Kind:
    """Files that are no saved result."""
    return _files("a saved result")


def resume_files() -> Kind:
    """Files that are no saved filter."""
    return _files("a saved filter")


@cache
def save_places() -> Kind:
    """Where nothing can be written."""
    folder = Path(tempfile.mkdtemp(prefix="ssmscan-fuzz-"))
    (folder / "file").write_text("a")
    return but(
        lambda value: isinstance(value, str | bytes),
        of("a folder", folder),
        of("in no folder", folder / "no" / "x.nc"),
        of("in a file", folder / "file" / "x.nc"),
        of("''", ""),
        of("name of 300 letters", folder / ("a" * 300)),
        of("'a\\0b'", "a\0b"),
        of("/proc/x.nc", Path("/proc/x.nc")),
    )

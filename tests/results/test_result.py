"""A result is checked when made, and comes back from a file as it was."""

import dataclasses
import errno
import os
import subprocess
import sys

import arviz
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from ssmscan import storage
from ssmscan.labels import Labels
from ssmscan.results import result as result_module
from ssmscan.results.data import Costs
from ssmscan.results.result import Result, load
from tests.results.samples import result

CHAINS, DRAWS, STEPS = 2, 20, 7
ARRAYS = ("draws", "states", "sample_stats", "observed", "constants", "points", "continuation")
WEIGHTED = {
    "draws": {"scope/phi": np.zeros((1, DRAWS)), "beta": np.ones((1, DRAWS, 2))},
    "points": {"scope/phi": np.arange(3.0), "beta": np.arange(6, dtype=np.float32).reshape(3, 2)},
    "log_weights": np.array([0.1 + 0.2, -np.inf, -1e5]),
    "sample_stats": {},
    "states": {},
    "state_draws": [],
    "initial": (),
}
CONTINUATION = {
    "": np.arange(4, dtype=np.uint32),
    "['a/b'].x": np.array(True),
    "['a.b'].x": np.zeros((0, 2), np.int32),
    "flags": np.array([True, False]),
    "time": np.float32(0.1),
}


def example(**changes):
    rng = np.random.default_rng(0)
    fields = {
        "engine": "PMMH",
        "states": {
            "x": rng.standard_normal((CHAINS, 5, STEPS)),
            "z": rng.integers(0, 3, (CHAINS, 5, STEPS, 2)),
            "x_init": rng.standard_normal((CHAINS, 5, STEPS)),
        },
        "state_draws": np.array([0, 4, 8, 12, 16]),
        "sample_stats": {"diverging": rng.random((CHAINS, DRAWS)) < 0.5, "lp": rng.random((CHAINS, DRAWS))},
        "log_evidence": -np.inf,
        "log_evidence_error": 0.1 + 0.2,
        "costs": Costs(0.1, 1 / 3, 2.0, 10**15, 7),
        "settings": {"num_particles": 100, "seed": None, "tuple": (1, 2), "nested": {"flag": True, "x": 0.1}},
        "versions": {"jax": "0.10"},
        "observed": {
            "y": np.arange(STEPS, dtype=np.float32),
            "total": np.float64(3.5),
            "seen": np.array(True),
        },
        "constants": {"rain": np.linspace(0, 1, STEPS), "opts.w": np.array(3)},
        "labels": Labels(
            {
                "time": np.arange("2024-01-31", "2024-02-07", dtype="datetime64[D]"),
                "place": np.array(["Aarhus", "Ω"]),
                "of/nobody": np.array([0.5]),
            },
            {"z": ("place",), "beta": ("place", "kind")},
        ),
        "notes": ("two divergences", "αβγ"),
        "initial": ("x_init",),
    } | changes
    draws = {
        "scope/phi": rng.standard_normal((CHAINS, DRAWS)),
        "beta": rng.standard_normal((CHAINS, DRAWS, 2, 3)).astype(np.float32),
        "time": rng.integers(0, 9, (CHAINS, DRAWS)),
    }
    return result(fields.pop("draws", draws), **fields)


def assert_same(one: Result, other: Result) -> None:
    for field in ARRAYS:
        arrays, others = getattr(one, field), getattr(other, field)
        assert list(arrays) == list(others)
        for name in arrays:
            np.testing.assert_array_equal(arrays[name], others[name], strict=True)
    for name in ("state_draws", "log_weights"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
    for field in dataclasses.fields(Result):
        if field.name not in (*ARRAYS, "state_draws", "log_weights"):
            assert getattr(one, field.name) == getattr(other, field.name)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"states": {}, "state_draws": [], "initial": ()},
        {"states": {"x": np.zeros((CHAINS, 0, STEPS))}, "state_draws": [], "initial": ()},
        {"states": {"x": np.ones((CHAINS, DRAWS, STEPS))}, "state_draws": np.arange(DRAWS), "initial": ()},
        {"interrupted": True, "draws": {"phi": np.zeros((CHAINS, 0))}, "sample_stats": {}, "states": {},
         "state_draws": [], "initial": ()},
        {"observed": {}, "sample_stats": {}, "log_evidence": None, "log_evidence_error": None},
        {"settings": {"long": "x" * 100_000}},
        WEIGHTED,
        {"continuation": CONTINUATION, "origin": {"phase": ["sampling", 1], "digest": "αβγ"}},
    ],
    ids=["paths of some draws", "no states", "no paths", "a path a draw", "interrupted", "bare", "long", "weighted",
         "to be continued"],
)  # fmt: skip
def test_a_file_gives_back_the_same_result(tmp_path, changes):
    original = example(**changes)
    path = original.save(tmp_path / "r.nc")
    loaded = load(path)
    assert_same(original, loaded)
    loaded.save(path)
    assert_same(original, load(path))
    assert [p.name for p in tmp_path.iterdir()] == ["r.nc"]


def test_a_full_disk_is_a_sentence_and_the_draws_live(tmp_path, monkeypatch):
    path = example().save(tmp_path / "r.nc")
    size, written = path.stat().st_size, 0
    whole = os.pwrite

    def fail(file, data, at):
        nonlocal written
        if (written := written + len(data)) > size // 2:
            raise OSError(errno.ENOSPC, "disk full")
        return whole(file, data, at)

    monkeypatch.setattr(os, "pwrite", fail)
    unsaved = example(engine="NUTS")
    with pytest.raises(OSError, match=r"cannot save .*r\.nc: disk full.*file that was there before is untouched"):
        unsaved.save(path)
    monkeypatch.undo()
    assert load(path).engine == "PMMH"
    assert [p.name for p in tmp_path.iterdir()] == ["r.nc"]
    assert_same(unsaved, load(unsaved.save(path)))


def test_no_limit_of_the_file_system_takes_the_process_along(tmp_path):
    # HDF5 ends a process whose write failed with a segmentation fault, when it is closed or later
    code = f"""
import pathlib, resource
import numpy as np
from tests.results.samples import result
result = result({{}}, sample_stats={{name: np.random.rand(2, 500) for name in "abcd"}})
size = result.save({str(tmp_path / "whole.nc")!r}).stat().st_size
for limit in range(0, size, size // 9):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        result.save({str(tmp_path / "r.nc")!r})
    except OSError as error:
        assert "cannot save" in str(error), error
    else:
        raise AssertionError(limit)
print("alive", result.sample_stats["d"].shape, [p.name for p in pathlib.Path({str(tmp_path)!r}).iterdir()])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "alive (2, 500) ['whole.nc']\n"), ran.stderr


def test_files_that_are_not_results(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no result to load at .*absent\.nc"):
        load(tmp_path / "absent.nc")
    with pytest.raises(FileNotFoundError, match="make it first"):
        example().save(tmp_path / "absent" / "r.nc")
    xarray.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="is not a saved Result"):
        load(tmp_path / "other.nc")
    with pytest.raises(IsADirectoryError, match=r"is a folder: load takes one file .*\(other\.nc\)"):
        load(tmp_path)
    with pytest.raises(TypeError, match="load takes the path of a file.*got NoneType"):
        load(None)
    with pytest.raises(TypeError, match="save takes the path of a file.*got int"):
        example().save(3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"day,price\n", r"it is not an HDF5 file \(it begins with b'day,pric'\)"),
        (b"PK\x03\x04 and so on", "ssmscan.resume"),
        (b"CDF\x01 and so on", "netCDF 3"),
    ],
    ids=["empty", "text", "zip", "netCDF 3"],
)
def test_files_of_other_kinds_are_named(tmp_path, content, message):
    (tmp_path / "r.nc").write_bytes(content)
    with pytest.raises(ValueError, match=rf"r\.nc is not a saved Result: .*{message}"):
        load(tmp_path / "r.nc")


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # h5netcdf's, of a file it could not open
def test_a_damaged_file_is_not_believed(tmp_path):
    path = example().save(tmp_path / "r.nc")
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(8, len(good), 60):
        # a bit that flipped anywhere, also in a number; the end of a copy that broke off; a block of zeros
        flipped = good[:at] + bytes([good[at] ^ 1 << int(rng.integers(8))]) + good[at + 1 :]
        for bad in (flipped, good[:at], good[:at] + bytes(64) + good[at + 64 :]):
            if bad == good:
                continue
            path.write_bytes(bad)
            with pytest.raises(ValueError, match=r"r\.nc is not a saved Result"):
                load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": ...}, "engine"),
        ({"engine": 3}, "engine of a Result must be text, got"),
        ({"format": ...}, "it has no 'format'"),
        ({"format": "new"}, "invalid literal"),
        ({"format": 99}, "has format 99 of a later ssmscan, and this one reads format 5: update ssmscan"),
        ({"format": 4}, "has format 4 of an earlier ssmscan, and this one reads format 5: run the engine again, or"),
        ({"costs": {"compile_seconds": 1.0}}, "warmup_seconds"),
        ({"costs": 3}, "costs"),
        ({"sites": {"draws": ["absent"]}}, "it has no 'absent'"),
        ({"sites": []}, "'list' object has no attribute"),
        ({"initial": ["absent"]}, "initial names"),
        ({"interrupted": "no"}, "interrupted of a Result must be True or False, got 'no'"),
        ({"settings": 3}, "settings of a Result must be a dictionary"),
        ({"of_the_future": 1}, "of_the_future"),
    ],
)
def test_a_header_of_something_else_is_named(tmp_path, monkeypatch, changes, message):
    write = storage.write

    def write_other(path, groups, header, attributes):
        other = {key: value for key, value in (header | changes).items() if value is not ...}
        return write(path, groups, other, attributes)

    monkeypatch.setattr(storage, "write", write_other)
    path = example().save(tmp_path / "r.nc")
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_file_of_format_1_has_no_checksum_and_is_refused_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(result_module, "_FORMAT", 1)
    path = example().save(tmp_path / "r.nc")
    path.write_bytes(path.read_bytes().partition(b"ssmscan sha256 ")[0])
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has format 1 of an earlier ssmscan, and this one reads format 5: run the"):
        load(path)
    assert arviz.from_netcdf(path)["posterior"]["beta"].shape[:2] == (CHAINS, DRAWS)


def test_arviz_reads_the_export_and_the_file(tmp_path):
    original = example()
    predictive = np.zeros((CHAINS, DRAWS, STEPS))
    exported = original.to_arviz(posterior_predictive={"y": predictive})
    for tree in (exported, arviz.from_netcdf(original.save(tmp_path / "r.nc"))):
        posterior = tree["posterior"]
        assert posterior["scope.phi"].dims == ("chain", "draw")
        np.testing.assert_array_equal(posterior["beta"].values, original.draws["beta"])
        np.testing.assert_array_equal(posterior["time_"].values, original.draws["time"])
        states = tree["states"]
        assert states["x"].dims == ("chain", "draw", "time")
        assert states["x_init"].dims == ("chain", "draw", "x_init_dim_0")
        np.testing.assert_array_equal(states["draw"].values, original.state_draws)
        assert tree["sample_stats"]["diverging"].dtype == bool
        assert tree["observed_data"]["y"].dims == tree["constant_data"]["rain"].dims == ("time",)
        assert str(tree["states"]["time"].values[-1]).startswith("2024-02-06")
        assert tree["states"]["z"].dims == ("chain", "draw", "time", "place")
        assert posterior["beta"].dims == ("chain", "draw", "place", "kind")
        assert posterior["beta"].sel(place="Ω").shape == (CHAINS, DRAWS, 3)
    assert exported["posterior_predictive"]["y"].dims == ("chain", "draw", "time")
    assert type(exported).__name__ == ("InferenceData" if arviz.__version__.startswith("0.") else "DataTree")


def test_states_have_their_group_whether_every_draw_has_a_path_or_not():
    for draws in (np.arange(DRAWS), np.array([3, 8]), np.zeros(0, int)):
        tree = example(states={"x": np.ones((CHAINS, len(draws), STEPS))}, state_draws=draws, initial=()).to_arviz()
        assert tree["states"]["x"].dims == ("chain", "draw", "time")
        np.testing.assert_array_equal(tree["states"]["draw"], draws)
        assert "x" not in tree["posterior"].data_vars


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"draws": {}, "sample_stats": {}}, ValueError, "needs draws of a parameter"),
        ({"draws": {"phi": np.zeros(5)}}, ValueError, r"\(chains, draws, ...\).*got \(5,\)"),
        ({"draws": {"a": np.zeros((2, 20)), "b": np.zeros((2, 19))}}, ValueError, r"draws\['b'\].*\(2, 20\)"),
        ({"draws": {"a": np.array([["x"]])}}, TypeError, r"draws\['a'\] must be an array of numbers"),
        ({"sample_stats": {"lp": np.zeros((2, 5))}}, ValueError, r"sample_stats\['lp'\].*got \(2, 5\)"),
        ({"state_draws": np.array([0, 1, 2, 3, 20])}, ValueError, "between 0 and 19"),
        ({"state_draws": np.arange(4)}, ValueError, r"states\['x'\].*\(2, 4\)"),
        ({"initial": ("y0",)}, ValueError, "y0"),
        ({"settings": {"f": print}}, TypeError, "JSON"),
        ({"settings": [1]}, TypeError, "settings of a Result must be a dictionary"),
        ({"versions": {"jax": print}}, TypeError, "versions of a Result must be what JSON can hold"),
        ({"engine": None}, TypeError, "engine of a Result must be text"),
        ({"notes": "one note"}, TypeError, "notes of a Result must be text, got 'one note'"),
        ({"doubts": None}, TypeError, "doubts of a Result must be text or reasons, got None"),
        ({"interrupted": 1}, TypeError, "interrupted of a Result must be True or False, got 1"),
        ({"log_evidence": "x"}, TypeError, "log_evidence of a Result must be a number, got 'x'"),
        ({"costs": 3}, TypeError, "costs of a Result must be"),
        ({"observed": [1.0]}, TypeError, "observed: expected arrays by name, got a list of 1"),
        ({"observed": {"y": [[1.0], [1.0, 2.0]]}}, TypeError, r"observed\['y'\] must be an array of numbers"),
        ({"state_draws": "all"}, TypeError, "state_draws must be a list of whole numbers"),
        ({"draws": {"a/b": np.zeros((2, 20)), "a.b": np.zeros((2, 20))}}, ValueError, "a.b"),
        ({"deterministics": {"beta": np.zeros((2, 20))}}, ValueError, "the sites 'beta', 'beta' all become 'beta'"),
        ({"observed": {"a/b": np.zeros(2), "a.b": np.ones(2)}}, ValueError, "become 'a.b' in a file"),
        ({"draws": {".": np.zeros((2, 20))}}, ValueError, "no variable of a netCDF file"),
        (WEIGHTED | {"points": {}}, ValueError, "log_weights has 3 weights and points is empty"),
        (WEIGHTED | {"points": {"phi": np.zeros(3)}}, ValueError, r"points must be of the parameters \['beta', 'scope"),
        (WEIGHTED | {"log_weights": np.zeros(2)}, ValueError, r"points\['scope/phi'\] must have shape \(2,\)"),
        (WEIGHTED | {"log_weights": [0.0, np.nan, 0.0]}, ValueError, "-inf .no weight., and 1 of 3 is neither"),
        (WEIGHTED | {"log_weights": "all"}, TypeError, "log_weights must be a list of numbers"),
        ({"continuation": {"key": object()}}, TypeError, r"continuation\['key'\] must be an array of numbers"),
        ({"origin": {"f": print}}, TypeError, "origin of a Result must be what JSON can hold"),
    ],
)
def test_what_does_not_fit_is_named(changes, error, message):
    with pytest.raises(error, match=message):
        example(**changes)


def test_loops_of_several_lengths_have_each_their_time():
    states = {"x": np.zeros((CHAINS, 5, 7)), "z": np.zeros((CHAINS, 5, 6))}
    sizes = example(states=states, initial=()).to_arviz()["states"].sizes
    assert (sizes["time"], sizes["time_1"]) == (7, 6)
    with pytest.raises(ValueError, match=r"states\['x'\] must be \(chains, paths, time, ...\), got \(2, 5\)"):
        example(states={"x": np.zeros((CHAINS, 5))}, initial=())


def test_predictive_draws_belong_to_all_draws_or_to_those_with_a_path():
    made = example()
    for count, draws in ((5, made.state_draws), (DRAWS, np.arange(DRAWS))):
        predictive = {"y": np.zeros((CHAINS, count, STEPS)), "time": np.zeros((CHAINS, count))}
        tree = made.to_arviz(posterior_predictive=predictive)
        np.testing.assert_array_equal(tree["posterior_predictive"]["draw"], draws)
        assert tree["posterior_predictive"]["y"].dims == ("chain", "draw", "time")


def test_predictive_draws_must_be_of_these_draws():
    with pytest.raises(ValueError, match=r"posterior_predictive\['y'\].*\(2, 20\)"):
        example().to_arviz(posterior_predictive={"y": np.zeros((CHAINS, 3, STEPS))})


def test_costs_are_numbers_that_a_file_holds(tmp_path):
    costs = Costs(np.float32(1), jnp.asarray(2.0), 3, np.int64(4))
    assert dataclasses.astuple(costs) == (1.0, 2.0, 3, 4, 0)
    assert load(example(costs=costs).save(tmp_path / "r.nc")).costs == costs
    with pytest.raises(TypeError, match="run_seconds of a Result must be a number, got 'x'"):
        Costs(1.0, 2.0, "x")


def test_means_are_over_chains_and_draws_of_what_jax_gave():
    draws = jnp.arange(12.0).reshape(2, 3, 2)
    made = result({"beta": draws})
    assert isinstance(made.draws["beta"], np.ndarray)
    np.testing.assert_allclose(made.mean()["beta"], [5.0, 6.0])
    empty = result({"beta": np.zeros((2, 0))}, interrupted=True)
    for ask in (empty.mean, empty.summary):
        with pytest.raises(ValueError, match="before its first draw"):
            ask()


def test_the_summary_has_a_row_per_element_and_names_the_run():
    table = example().summary()
    elements = [f"beta[{town},{j}]" for town in ("Aarhus", "Ω") for j in (0, 1, 2)]
    assert [row[0] for row in table.rows] == ["scope/phi", *elements, "time"]
    assert str(table).startswith("PMMH: 2 chains of 20 draws")
    assert "3 independent runs" in str(result({"a": np.random.rand(3, 9)}, independent_runs=True).summary())
    assert "interrupted" in str(dataclasses.replace(example(), interrupted=True))


def test_intervals_of_runs_use_student():
    # with three runs the 95 % half width is 4.30 standard errors, with long chains 1.96
    draws = np.random.default_rng(0).standard_normal((3, 5000))
    for independent, ratio in ((True, 4.30), (False, 1.96)):
        table = result({"a": draws}, independent_runs=independent).summary()
        row = dict(zip(table.columns, table.rows[0]))
        assert float(row["± 95 %"]) / float(row["MCSE"]) == pytest.approx(ratio, rel=0.1)


def test_results_import_no_optional_package():
    optional = ("arviz", "xarray", "matplotlib", "h5netcdf", "blackjax")
    code = f"import sys, ssmscan.results; print([m for m in {optional} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"

"""What a filter found comes back from a file bit by bit, and ArviZ reads its series."""

import arviz
import jax
import numpy as np
import pytest

import ssmscan
from tests.inference.models import Y, linear_gaussian

THETA = {"rho": 0.5, "q": 1.0}
DATES = np.arange("2024-01", "2025-01", dtype="datetime64[M]")


@pytest.fixture(scope="module")
def found():
    ssm = ssmscan.trace(linear_gaussian, Y).with_labels(time=DATES)
    settings = ssmscan.ParticleFilter(32, store=ssmscan.FullHistory())
    return settings.run(jax.random.key(0), ssm, THETA)


def assert_same(one, other):
    leaves, tree = jax.tree.flatten(one)
    others, other_tree = jax.tree.flatten(other)
    assert tree == other_tree
    for a, b in zip(leaves, others, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)
    assert one.labels == other.labels


def test_a_file_gives_back_the_same_run(found, tmp_path):
    loaded = ssmscan.load(found.save(tmp_path / "f.nc"))
    assert isinstance(loaded, ssmscan.FilterResult)
    assert_same(found, loaded)
    assert loaded.message() == found.message()
    paths = [ssmscan.trace_ancestry(jax.random.key(1), one, num_paths=5)["x"] for one in (found, loaded)]
    np.testing.assert_array_equal(*paths)


def test_several_loops_come_back_as_such(found, tmp_path):
    both = ssmscan.FilterResult.of_loops((found, found))
    loaded = ssmscan.load(both.save(tmp_path / "f.nc"))
    assert len(loaded.loops) == 2 and float(loaded.log_likelihood) == float(both.log_likelihood)
    assert_same(found, loaded.loops[1])


def test_a_file_of_a_filter_is_damaged_or_of_another_format(found, tmp_path):
    path = found.save(tmp_path / "f.nc")
    whole = path.read_bytes()
    path.write_bytes(whole[:-300])
    with pytest.raises(ValueError, match="cannot be read|checksum|trusted"):
        ssmscan.load(path)
    path.write_bytes(whole.replace(b'"kind": "filter"', b'"kind": "other!"'))
    with pytest.raises(ValueError, match="checksum"):
        ssmscan.load(path)


def test_arviz_reads_the_series(found, tmp_path):
    for tree in (found.to_arviz(), arviz.from_netcdf(found.save(tmp_path / "f.nc"))):
        series = tree["filter"]
        np.testing.assert_array_equal(series["log_predictive_density"].values, np.asarray(found.increments))
        np.testing.assert_array_equal(tree["filtered_mean"]["x"].values, np.asarray(found.summaries["mean"]["x"]))
        np.testing.assert_array_equal(series["time"].values.astype("datetime64[M]"), DATES)
        assert series["resampled"].dtype == bool
    with pytest.raises(ValueError, match="index the batch"):
        jax.tree.map(lambda x: x[None], found).to_arviz()

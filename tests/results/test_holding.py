"""What a result cannot hold is known from names and types alone, and what it holds comes back from a file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmscan.results.plain_values import require_holdable
from ssmscan.results.result import load
from tests.results.samples import result

DRAWS = np.random.default_rng(0).standard_normal((2, 8))


@pytest.mark.parametrize("name", ["", ".", "/", "x\0y", "_nc4_non_coord_x", "\ud800"])
def test_a_name_that_no_file_can_have_is_refused_before_it_is_written(name):
    with pytest.raises(ValueError, match="rename") as refused:
        require_holdable({name: np.float32})
    assert repr(name) in str(refused.value) and ";" not in str(refused.value)
    with pytest.raises(ValueError, match="cannot hold these sites: no variable of a netCDF file"):
        result({name: DRAWS})


@pytest.mark.parametrize("name", ["..", " a ", "1", "ä", "a\nb", "chain", "time_1", "x_dim_0", "posterior", "a" * 300])
def test_every_other_name_comes_back_from_a_file(tmp_path, name):
    made = result({"x": np.ones((2, 8, 3)), name: DRAWS}, observed={name: np.arange(3.0)})
    require_holdable(made.draws, made.states, made.observed)
    found = load(made.save(tmp_path / "r.nc"))
    np.testing.assert_array_equal(found.draws[name], DRAWS)
    np.testing.assert_array_equal(found.observed[name], np.arange(3.0))


def test_sites_that_a_file_cannot_tell_apart_are_refused():
    # of two observed sites one was lost without a word
    message = "the sites 'a/y', 'a.y' all become 'a.y' in a file, where a slash is a dot: rename one of them"
    for sites in (
        {"observed": {"a/y": np.zeros(2), "a.y": np.ones(2)}},
        {"sample_stats": {"a/y": DRAWS, "a.y": DRAWS}},
    ):
        with pytest.raises(ValueError, match=message):
            result({"phi": DRAWS}, **sites)
    with pytest.raises(ValueError, match="the sites 'phi', 'phi' all become"):
        require_holdable({"phi": np.float32}, {"phi": np.float32})


@pytest.mark.parametrize(
    ("dtype", "what"),
    [
        (np.complex64, "complex numbers"),
        (object, "objects"),
        ("U3", "text"),
        ("M8[D]", "dates"),
        ("V3", "neither"),
        (jax.random.key(0).dtype, "no type of NumPy"),
    ],
)
def test_types_are_known_before_anything_is_drawn(dtype, what):
    # asked of a dtype or of anything that has one
    asked = jax.ShapeDtypeStruct((3,), dtype) if dtype is np.complex64 else dtype
    with pytest.raises(ValueError, match=f"site 'z' has dtype .*{what}.*real numbers"):
        require_holdable({"phi": jnp.float32}, {"z": asked})


def test_types_of_accelerators_are_held_with_their_values(tmp_path):
    values = jnp.asarray(DRAWS, jnp.bfloat16)
    require_holdable({"phi": values.dtype})
    made = load(result({"phi": values}).save(tmp_path / "r.nc"))
    assert made.draws["phi"].dtype == np.float32
    np.testing.assert_array_equal(made.draws["phi"], values.astype(jnp.float32))

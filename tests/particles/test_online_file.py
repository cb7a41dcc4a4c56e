"""A saved filter goes on with what it was saved with, and with nothing else; no file brings more than a sentence."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import SD, FullHistory, Mean, ParticleFilter
from ssmscan.model.jaxprs.digest import digest, mentions
from ssmscan.particles import online_file
from tests.particles.test_online import FILTERS, THETA, Y, level

PF, KEY, STEPS = FILTERS["default"], jax.random.key(1), 5


def steeper(y):
    """As `level`, but for one number."""
    level(y, slope=0.2)


@pytest.fixture(scope="module")
def ssm():
    return ssmscan.trace(level, Y)


@pytest.fixture(scope="module")
def online(ssm):
    return PF.update(PF.start(KEY, ssm, THETA), ssm, THETA, STEPS)[0]


@pytest.fixture(scope="module")
def path(online, tmp_path_factory):
    return online.save(tmp_path_factory.mktemp("saved") / "filter.npz")


def changed(row, value=9.0):
    y = Y.copy()
    y[row] = value
    return y


@pytest.mark.parametrize("y", [Y, changed(STEPS), np.append(Y, [1.0, 2.0])])
def test_what_has_not_been_seen_yet_may_be_anything(path, online, y):
    again = ssmscan.resume(path, ssmscan.trace(level, y), THETA, particle_filter=PF)
    assert again.step == STEPS
    np.testing.assert_array_equal(again.state.log_weights, online.state.log_weights)


@pytest.mark.parametrize(
    ("model", "y", "theta", "settings", "words"),
    [
        (level, changed(2), {}, {}, "argument 0 has other values in 1 of the 5 rows seen, first in row 2"),
        (level, Y[:3], {}, {}, "argument 0 has 3 of the 5 rows that were seen"),
        (level, Y, {"q": 0.8}, {}, r"theta\['q'\] was 0.69.* and is 0.8"),
        (level, Y, {}, {"threshold": 0.7}, "threshold was 0.5 and is 0.7"),
        (level, Y, {}, {"num_particles": 100}, "num_particles was 200 and is 100"),
        (level, Y, {}, {"store": FullHistory()}, r"store was FinalCloud\(\) and is FullHistory\(\)"),
        (level, Y, {}, {"summaries": (SD(), Mean())}, r"summaries was \(Mean\(\), SD\(\)\) and is"),
        (steeper, Y, {}, {}, "the model is another: it has the same sites, but computes something else"),
        (
            steeper,
            np.append(Y, 1.0),
            {},
            {},
            "the model is another: it has the same sites, but computes something else",
        ),
    ],
)
def test_what_differs_is_named(path, model, y, theta, settings, words):
    given = ssmscan.trace(model, y)
    with pytest.raises(ValueError, match=words) as caught:
        ssmscan.resume(path, given, {**THETA, **theta}, particle_filter=replace(PF, **settings))
    assert "Give what it was saved with; what is to change from here on is given to update." in str(caught.value)


def test_a_model_with_other_sites_is_named_by_them(path):
    def other(y):
        q = numpyro.sample("q", dist.HalfNormal(1.0))

        def step(x, y):
            x = numpyro.sample("x", dist.Laplace(x, q))
            numpyro.sample("z", dist.Normal(x, 1.0), obs=y)
            return x, None

        scan(step, 0.0, y)

    words = "the model is another: site 'before', 'w', 'x', 'x0', 'y', 'z' has changed, come or gone"
    with pytest.raises(ValueError, match=words):
        ssmscan.resume(path, ssmscan.trace(other, Y), THETA, particle_filter=PF)


def cut(data):
    return data[: len(data) // 2]


def flipped(data):
    return data[:400] + bytes([data[400] ^ 255]) + data[401:]


DAMAGE = {
    "text": lambda data: b"hello",
    "nothing": lambda data: b"",
    "json": lambda data: b"{}",
    "cut": cut,
    "flipped": flipped,
    "empty archive": lambda data: b"PK\x05\x06" + b"\0" * 18,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_a_sentence_that_names_it(path, ssm, tmp_path, damage):
    bad = tmp_path / "bad.npz"
    bad.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=r"bad\.npz is not a filter saved by Online\.save, or it is damaged"):
        ssmscan.resume(bad, ssm, THETA, particle_filter=PF)


def test_files_of_other_things_are_sentences(ssm, tmp_path):
    np.savez(tmp_path / "a.npz", a=1.0)
    np.savez(tmp_path / "b.npz", header=np.array([{}], dtype=object))
    np.save(tmp_path / "c.npz.npy", np.ones(3))
    for name in ("a.npz", "b.npz", "c.npz.npy"):
        with pytest.raises(ValueError, match="is not a filter saved by"):
            ssmscan.resume(tmp_path / name, ssm, THETA, particle_filter=PF)
    with pytest.raises(FileNotFoundError, match="there is no saved filter at .*absent"):
        ssmscan.resume(tmp_path / "absent", ssm, THETA, particle_filter=PF)
    with pytest.raises(IsADirectoryError, match="cannot read"):
        ssmscan.resume(tmp_path, ssm, THETA, particle_filter=PF)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ("ssmscan filter", "has format 1 of an earlier ssmscan, and this one reads format 2: filter the series again"),
        (3, "has format 3 of a later ssmscan, and this one reads format 2: update ssmscan"),
        ("of something else", "is not a filter saved by"),
    ],
)
def test_a_file_of_another_format_is_refused(online, ssm, tmp_path, monkeypatch, found, words):
    monkeypatch.setattr(online_file, "_FORMAT", found)
    path = online.save(tmp_path / "other.npz")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=rf"other\.npz {words}"):
        ssmscan.resume(path, ssm, THETA, particle_filter=PF)


def test_a_full_disk_leaves_the_old_file(path, online, ssm, tmp_path):
    copy = tmp_path / "filter.npz"
    copy.write_bytes(path.read_bytes())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # a process that may write no larger file
    try:
        with pytest.raises(OSError, match=r"cannot save .*filter\.npz: .*the file that was there before is untouched"):
            online.save(copy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert copy.read_bytes() == path.read_bytes() and os.listdir(tmp_path) == ["filter.npz"]


def test_without_a_record_it_is_read_with_a_warning(online, ssm, tmp_path):
    bare = jax.tree.map(jnp.asarray, online)
    assert bare.origin is None
    path = bare.save(tmp_path / "bare.npz")
    with pytest.warns(UserWarning, match="has no record of the model, the parameters and the data"):
        assert ssmscan.resume(path, ssm, THETA, particle_filter=PF).step == STEPS


def test_what_cannot_go_on_is_refused(online, ssm, path):
    with pytest.raises(TypeError, match=r"online: expected what start, .* got str: read the file with ssmscan\.resume"):
        PF.update(str(path), ssm, THETA)
    with pytest.raises(ValueError, match="online: it has 200 particles, and this filter 100; go on with the same"):
        ParticleFilter(100).update(online, ssm, THETA)
    with pytest.raises(ValueError, match=r"started with store=FinalCloud\(\), and this filter has FullHistory\(\)"):
        replace(PF, store=FullHistory()).update(online, ssm, THETA)
    with pytest.raises(TypeError, match="num_steps: expected an integer of at least 1, got 2.0"):
        PF.update(online, ssm, THETA, 2.0)
    with pytest.raises(TypeError, match="ssm: expected a traced model, got the function 'level'"):
        PF.update(online, level, THETA)
    with pytest.raises(TypeError, match="particle_filter: expected a ParticleFilter, got 200"):
        ssmscan.resume(path, ssm, THETA, particle_filter=200)
    with pytest.raises(TypeError, match="start: expected what start"):
        ssmscan.long_run(KEY, ssm, THETA, particle_filter=PF, start=str(path))


def test_a_filter_between_steps_can_be_printed(online, capsys):
    assert str(online).startswith(
        "Particle filter between steps, 200 particles, 5 steps taken\n  log likelihood so far"
    )
    assert "<table>" in online._repr_html_() and len(str(online).splitlines()) <= 10
    print(jax.eval_shape(lambda: online), jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), online))
    assert "of arrays without values" in capsys.readouterr().out


def test_the_hash_of_a_program_is_that_of_what_it_computes():
    def hashed(function, *arguments):
        return digest(jax.make_jaxpr(function)(*arguments).jaxpr)

    a, b = jnp.ones(3), jnp.ones(3)
    one = hashed(lambda x, y: jnp.sin(x) + jnp.cos(y), a, b)

    def turned(x, y):
        second = jnp.cos(y)
        jnp.tan(x)
        return jnp.sin(x) + second

    assert hashed(turned, a, b) == one
    others = [lambda x, y: jnp.sin(y) + jnp.cos(x), lambda x, y: jnp.sin(x) - jnp.cos(y), lambda x, y: jnp.sin(x) + y]
    others += [jax.jit(lambda x, y: 2.0 * x + y), jax.jit(lambda x, y: 3.0 * x + y)]
    assert len({one, *(hashed(other, a, b) for other in others)}) == 6
    written = jax.make_jaxpr(jax.jit(lambda x: x[7] + 1))(jnp.ones(12)).jaxpr
    assert mentions(written, [7]) and mentions(written, [12]) and not mentions(written, [9])


@pytest.mark.slow
def test_another_process_reads_it(path):
    code = (
        "import ssmscan; from tests.particles.test_online_file import *; "
        f"print(ssmscan.resume({str(path)!r}, ssmscan.trace(level, Y), THETA, particle_filter=PF).step)"
    )
    for seed in "0", "1":
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": seed}
        )
        assert done.stdout.strip() == "5", done.stderr

"""Filters that go on are the whole run, bit by bit: one step at a time, in chunks, saved and read again."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import Ancestry, FullHistory, LastSteps, ParticleFilter

T = 12
Y = np.random.default_rng(1).normal(size=T).cumsum()
THETA = {"q": 0.7}
FILTERS = {
    "default": ParticleFilter(200),
    "history": ParticleFilter(50, store=FullHistory(), threshold=0.9, summaries=()),
    "last steps": ParticleFilter(20, store=LastSteps(4), threshold=0.9, summaries=()),
    "ancestry": ParticleFilter(8, store=Ancestry(0.5), threshold=1, summaries=()),
}


def level(y, slope=0.1):
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    x0 = numpyro.sample("x0", dist.Normal(0, 1))
    numpyro.sample("before", dist.Normal(x0, 1.0), obs=0.2)
    numpyro.sample("w", dist.Normal(q, 1.0), obs=0.5)

    def step(x, inputs):
        t, y = inputs
        x = numpyro.sample("x", dist.Normal(x + slope * jnp.sin(t), q))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(step, x0, (jnp.arange(len(y)), y))


def panel(y):
    q = numpyro.sample("q", dist.HalfNormal(1.0))

    def step(x, y):
        with numpyro.plate("series", 3):
            x = numpyro.sample("x", dist.Normal(0.9 * x, q))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(step, jnp.zeros(3), y)


MODELS = {"level": (level, Y), "panel": (panel, Y[:, None] * np.array([1.0, -0.5, 0.2]))}


def go(pf, key, ssm, sizes):
    online, reports = pf.start(key, ssm, THETA), []
    for size in sizes:
        online, report = pf.update(online, ssm, THETA, size)
        reports.append(report)
    axis = 1 if ssm.panel is not None else 0
    return online, jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis), *reports)


def same(a, b):
    def plain(leaf):
        is_key = jax.dtypes.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    jax.tree.map(np.testing.assert_array_equal, *(jax.tree.map(plain, tree) for tree in (a, b)))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("level", "default")]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [("panel", "default"), ("level", "history"), ("panel", "ancestry")]
    ]
    + [pytest.param(*case, marks=pytest.mark.heavy) for case in [("panel", "history"), ("level", "last steps")]],
)
def test_any_pieces_are_the_whole_run_bit_by_bit(name, settings):
    model, y = MODELS[name]
    pf, ssm, key = FILTERS[settings], ssmscan.trace(model, y), jax.random.key(0)
    whole = pf.run(key, ssm, THETA)
    for sizes in ([1] * T, [5, 6, 1]):
        first = pf.start(key, ssm, THETA)
        online, reports = go(pf, key, ssm, sizes)
        pieces = ssmscan.particles.online.result_of(first, online, reports, ssm, ssm.canonical(THETA), settings=pf)
        same(pieces, whole)
        assert online.step == T


def test_what_comes_later_is_not_looked_at():
    """Observations are written into the series as they arrive; one compilation serves all."""
    pf, key = FILTERS["default"], jax.random.key(3)
    buffer = np.zeros(T)
    ssm = ssmscan.trace(level, buffer)
    online, increments = pf.start(key, ssm, THETA), []
    compiled = ssmscan.particles.online.take._cache_size()
    for t, y in enumerate(Y):
        buffer[t] = y
        ssm = ssm.with_data(buffer)
        online, report = pf.update(online, ssm, THETA)
        increments.append(report.increment[0])
    whole = pf.run(key, ssmscan.trace(level, Y), THETA)
    same(np.array(increments), whole.increments[1:])
    assert ssmscan.particles.online.take._cache_size() - compiled <= 1


@pytest.mark.slow
def test_a_missing_value_that_arrives_is_missing():
    pf, key = FILTERS["default"], jax.random.key(3)
    y = np.where(np.arange(T) == 4, np.nan, Y)
    ssm = ssmscan.trace(level, Y).with_data(y)
    same(pf.run(key, ssm, THETA), pf.run(key, ssmscan.trace(level, y), THETA))
    with pytest.raises(ssmscan.ModelError, match="'y'.* outside the support"):
        ssm.with_data(np.where(np.arange(T) == 4, np.inf, Y))


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "steps"), [("default", 0), ("ancestry", 5)])
def test_saved_and_read_again_goes_on_as_if_nothing_had_been(tmp_path, settings, steps):
    pf, ssm, key = FILTERS[settings], ssmscan.trace(level, Y), jax.random.key(1)
    online = pf.start(key, ssm, THETA)
    if steps:
        online, _ = pf.update(online, ssm, THETA, steps)
    path = online.save(tmp_path / "filter.npz")
    again = ssmscan.resume(path, ssm, THETA, particle_filter=pf)
    assert again.step == steps
    same(pf.update(again, ssm, THETA, T - steps)[0], pf.update(online, ssm, THETA, T - steps)[0])
    with pytest.raises(ValueError, match="does not hold a filter of this model with 30 particles"):
        ssmscan.resume(path, ssm, THETA, particle_filter=ParticleFilter(30))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        online.save(tmp_path / "nowhere" / "filter.npz")


def test_a_longer_series_takes_over():
    pf, key = FILTERS["default"], jax.random.key(2)
    short, long = ssmscan.trace(level, Y[:6]), ssmscan.trace(level, Y)
    online, _ = pf.update(pf.start(key, short, THETA), short, THETA, 6)
    with pytest.raises(ValueError, match="num_steps is 1, after 6 steps of a series of 6: there are 0 steps left"):
        pf.update(online, short, THETA)
    online, _ = pf.update(online, long, THETA, 6)
    same(online.state.log_likelihood, pf.update(pf.start(key, long, THETA), long, THETA, T)[0].state.log_likelihood)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_long_run_is_the_whole_run_however_often_it_stops(name, monkeypatch):
    model, y = MODELS[name]
    pf, ssm, key = FILTERS["history"], ssmscan.trace(model, y), jax.random.key(0)
    whole = pf.run(key, ssm, THETA)
    long = ssmscan.long_run(key, ssm, THETA, particle_filter=pf, progress=False)
    same(long.result, whole)
    assert not long.interrupted and "complete" in long.result.message()

    begun, _ = pf.update(pf.start(key, ssm, THETA), ssm, THETA, 5)
    rest = ssmscan.long_run(key, ssm, THETA, particle_filter=pf, start=begun, progress=False)
    same(rest.result.log_likelihood, whole.log_likelihood)
    same(rest.result.increments, whole.increments[-(T - 5) :])
    with pytest.raises(ValueError, match="has taken all 12 steps"):
        ssmscan.long_run(key, ssm, THETA, particle_filter=pf, start=rest.online)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_long_run_that_was_killed_goes_on_from_its_file(name, monkeypatch, tmp_path):
    model, y = MODELS[name]
    pf, ssm, key, path = FILTERS["default"], ssmscan.trace(model, y), jax.random.key(0), tmp_path / "filter.npz"
    whole = pf.run(key, ssm, THETA)
    real, saved = ssmscan.particles.online.Online.save, []

    def killed(online, to):
        real(online, to)
        saved.append(online.step)
        if len(saved) == 2:
            raise SystemExit("killed")

    monkeypatch.setattr(ssmscan.particles.online.Online, "save", killed)
    again = partial(ssmscan.long_run, key, ssm, THETA, particle_filter=pf, checkpoint=path, every=1e-9, progress=False)
    with pytest.raises(SystemExit):
        again()
    monkeypatch.undo()
    rest = again()
    assert 0 < saved[1] < T
    same(rest.result.log_likelihood, whole.log_likelihood)
    same(rest.result.increments, whole.increments[-(T - saved[1]) :])
    with pytest.raises(ValueError, match="of another run, with another key"):
        ssmscan.long_run(jax.random.key(1), ssm, THETA, particle_filter=pf, checkpoint=path)


@pytest.mark.slow
def test_a_long_run_ends_with_a_warning_that_names_the_step_of_the_whole_series():
    pf, key = FILTERS["default"], jax.random.key(0)
    ssm = ssmscan.trace(level, np.where(np.arange(T) == 8, 40.0, Y))
    online, _ = pf.update(pf.start(key, ssm, THETA), ssm, THETA, 5)
    with pytest.warns(UserWarning, match=r"fell to 1\.0 of 200 particles at step 8 \(counting from 0\)"):
        run = ssmscan.long_run(key, ssm, THETA, particle_filter=pf, start=online, progress=False)
    assert "200 particles, 7 steps" in str(run) and "fell to 1.0" in str(run)
    assert "Control-C stopped it after step 11: go on with start" in str(run._replace(interrupted=True))
    assert "<table>" in run._repr_html_()


def test_control_c_keeps_the_steps_taken(monkeypatch):
    pf, ssm, key = FILTERS["default"], ssmscan.trace(level, Y), jax.random.key(0)
    real, calls = ssmscan.particles.online.take, []

    def take(*args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(ssmscan.particles.online, "take", take)
    stopped = ssmscan.long_run(key, ssm, THETA, particle_filter=pf, progress=False)
    monkeypatch.undo()
    done = stopped.online.step
    assert stopped.interrupted and 0 < done < T
    whole = pf.run(key, ssm, THETA)
    same(stopped.result.increments, whole.increments[: done + 1])
    rest = ssmscan.long_run(key, ssm, THETA, particle_filter=pf, start=stopped.online, progress=False)
    same(rest.result.log_likelihood, whole.log_likelihood)


def test_what_does_not_fit_is_refused_before_it_runs():
    ssm = ssmscan.trace(level, Y)
    with pytest.raises(MemoryError, match=r"FullHistory\(\) of 12 steps and 1000000000 particles needs .* GiB"):
        ParticleFilter(10**9, store=FullHistory()).run(jax.random.key(0), ssm, THETA)


def test_the_size_of_a_result_is_known_beforehand():
    pf, ssm = FILTERS["history"], ssmscan.trace(level, Y)
    result = pf.run(jax.random.key(0), ssm, THETA)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(result))
    assert ssmscan.particles.memory.result_bytes(result) == size
    ssmscan.particles.memory.refuse_too_large(result, "it", size)
    with pytest.raises(MemoryError, match="it needs"):
        ssmscan.particles.memory.refuse_too_large(result, "it", size - 1)

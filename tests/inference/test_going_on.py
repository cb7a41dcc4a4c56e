"""Going on makes the draws of one longer run, bit by bit; so does a run that was killed, on any number of cores."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import ssmscan
from ssmscan.inference.going_on import require_continues, strided
from tests.inference.models import Y, linear_gaussian, switching

ENGINES = {
    "nuts": ssmscan.NUTS(num_warmup=60, num_samples=40, num_chains=3, num_paths=20, progress=False),
    "pmmh": ssmscan.PMMH(num_warmup=40, num_samples=50, num_chains=3, num_particles=20, num_paths=10, progress=False),
    "tempered": ssmscan.TemperedSMC(num_particles=40, chain_length=10, num_runs=2, num_paths=10, progress=False),
    "importance": ssmscan.ImportanceSampler(num_points=253, num_particles=20, num_paths=10, progress=False),
}
LENGTH = {"nuts": "num_samples", "pmmh": "num_samples", "tempered": "num_runs", "importance": "num_points"}
ARRAYS = ("draws", "states", "sample_stats", "state_probabilities", "deterministics", "points", "continuation")

pytestmark = pytest.mark.filterwarnings("ignore::ssmscan.ResultWarning")


@pytest.fixture(scope="module")
def ssm():
    return ssmscan.trace(linear_gaussian, Y)


def differing(one, other):
    """Names of all arrays of two results that are not the same, bit by bit."""
    found = []
    for field in ARRAYS:
        x, y = getattr(one, field), getattr(other, field)
        assert x.keys() == y.keys()
        found += [f"{field}[{k!r}]" for k in x if x[k].tobytes() != y[k].tobytes() or x[k].shape != y[k].shape]
    same = np.array_equal(one.state_draws, other.state_draws) and one.log_evidence == other.log_evidence
    return found if same else [*found, "state_draws or log_evidence"]


def longer(name, factor=2):
    engine = ENGINES[name]
    return dataclasses.replace(engine, **{LENGTH[name]: factor * getattr(engine, LENGTH[name])})


@pytest.mark.parametrize(
    "name", ["nuts", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pmmh", "tempered", "importance"))]
)
def test_a_run_that_goes_on_is_one_longer_run(name, ssm, tmp_path):
    engine = ENGINES[name]
    whole = longer(name).run(jax.random.key(0), ssm)
    first = engine.run(jax.random.key(0), ssm)
    first.save(tmp_path / "first.nc")
    second = engine.run(jax.random.key(1), ssm, start=ssmscan.load(tmp_path / "first.nc"))
    assert differing(whole, second) == []
    assert differing(whole, dataclasses.replace(second, draws={k: v + 1 for k, v in second.draws.items()}))
    assert second.settings == whole.settings
    assert second.costs.run_seconds > first.costs.run_seconds


@pytest.mark.slow
def test_paths_and_probabilities_of_summed_out_states_are_those_of_a_longer_run():
    ssm, engine = ssmscan.trace(switching, Y), dataclasses.replace(ENGINES["nuts"], num_paths=25)
    whole = dataclasses.replace(engine, num_samples=120).run(jax.random.key(0), ssm)
    first = dataclasses.replace(engine, num_paths=0).run(jax.random.key(0), ssm)
    second = dataclasses.replace(engine, num_samples=80).run(jax.random.key(1), ssm, start=first)
    assert not first.states["s"].size and differing(whole, second) == []


def test_a_start_of_something_else_is_refused_in_a_sentence(ssm):
    engine = ENGINES["pmmh"]
    first = engine.run(jax.random.key(0), ssm)
    other_data, other_model = ssmscan.trace(linear_gaussian, Y + 1), ssmscan.trace(switching, Y)
    for where, start, given, words in (
        (engine, 3, ssm, "expected a Result"),
        (ENGINES["nuts"], first, ssm, "it is a result of PMMH, and NUTS goes on from its own only"),
        (dataclasses.replace(engine, num_chains=2), first, ssm, "num_chains was 3 and is 2"),
        (engine, first, other_data, "it is a result of other data"),
        (engine, first, other_model, "it is a result of another model: site 'p', 'q', 'rho', 's', 'x', 'x_0' differs"),
        (engine, dataclasses.replace(first, continuation={}), ssm, "does not hold the state of its chains"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            require_continues(start, where, given)


def test_draws_with_paths_are_among_those_of_a_longer_run():
    for most in (1, 7, 100):
        for n in (1, 5, 64, 1000):
            kept = strided(n, most)
            assert len(kept) <= most and len(kept) > min(n, most) / 2
            assert set(kept) >= set(strided(2 * n, most)[: len(strided(2 * n, most)) // 2])
    assert strided(10, 0).size == 0


RUN = """
import sys, json, hashlib, warnings
warnings.simplefilter("ignore")
import ssmscan
cores, name, path, seconds = int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
ssmscan.use_cores(cores)
import jax, numpy as np
from tests.inference.test_going_on import ENGINES, Y, linear_gaussian, longer
print("begun", flush=True)
result = longer(name, 20 if path else 1).run(
    jax.random.key(0), ssmscan.trace(linear_gaussian, Y), checkpoint=path or None, every=seconds
)
arrays = {**result.draws, **result.states, **result.sample_stats}
sums = {k: hashlib.sha256(np.ascontiguousarray(v).tobytes()).hexdigest() for k, v in sorted(arrays.items())}
print(json.dumps({"devices": jax.device_count(), "sums": sums}))
"""


def started(cores, name, path="", seconds=1e-3):
    command = [sys.executable, "-c", RUN, str(cores), name, str(path), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})


def ended(process):
    out, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


APART = ["nuts", *(pytest.param(name, marks=pytest.mark.heavy) for name in ("pmmh", "tempered", "importance"))]
"""In processes of their own, which compile everything anew."""


@pytest.mark.slow
@pytest.mark.parametrize("name", APART)
def test_the_draws_do_not_depend_on_how_many_cores_there_are(name):
    found = [ended(started(cores, name)) for cores in (1, 2, 8)]
    assert [one["devices"] for one in found] == [1, 2, 8]
    assert found[0]["sums"] == found[1]["sums"] == found[2]["sums"]


@pytest.mark.slow
@pytest.mark.parametrize("name", APART)
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(name, tmp_path):
    whole = ended(started(1, name, tmp_path / "whole.nc", 1e9))
    path, rng = tmp_path / "killed.nc", np.random.default_rng(0)
    process = started(1, name, path)
    while not path.exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(rng.uniform(0.0, 0.2))
    with process:
        process.send_signal(signal.SIGKILL)
    kept = ssmscan.load(path)
    assert kept.interrupted and kept.continuation
    # It saves too, but not after every chunk, which would be most of what it does.
    assert ended(started(1, name, path, 0.1))["sums"] == whole["sums"]


def test_cores_are_chosen_before_jax_starts():
    assert jax.device_count()
    assert ssmscan.use_cores(jax.device_count()) == jax.device_count()
    with pytest.raises(RuntimeError, match="came too late: JAX has started with"):
        ssmscan.use_cores(jax.device_count() + 1)
    with pytest.raises(ValueError, match="num_cores"):
        ssmscan.use_cores(0)

"""The parts of `gpu.py`: each is a generator of records, one a measurement."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from compiled_text import step_of_loop
from workload_a import data
from workload_a_runners import MU, PHI, SIGMA, volatility_model

import ssmscan
from ssmscan.inference import nuts as nuts_engine
from ssmscan.inference import pmmh as pmmh_engine
from ssmscan.inference import tempering as tempering_engine
from ssmscan.inference.posterior import log_posterior, sample_reference
from ssmscan.model import time_loops

Record = dict[str, Any]
THETA = {"mu": MU, "phi": PHI, "sigma": SIGMA}
STEPS = 200
THRESHOLDS = {"every step": 1, "ESS < N/2": 0.5}


def machine() -> Record:
    """Return what was measured on, and when."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": len(jax.devices()),
        "jax": jax.__version__,
        "ssmscan": ssmscan.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def volatility(steps: int = STEPS) -> ssmscan.StateSpaceModel:
    """Trace stochastic volatility."""
    return ssmscan.trace(volatility_model(), jnp.asarray(data()[:steps]))


def timed(call: Callable[[jax.Array], Any], runs: int = 5) -> Record:
    """Call with other keys until the result is there: the first call, and the median and the least of the others."""
    begin = time.perf_counter()
    jax.block_until_ready(call(jax.random.key(0)))
    first, seconds = time.perf_counter() - begin, []
    for seed in range(1, runs + 1):
        key = jax.block_until_ready(jax.random.key(seed))
        begin = time.perf_counter()
        jax.block_until_ready(call(key))
        seconds.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(seconds), "least": min(seconds), "first_call": first}


def filters(quick: bool) -> Iterator[Record]:
    """Time `ParticleFilter.run`, as users call it."""
    ssm = volatility()
    sizes = (100,) if quick else (1000, 10_000, 100_000, 1_000_000, 4_000_000, 16_000_000)
    for n in sizes:
        for mode, threshold in THRESHOLDS.items():
            settings = ssmscan.ParticleFilter(n, threshold=threshold)
            found = timed(lambda key, settings=settings: settings.run(key, ssm, THETA).log_likelihood)
            step = {"us_a_step": 1e6 * found["seconds"] / STEPS, "particle_steps": n * STEPS / found["seconds"]}
            yield {"N": n, "resampling": mode, **step, **found}


def kernels(quick: bool) -> Iterator[Record]:
    """Count what the compiled loop starts in one step."""
    ssm = volatility()
    theta = ssm.canonical(THETA)
    for n in (1000,) if quick else (1000, 1_000_000):
        for mode, threshold in THRESHOLDS.items():
            settings = ssmscan.ParticleFilter(n, threshold=threshold)
            begin = time.perf_counter()
            compiled = jax.jit(settings.run).lower(jax.random.key(0), ssm, theta).compile()
            seconds = time.perf_counter() - begin
            text = compiled.as_text()
            yield {"N": n, "resampling": mode, "compile": seconds, **step_of_loop(text, STEPS)._asdict(), "text": text}


def nuts(quick: bool) -> Iterator[Record]:
    """Time leapfrog steps alone, many in one call, and compile a gradient for each number of steps in a trip."""
    chains, leapfrogs, length = (4, 5, 50) if quick else (64, 40, STEPS)
    ssm = volatility(length)
    chosen, keys = time_loops.MOST_STEPS, jax.random.split(jax.random.key(0), chains)
    start = jax.jit(jax.vmap(lambda key: sample_reference(key, ssm)))(keys)
    for steps in (chosen, 1) if quick else (chosen, 1, 20, 5):
        time_loops.MOST_STEPS = steps
        jax.clear_caches()

        def leapfrog(_: int, state: tuple, size: float = 1e-3) -> tuple:
            position, momentum, gradient = state
            momentum = jax.tree.map(lambda p, g: p + size / 2 * g, momentum, gradient)
            position = jax.tree.map(lambda q, p: q + size * p, position, momentum)
            gradient = jax.vmap(jax.grad(lambda q: log_posterior(ssm, q)))(position)
            return position, jax.tree.map(lambda p, g: p + size / 2 * g, momentum, gradient), gradient

        @jax.jit
        def trajectory(key: jax.Array) -> tuple:
            leaves, tree = jax.tree.flatten(start)
            drawn = [jax.random.normal(jax.random.fold_in(key, i), leaf.shape) for i, leaf in enumerate(leaves)]
            nothing = jax.tree.map(jnp.zeros_like, start)
            return jax.lax.fori_loop(0, leapfrogs, leapfrog, (start, jax.tree.unflatten(tree, drawn), nothing))

        found = timed(trajectory, 3)
        yield {"chains": chains, "steps_in_a_trip": steps, "ms_a_leapfrog": 1e3 * found["seconds"] / leapfrogs, **found}
    time_loops.MOST_STEPS = chosen
    jax.clear_caches()
    begin, few = time.perf_counter(), 5 if quick else 100
    sampler = ssmscan.NUTS(num_warmup=few, num_samples=few, num_chains=chains, num_paths=0, progress=False)
    costs = quiet(lambda: sampler.run(jax.random.key(0), ssm)).costs
    spent = {"compile": costs.compile_seconds, "warmup": costs.warmup_seconds, "run": costs.run_seconds}
    gradients = {"gradients": costs.gradient_evaluations, "whole": time.perf_counter() - begin}
    yield {"chains": chains, "warmup_and_draws": few, **spent, **gradients}


def vectors(quick: bool) -> Iterator[Record]:
    """Time estimates at many parameter vectors in one call."""
    steps, n, ssm = 100, 100 if quick else 1000, volatility(100)
    many = jax.jit(jax.vmap(lambda key, theta: ssmscan.log_likelihood(key, ssm, theta, num_particles=n)))
    for count in (10,) if quick else (1000, 100):
        spread = {name: value + 0.01 * jnp.linspace(-1.0, 1.0, count) for name, value in THETA.items()}
        keys = partial(jax.random.split, num=count)
        found = timed(lambda key, keys=keys, spread=spread: many(keys(key), spread))
        yield {"vectors": count, "N": n, **found, "particle_steps": count * n * steps / found["seconds"]}


def gradient(quick: bool) -> Iterator[Record]:
    """Time the gradient of a log-likelihood estimate."""
    ssm = volatility()
    theta = ssm.canonical(THETA)
    for n in (100,) if quick else (1000, 100_000):
        estimate = partial(ssmscan.log_likelihood, num_particles=n)
        slope = jax.jit(jax.grad(estimate, argnums=2))
        yield {"N": n, **timed(lambda key, slope=slope: slope(key, ssm, theta))}


def pmmh(quick: bool) -> Iterator[Record]:
    """Time iterations of many chains."""
    chains, draws, ssm = (4, 20, volatility(50)) if quick else (64, 500, volatility())
    sampler = ssmscan.PMMH(
        num_chains=chains, num_samples=draws, num_warmup=40, num_particles=500, num_paths=0, progress=False
    )
    begin = time.perf_counter()
    costs = quiet(lambda: sampler.run(jax.random.key(0), ssm)).costs
    spent = {"compile": costs.compile_seconds, "warmup": costs.warmup_seconds, "run": costs.run_seconds}
    whole = {"whole": time.perf_counter() - begin}
    yield {"chains": chains, "N": 500, "ms_an_iteration": 1e3 * costs.run_seconds / draws, **spent, **whole}


def tempered(quick: bool) -> Iterator[Record]:
    """Time a small run of tempered SMC."""
    sampler = ssmscan.TemperedSMC(num_particles=40 if quick else 240, num_runs=2, num_paths=0, progress=False)
    begin = time.perf_counter()
    costs = quiet(lambda: sampler.run(jax.random.key(0), volatility(10 if quick else 100))).costs
    spent = {"compile": costs.compile_seconds, "run": costs.run_seconds, "gradients": costs.gradient_evaluations}
    yield {"particles": sampler.num_particles, "runs": 2, **spent, "whole": time.perf_counter() - begin}


def paths(quick: bool) -> Iterator[Record]:
    """Time a filter that keeps its history, and paths drawn backward from it."""
    ssm = volatility()
    for n in (100,) if quick else (1000, 100_000):

        def draw(key: jax.Array, n: int = n) -> Any:
            settings = ssmscan.ParticleFilter(n, store=ssmscan.FullHistory(), summaries=())
            result = settings.run(key, ssm, THETA)
            return ssmscan.backward_sample(key, ssm, THETA, result, num_paths=100)["x"]

        yield {"N": n, "paths": 100, **timed(draw)}


def quiet(run: Callable[[], ssmscan.Result]) -> ssmscan.Result:
    """Run without looking for what speaks against few draws, which needs ArviZ."""
    with ExitStack() as stack:
        for engine in (nuts_engine, pmmh_engine, tempering_engine):
            stack.enter_context(patch.object(engine, "warn_of_concerns", lambda result: result))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        result = run()
    assert all(np.isfinite(draws).all() for draws in result.draws.values())
    return result


PARTS: dict[str, Callable[[bool], Iterator[Record]]] = {
    "filter": filters,
    "kernels": kernels,
    "nuts": nuts,
    "vectors": vectors,
    "gradient": gradient,
    "pmmh": pmmh,
    "tempered": tempered,
    "paths": paths,
}

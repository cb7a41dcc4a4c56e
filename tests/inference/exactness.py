r"""Is the kernel of PMMH exact?  From exact draws it must stay exact, whatever N.

Draw theta and states from the prior and data from the states: (theta, states) is then an exact draw of *their*
posterior.  Take K steps of PMMH with N = 4 particles on those data.  The estimate that the chain starts with
must come from a *conditional* filter that keeps the drawn path (multinomial, slot 0; Andrieu, Doucet & Holenstein
2010, section 4.3): then the chain starts in its own stationary law, on the space of parameters and particles, and
any function of (theta, states, data) has the same expectation before and after.  Of several replicates one, whichever
it is, keeps the path, and the others are free.

Kernels with one thing wrong must fail the same test.  `python -m tests.inference.exactness` prints the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.inference import pmmh_chain
from ssmscan.inference.pmmh_chain import PMMHState, pmmh_step
from ssmscan.particles import filter as filtering
from ssmscan.particles.draws import as_key
from ssmscan.particles.estimators import Estimator, Replicates, SampledPath
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.resampling import multinomial

NUM_STEPS, NUM_PARTICLES, KERNEL_STEPS = 6, 4, 10
NOISE = 0.2
SCALE = 0.9
FILTER = ParticleFilter(NUM_PARTICLES, resampling=multinomial, threshold=1.0, summaries=())
NAMES = ("theta", "theta^2", "log p(y|theta)", "theta x_T", "x_1^2", "(y_T - x_T)^2")

MEAN = Replicates(dataclasses.replace(FILTER, num_particles=20), 4)

Kernel = Callable[[jax.Array, PMMHState, jax.Array, Any, Estimator], tuple[PMMHState, Any]]


def model(y):
    """x_0 ~ N(1, 1), x_t - 1 = 0.8 (x_{t-1} - 1) + theta e_t, y_t = x_t + 0.2 v_t; theta is a scale."""
    theta = numpyro.sample("theta", dist.LogNormal(0.0, 0.75))
    x_0 = numpyro.sample("x_0", dist.Normal(1.0, 1.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(1.0 + 0.8 * (x - 1.0), theta))
        numpyro.sample("y", dist.Normal(x, NOISE), obs=y)
        return x, None

    scan(transition, x_0, y)


def kalman(theta: jax.Array, y: jax.Array) -> jax.Array:
    """Evaluate log p(y | theta) exactly."""

    def step(moments: tuple, y: jax.Array) -> tuple:
        mean, variance = 1.0 + 0.8 * (moments[0] - 1.0), 0.64 * moments[1] + theta**2
        total = variance + NOISE**2
        gain = variance / total
        density = jax.scipy.stats.norm.logpdf(y, mean, jnp.sqrt(total))
        return (mean + gain * (y - mean), (1.0 - gain) * variance), density

    return jax.lax.scan(step, (jnp.ones_like(theta), jnp.ones_like(theta)), y)[1].sum()


def conditional_log_likelihood(
    key: jax.Array, n: int, theta: jax.Array, x_0: jax.Array, x: jax.Array, y: jax.Array
) -> jax.Array:
    """Run a filter whose particle 0 is the given path; multinomial resampling at every step."""
    key, key_start = jax.random.split(key)
    cloud = (1.0 + jax.random.normal(key_start, (n,))).at[0].set(x_0)

    def step(carry: tuple, inputs: tuple) -> tuple:
        cloud, log_weights = carry
        key, kept, y = inputs
        key_parents, key_noise = jax.random.split(key)
        parents = jax.random.categorical(key_parents, log_weights, shape=(n,))
        moved = 1.0 + 0.8 * (cloud[parents] - 1.0) + theta * jax.random.normal(key_noise, (n,))
        moved = moved.at[0].set(kept)
        log_weights = jax.scipy.stats.norm.logpdf(y, moved, NOISE)
        return (moved, log_weights), jax.nn.logsumexp(log_weights) - jnp.log(n)

    keys = jax.random.split(key, NUM_STEPS)
    return jax.lax.scan(step, (cloud, jnp.zeros(n)), (keys, x, y))[1].sum()


def first_estimate(key: jax.Array, estimator: Estimator, data: Any, theta: dict, drawn: dict) -> jax.Array:
    """Estimate the likelihood as in the stationary law of the chain: one filter keeps the path."""
    path = theta["theta"], drawn["x_0"], drawn["x"], drawn["y"]
    kept = conditional_log_likelihood(key, estimator.num_particles, *path)
    if not isinstance(estimator, Replicates):
        return kept
    keys = jax.random.split(jax.random.fold_in(key, 1), estimator.num_replicates - 1)
    free = jax.vmap(lambda key: estimator.estimator.estimate(as_key(jax.random.key_data(key)), data, theta))(keys)
    every = jnp.concatenate([kept[None], free.log_likelihood])
    return jax.nn.logsumexp(every) - jnp.log(estimator.num_replicates)


def redrawing(key, state, scale, ssm, estimator):
    """Estimate the present point again before every step."""
    key, key_again = jax.random.split(key)
    state = pmmh_chain.evaluate(key_again, ssm, state.z, estimator)
    return pmmh_step(key, state, scale, ssm, estimator)


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Put another function in place of one, while a program is traced."""
    right = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, right)


def without_jacobian(key, state, scale, ssm, estimator):
    """Use the density of theta where that of z is due."""
    right = pmmh_chain.evaluate

    def wrong(key, ssm, z, estimator):
        return right(key, ssm, z, estimator)._replace(log_prior=ssm.log_prior(ssm.constrain(z)))

    with replaced(pmmh_chain, "evaluate", wrong):
        state = state._replace(log_prior=ssm.log_prior(ssm.constrain(state.z)))
        return pmmh_step(key, state, scale, ssm, estimator)


def path_of_run(key: jax.Array, ssm: Any, theta: Any, estimator: Estimator) -> SampledPath:
    """Take the path of the run that was accepted."""
    return estimator.sample_path(key, ssm, theta)


def path_of_another_run(key, ssm, theta, estimator):
    """Take the path of a fresh filter run."""
    return estimator.sample_path(jax.random.fold_in(key, 99), ssm, theta)


def path_of_any_particle(key, ssm, theta, estimator):
    """Follow a particle drawn uniformly instead of one drawn with the final weights."""
    right = filtering.trace_ancestry

    def uniform(key, result, *, num_paths):
        steps = result.history.steps
        equal = steps.log_weights.at[-1].set(-jnp.log(result.num_particles))
        history = result.history._replace(steps=steps._replace(log_weights=equal))
        return right(key, dataclasses.replace(result, history=history), num_paths=num_paths)

    with replaced(filtering, "trace_ancestry", uniform):
        return estimator.sample_path(key, ssm, theta)


def path_of_the_first(key, ssm, theta, estimator):
    """Take the path of the first replicate, whatever its estimate."""
    return estimator.estimator.sample_path(jax.random.split(key, estimator.num_replicates)[0], ssm, theta)


KERNELS: dict[str, tuple[Kernel, Callable, Estimator]] = {
    "right": (pmmh_step, path_of_run, FILTER),
    "redrawn estimate": (redrawing, path_of_run, FILTER),
    "missing Jacobian": (without_jacobian, path_of_run, FILTER),
    "path of another run": (pmmh_step, path_of_another_run, FILTER),
    "path not from final weights": (pmmh_step, path_of_any_particle, FILTER),
    "right, mean of replicates": (pmmh_step, path_of_run, MEAN),
    "path of the first replicate": (pmmh_step, path_of_the_first, MEAN),
}


@partial(jax.jit, static_argnames=("kernel", "path_of", "estimator", "num_replicates", "conditional"))
def differences(
    key: jax.Array,
    ssm: ssmscan.StateSpaceModel,
    *,
    kernel: Kernel,
    path_of: Callable,
    estimator: Estimator,
    num_replicates: int,
    conditional: bool = True,
) -> jax.Array:
    """Return after minus before for each function, (num_replicates, 6)."""

    def functions(theta: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.stack([theta, theta**2, kalman(theta, y), theta * x[-1], x[0] ** 2, (y[-1] - x[-1]) ** 2])

    def one(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 5)
        theta = ssm.sample_prior(keys[0])
        drawn = ssm.simulate(keys[1], theta)
        y = drawn["y"]
        data = jax.tree.map(lambda leaf: y if leaf.shape == y.shape else leaf, ssm)
        _, log_prior = data.log_prior_unconstrained(data.unconstrain(theta))
        estimate = first_estimate(keys[2], estimator, data, theta, drawn)
        if not conditional:
            estimate = estimator.estimate(keys[2], data, theta).log_likelihood
        nothing = jnp.zeros(2, jnp.uint32)
        state = PMMHState(data.unconstrain(theta), log_prior, estimate, nothing)

        def step(carry: tuple, key: jax.Array) -> tuple:
            state, moved = carry
            state, move = kernel(key, state, jnp.full((1, 1), SCALE), data, estimator)
            return (state, moved | move.accepted), None

        steps = jax.random.split(as_key(jax.random.key_data(keys[3])), KERNEL_STEPS)
        (state, moved), _ = jax.lax.scan(step, (state, jnp.array(False)), steps)
        after = data.constrain(state.z)
        path = path_of(as_key(state.filter_key), data, after, estimator).states["x"]
        path = jnp.where(moved, path, drawn["x"])
        return functions(after["theta"], path, y) - functions(theta["theta"], drawn["x"], y)

    return jax.lax.map(one, jax.random.split(key, num_replicates), batch_size=100)


def z_scores(key: jax.Array, name: str, num_replicates: int, *, conditional: bool = True) -> np.ndarray:
    """Return the z-score of each paired difference under one kernel."""
    kernel, path_of, estimator = KERNELS[name]
    ssm = ssmscan.trace(model, np.zeros(NUM_STEPS))
    how = {"kernel": kernel, "path_of": path_of, "estimator": estimator, "conditional": conditional}
    found = differences(key, ssm, num_replicates=num_replicates, **how)
    found = np.asarray(found, np.float64)
    return found.mean(0) / (found.std(0, ddof=1) / np.sqrt(num_replicates))


def main(num_replicates: int = 10_000) -> None:
    """Print the table."""
    print(f"T = {NUM_STEPS}, N = {NUM_PARTICLES}, K = {KERNEL_STEPS}, {num_replicates} replicates; z-scores")
    print(f"{'kernel':30}" + "".join(f"{name:>16}" for name in NAMES))
    for seed in range(3):
        rows = {name: z_scores(jax.random.key(seed), name, num_replicates) for name in KERNELS}
        rows["right, fresh first filter"] = z_scores(jax.random.key(seed), "right", num_replicates, conditional=False)
        for name, z in rows.items():
            print(f"{name:30}" + "".join(f"{value:16.2f}" for value in z), flush=True)


if __name__ == "__main__":
    main()

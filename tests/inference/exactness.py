r"""Is the kernel of PMMH exact?  From exact draws it must stay exact, whatever N.

Draw theta and states from the prior and data from the states: (theta, states) is then an exact draw of *their*
posterior.  Take K steps of PMMH with N = 4 particles on those data.  The estimate that the chain starts with
must come from a *conditional* filter that keeps the drawn path (multinomial, slot 0; Andrieu, Doucet & Holenstein
2010, section 4.3): then the chain starts in its own stationary law, on the space of parameters and particles, and
any function of (theta, states, data) has the same expectation before and after.

Kernels with one thing wrong must fail the same test.  `python -m tests.inference.exactness` prints the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from ssmscan.inference.replay import replay

import ssmscan
from ssmscan.inference import pmmh_chain
from ssmscan.inference import replay as replaying
from ssmscan.inference.pmmh_chain import PMMHState, pmmh_step
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.resampling import multinomial

NUM_STEPS, NUM_PARTICLES, KERNEL_STEPS = 6, 4, 10
NOISE = 0.2
SCALE = 0.9
FILTER = ParticleFilter(NUM_PARTICLES, resampling=multinomial, threshold=1.0, summaries=())
NAMES = ("theta", "theta^2", "log p(y|theta)", "theta x_T", "x_1^2", "(y_T - x_T)^2")

Kernel = Callable[[jax.Array, PMMHState, jax.Array, Any, ParticleFilter], tuple[PMMHState, Any]]


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
    key: jax.Array, theta: jax.Array, x_0: jax.Array, x: jax.Array, y: jax.Array
) -> jax.Array:
    """Run a filter whose particle 0 is the given path; multinomial resampling at every step."""
    key, key_start = jax.random.split(key)
    cloud = (1.0 + jax.random.normal(key_start, (NUM_PARTICLES,))).at[0].set(x_0)

    def step(carry: tuple, inputs: tuple) -> tuple:
        cloud, log_weights = carry
        key, kept, y = inputs
        key_parents, key_noise = jax.random.split(key)
        parents = jax.random.categorical(key_parents, log_weights, shape=(NUM_PARTICLES,))
        moved = 1.0 + 0.8 * (cloud[parents] - 1.0) + theta * jax.random.normal(key_noise, (NUM_PARTICLES,))
        moved = moved.at[0].set(kept)
        log_weights = jax.scipy.stats.norm.logpdf(y, moved, NOISE)
        return (moved, log_weights), jax.nn.logsumexp(log_weights) - jnp.log(NUM_PARTICLES)

    keys = jax.random.split(key, NUM_STEPS)
    return jax.lax.scan(step, (cloud, jnp.zeros(NUM_PARTICLES)), (keys, x, y))[1].sum()


def redrawing(key, state, scale, ssm, particle_filter):
    """Estimate the present point again before every step."""
    key, key_again = jax.random.split(key)
    state = pmmh_chain.evaluate(key_again, ssm, state.z, particle_filter)
    return pmmh_step(key, state, scale, ssm, particle_filter)


def without_jacobian(key, state, scale, ssm, particle_filter):
    """Use the density of theta where that of z is due."""
    right = pmmh_chain.evaluate

    def wrong(key, ssm, z, particle_filter):
        return right(key, ssm, z, particle_filter)._replace(log_prior=ssm.log_prior(ssm.constrain(z)))

    pmmh_chain.evaluate = wrong
    try:
        state = state._replace(log_prior=ssm.log_prior(ssm.constrain(state.z)))
        return pmmh_step(key, state, scale, ssm, particle_filter)
    finally:
        pmmh_chain.evaluate = right


def replay_another_run(filter_key, ssm, theta, particle_filter):
    """Take the path of a fresh filter run."""
    return replay(jax.random.key_data(jax.random.fold_in(as_key(filter_key), 99)), ssm, theta, particle_filter)


def replay_any_particle(filter_key, ssm, theta, particle_filter):
    """Follow a particle drawn uniformly instead of one drawn with the final weights."""
    right = replaying.trace_ancestry

    def uniform(key, result, *, num_paths):
        steps = result.history.steps
        equal = steps.log_weights.at[-1].set(-jnp.log(NUM_PARTICLES))
        history = result.history._replace(steps=steps._replace(log_weights=equal))
        return right(key, dataclasses.replace(result, history=history), num_paths=num_paths)

    replaying.trace_ancestry = uniform
    try:
        return replay(filter_key, ssm, theta, particle_filter)
    finally:
        replaying.trace_ancestry = right


KERNELS: dict[str, tuple[Kernel, Callable]] = {
    "right": (pmmh_step, replay),
    "redrawn estimate": (redrawing, replay),
    "missing Jacobian": (without_jacobian, replay),
    "path of another run": (pmmh_step, replay_another_run),
    "path not from final weights": (pmmh_step, replay_any_particle),
}


@partial(jax.jit, static_argnames=("kernel", "path_of", "num_replicates", "conditional"))
def differences(
    key: jax.Array,
    ssm: ssmscan.StateSpaceModel,
    *,
    kernel: Kernel,
    path_of: Callable,
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
        estimate = conditional_log_likelihood(keys[2], theta["theta"], drawn["x_0"], drawn["x"], y)
        if not conditional:
            estimate = FILTER.run(keys[2], data, theta).log_likelihood
        nothing = jnp.zeros(2, jnp.uint32)
        state = PMMHState(data.unconstrain(theta), log_prior, estimate, nothing)

        def step(carry: tuple, key: jax.Array) -> tuple:
            state, moved = carry
            state, move = kernel(key, state, jnp.full((1, 1), SCALE), data, FILTER)
            return (state, moved | move.accepted), None

        steps = jax.random.split(as_key(jax.random.key_data(keys[3])), KERNEL_STEPS)
        (state, moved), _ = jax.lax.scan(step, (state, jnp.array(False)), steps)
        after = data.constrain(state.z)
        path = path_of(state.filter_key, data, after, FILTER)[1]["x"]
        path = jnp.where(moved, path, drawn["x"])
        return functions(after["theta"], path, y) - functions(theta["theta"], drawn["x"], y)

    return jax.lax.map(one, jax.random.split(key, num_replicates), batch_size=100)


def z_scores(key: jax.Array, name: str, num_replicates: int, *, conditional: bool = True) -> np.ndarray:
    """Return the z-score of each paired difference under one kernel."""
    kernel, path_of = KERNELS[name]
    ssm = ssmscan.trace(model, np.zeros(NUM_STEPS))
    found = differences(
        key, ssm, kernel=kernel, path_of=path_of, num_replicates=num_replicates, conditional=conditional
    )
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

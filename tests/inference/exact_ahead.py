"""Is PMMH with particles that look ahead exact?  From exact draws it must stay exact, whatever N.

As in `tests.inference.exactness`, for a model of counts, where the gains are not exact: theta and states are drawn from
the prior, and counts from the states; the estimate that the chain starts with comes from a conditional filter that
keeps the drawn path (multinomial, slot 0), with the gains at that theta.  Then K steps are taken with N = 4 particles.

Gains of the chain's *present* state in place of those of the proposed theta make the law of an estimate depend on where
the chain came from: that kernel must be rejected.  `python -m tests.inference.exact_ahead` prints the z-scores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy import stats
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.inference.pmmh_chain import PMMHState, pmmh_step
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter
from ssmscan.particles.look_ahead import LookAhead
from ssmscan.particles.resampling import multinomial

NUM_STEPS, NUM_PARTICLES, KERNEL_STEPS, SCALE = 6, 4, 10, 1.2
FILTER = ParticleFilter(NUM_PARTICLES, resampling=multinomial, threshold=1.0, proposal=LookAhead(), summaries=())
NAMES = ("theta", "log theta", "theta^2", "theta y_T", "theta log(1 + sum y)")


def model(y):
    """x_0 ~ N(0, 1), x_t = 0.8 x_{t-1} + theta e_t, y_t ~ Poisson(exp(3 + x_t)); theta is a scale."""
    theta = numpyro.sample("theta", dist.LogNormal(-0.5, 1.0))
    x_0 = numpyro.sample("x_0", dist.Normal(0.0, 1.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(0.8 * x, theta))
        numpyro.sample("y", dist.Poisson(jnp.exp(jnp.minimum(3.0 + x, 9.0))), obs=y)
        return x, None

    scan(transition, x_0, y)


def log_ratio(guide: Any, carry: jax.Array, e: jax.Array, defence: float) -> jax.Array:
    """Evaluate log p(e) / q(e) of the mixture, from its definition."""
    mean, sd = guide.mean[0], guide.scale_tril[0, 0]
    if guide.feedback.size:
        mean = mean + guide.feedback[0, 0] * (carry - guide.carry[0])
    log_p = stats.norm.logpdf(e)
    log_q = stats.norm.logpdf(e, mean, sd)
    return log_p - jnp.logaddexp(jnp.log1p(-defence) + log_q, jnp.log(defence) + log_p)


def log_ahead(value: Any, carry: jax.Array, bound: float) -> jax.Array:
    """Evaluate the value function, from its definition."""
    change = carry - value.carry[0]
    return jnp.clip(change * value.gradient[0] - 0.5 * value.curvature[0, 0] * change**2, -bound, bound)


def conditional_log_likelihood(key: Any, ssm: Any, theta: dict, drawn: dict) -> jax.Array:
    """Run a filter that looks ahead and whose particle 0 is the given path."""
    dynamics, n = ssm.at(theta), NUM_PARTICLES
    own, plan = FILTER.proposal.prepare(dynamics)
    keys = jax.random.split(key, (NUM_STEPS, 2))
    begun = own.begin(jax.random.fold_in(key, 1), dynamics, n)
    cloud = begun.carry.at[0].set(drawn["x_0"])
    log_weights = begun.log_weight.at[0].set(log_ratio(own.start, cloud[0], drawn["x_0"], own.defence))
    ahead = begun.log_ahead.at[0].set(log_ahead(own.value, cloud[0], own.bound))
    total = jax.nn.logsumexp(log_weights) - jnp.log(n)
    before = jnp.concatenate([drawn["x_0"][None], drawn["x"][:-1]])
    noise = (drawn["x"] - 0.8 * before) / theta["theta"]

    def step(state: tuple, inputs: tuple) -> tuple:
        cloud, log_weights, ahead = state
        keys, x, planned, kept, e = inputs
        log_v = jax.nn.log_softmax(log_weights + ahead)
        parents = jax.random.categorical(keys[0], log_v, shape=(n,)).at[0].set(0)
        carried = (jax.nn.log_softmax(log_weights) - log_v)[parents] - jnp.log(n)
        parent = cloud[0]
        move = own.propagate(as_key(jax.random.key_data(keys[1])), dynamics, cloud[parents], (x, planned), n)
        guide, value = planned
        weight = dynamics.step(parent, x, {"x": e}).log_weight + log_ratio(guide, parent, e, own.defence)
        cloud, weights = move.carry.at[0].set(kept), carried + move.log_weight.at[0].set(weight)
        ahead = move.log_ahead.at[0].set(log_ahead(value, kept, own.bound))
        return (cloud, weights, ahead), jax.nn.logsumexp(weights)

    inputs = keys, dynamics.xs, plan, drawn["x"], noise
    return total + jax.lax.scan(step, (cloud, log_weights, ahead), inputs)[1].sum()


@partial(jax.tree_util.register_dataclass, data_fields=["own", "plan"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Made:
    """A proposal with gains that were made before."""

    own: Any
    plan: Any

    def prepare(self, dynamics: Any) -> tuple[Any, Any]:
        return self.own, self.plan


def of_the_present(key, state, scale, ssm, estimator):
    """Use the gains of the present state of the chain for the proposed one."""
    made = Made(*LookAhead().prepare(ssm.at(ssm.constrain(state.z))))
    return pmmh_step(key, state, scale, ssm, replace(estimator, proposal=made))


KERNELS = {"right": pmmh_step, "gains of the present state": of_the_present}


@partial(jax.jit, static_argnames=("name", "num_replicates"))
def differences(key: Any, ssm: Any, *, name: str, num_replicates: int) -> jax.Array:
    """Return after minus before for each function, (num_replicates, 5)."""

    def functions(theta: jax.Array, drawn: dict) -> jax.Array:
        return jnp.stack([theta, jnp.log(theta), theta**2, theta * drawn["y"][-1], theta * jnp.log1p(drawn["y"].sum())])

    def one(key: Any) -> jax.Array:
        keys = jax.random.split(key, 4)
        theta = ssm.sample_prior(keys[0])
        drawn = ssm.simulate(keys[1], theta)
        y = drawn["y"]
        data = jax.tree.map(lambda leaf: y.astype(leaf.dtype) if leaf.shape == y.shape else leaf, ssm)
        z = data.unconstrain(theta)
        _, log_prior = data.log_prior_unconstrained(z)
        estimate = conditional_log_likelihood(keys[2], data, theta, drawn)
        state = PMMHState(z, log_prior, estimate, jnp.zeros(2, jnp.uint32))

        def step(state: PMMHState, key: Any) -> tuple:
            return KERNELS[name](key, state, jnp.full((1, 1), SCALE), data, FILTER)[0], None

        steps = jax.random.split(as_key(jax.random.key_data(keys[3])), KERNEL_STEPS)
        after = data.constrain(jax.lax.scan(step, state, steps)[0].z)
        return functions(after["theta"], drawn) - functions(theta["theta"], drawn)

    return jax.lax.map(one, jax.random.split(key, num_replicates))


def z_scores(key: Any, name: str, num_replicates: int) -> np.ndarray:
    """Return the z-score of each paired difference under one kernel."""
    ssm = ssmscan.trace(model, np.zeros(NUM_STEPS))
    found = np.asarray(differences(key, ssm, name=name, num_replicates=num_replicates), np.float64)
    return found.mean(0) / (found.std(0, ddof=1) / np.sqrt(num_replicates))


def main(num_replicates: int = 10_000) -> None:
    """Print the table."""
    print(f"T = {NUM_STEPS}, N = {NUM_PARTICLES}, K = {KERNEL_STEPS}, {num_replicates} replicates; z-scores of {NAMES}")
    for seed in range(3):
        for name in KERNELS:
            print(f"{name:30}", z_scores(jax.random.key(seed), name, num_replicates).round(2), flush=True)


if __name__ == "__main__":
    main()

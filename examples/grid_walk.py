"""A walk on a grid whose axis and direction are discrete draws, seen through noise.

    axis_t ~ Categorical(p),  direction_t ~ Bernoulli(q)
    position_t = position_{t-1} +- 1 along the axis,  y_t ~ Normal(position_t, 1)

Nothing here has a gradient, and nothing needs one: this is what particles are for.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.infer import Predictive

import ssmscan


def grid_walk(y=None, length=None):
    """Walk on the integer plane from the origin; y is (T, 2) or None, and then `length` steps are taken."""
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones(2)))
    q = numpyro.sample("q", dist.Beta(2.0, 2.0))

    def transition(position, y_t):
        axis = numpyro.sample("axis", dist.Categorical(p))
        forward = numpyro.sample("forward", dist.Bernoulli(q))
        step = jnp.where(jnp.arange(2) == axis, 2 * forward - 1, 0)
        position = numpyro.deterministic("position", position + step)
        numpyro.sample("y", dist.Normal(position.astype(jnp.result_type(float)), 1.0).to_event(1), obs=y_t)
        return position, position

    scan(transition, jnp.zeros(2, int), y, length=length)


THETA = {"p": jnp.array([0.3, 0.7]), "q": jnp.array(0.8)}


def main(key, quick=False):
    """Simulate at THETA, filter, and return what was found."""
    simulate_key, filter_key = jax.random.split(key)
    draws = {name: value[None] for name, value in THETA.items()}
    data = Predictive(grid_walk, draws)(simulate_key, length=30 if quick else 300)

    ssm = ssmscan.trace(grid_walk, data["y"][0])
    print(ssm)
    filtered = ssmscan.ParticleFilter(num_particles=5000).run(filter_key, ssm, THETA)
    mean = filtered.summaries["mean"]["position"]
    error = mean - data["position"][0]
    print(f"the walk ends at {data['position'][0, -1]}, the filter says {mean[-1].round(2)}")
    return {
        "position": data["position"][0],
        "log_likelihood": filtered.log_likelihood,
        "rms_error": jnp.sqrt((error**2).mean()),
    }


if __name__ == "__main__":
    main(jax.random.key(0))

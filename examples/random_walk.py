"""A Gaussian random walk, and many of them at once.

    x_t ~ Normal(x_{t-1}, scale),  y_t ~ Normal(x_t, 1)

The second model holds any number of walks that share one scale: the state is a vector.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.infer import Predictive

import ssmscan


def random_walk(y=None, length=None):
    """Walk from zero; y is (T,) or None, and then `length` steps are taken."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))

    def transition(x, y_t):
        x = numpyro.sample("x", dist.Normal(x, scale))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
        return x, x

    scan(transition, 0.0, y, length=length)


def many_random_walks(num_walks, y=None, length=None):
    """Take `num_walks` independent walks; y is (T, num_walks) or None."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))

    def transition(x, y_t):
        with numpyro.plate("walk", num_walks):
            x = numpyro.sample("x", dist.Normal(x, scale))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
        return x, x

    scan(transition, jnp.zeros(num_walks), y, length=length)


def main(key, quick=False):
    """Simulate both models, then filter one walk, and return what was found."""
    length = 20 if quick else 200
    one_key, many_key, filter_key = jax.random.split(key, 3)

    one = Predictive(random_walk, num_samples=1)(one_key, length=length)
    many = Predictive(many_random_walks, num_samples=1)(many_key, 5, length=length)
    print(f"one walk ends at {one['x'][0, -1]:.2f}, five walks at {many['x'][0, -1].round(2)}")

    ssm = ssmscan.trace(random_walk, one["y"][0])
    print(ssm)
    theta = {"scale": one["scale"][0]}
    filtered = ssmscan.ParticleFilter(num_particles=2000).run(filter_key, ssm, theta)
    error = filtered.summaries["mean"]["x"] - one["x"][0]
    rms_error = jnp.sqrt((error**2).mean())
    print(f"log likelihood {filtered.log_likelihood:.2f}, rms error of the filter {rms_error:.2f}")
    return {
        "one": one["x"][0],
        "many": many["x"][0],
        "log_likelihood": filtered.log_likelihood,
        "rms_error": rms_error,
    }


if __name__ == "__main__":
    main(jax.random.key(0))

"""A short model with two states: one sampled, one that accumulates it.

    x_t ~ Normal(phi x_{t-1}, q),  mu_t = beta mu_{t-1} + x_t,  y_t ~ Normal(mu_t, r)

The transition is written with sample statements.  The same function is simulated by NumPyro's Predictive,
fitted by NUTS and filtered by particles.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.infer import Predictive

import ssmscan


def level(y=None, length=None):
    """Start x and mu at zero; y is (T,) or None, and then `length` steps are taken."""
    phi = numpyro.sample("phi", dist.Uniform(-1.0, 1.0))
    beta = numpyro.sample("beta", dist.Uniform(0.0, 1.0))
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    r = numpyro.sample("r", dist.HalfNormal(1.0))

    def transition(carry, y_t):
        x, mu = carry
        x = numpyro.sample("x", dist.Normal(phi * x, q))
        mu = numpyro.deterministic("mu", beta * mu + x)
        numpyro.sample("y", dist.Normal(mu, r), obs=y_t)
        return (x, mu), mu

    scan(transition, (0.0, 0.0), y, length=length)


THETA = {"phi": 0.6, "beta": 0.8, "q": 0.5, "r": 0.3}


def main(key, quick=False):
    """Simulate at THETA, fit, filter, and return what was found."""
    simulate_key, nuts_key, filter_key = jax.random.split(key, 3)
    draws = {name: jnp.array([value]) for name, value in THETA.items()}
    data = Predictive(level, draws)(simulate_key, length=40 if quick else 300)

    ssm = ssmscan.trace(level, data["y"][0])
    print(ssm)
    num = 100 if quick else 1000
    nuts = ssmscan.NUTS(num_warmup=num, num_samples=num, num_chains=2).run(nuts_key, ssm)
    print(nuts.summary())

    filtered = ssmscan.ParticleFilter(num_particles=5000).run(filter_key, ssm, THETA)
    error = filtered.summaries["mean"]["mu"] - data["mu"][0]
    print(f"log likelihood {filtered.log_likelihood:.2f}, rms error of mu {jnp.sqrt((error**2).mean()):.2f}")
    return {
        "phi": nuts.mean()["phi"],
        "y": data["y"][0],
        "log_likelihood": filtered.log_likelihood,
        "rms_error": jnp.sqrt((error**2).mean()),
    }


if __name__ == "__main__":
    main(jax.random.key(0))

"""An autoregression with its lags in the carry, several input sequences, and constants that are not scanned.

    x_t ~ Normal(phi_1 x_{t-1} + phi_2 x_{t-2}, q)
    y_t ~ Normal(x_t + base + warmth temperature_t + [holiday_t] bonus, r)

Sequences go through `xs` as a tuple or dict; constants are closed over; what a later step needs of an earlier
one is in the carry.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.infer import Predictive

import ssmscan


def sales(temperature, holiday, base, y=None):
    """Explain sales y, (T,) or None, by temperature (T,), holiday (T,) of bool, and a constant base."""
    phi = numpyro.sample("phi", dist.Normal(jnp.array([0.5, 0.0]), 0.2).to_event(1))
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    warmth = numpyro.sample("warmth", dist.Normal(0.0, 1.0))
    bonus = numpyro.sample("bonus", dist.Normal(0.0, 5.0))

    def transition(lags, x):
        now = numpyro.sample("x", dist.Normal(phi @ lags, q))
        mean = now + base + warmth * x["temperature"] + jnp.where(x["holiday"], bonus, 0.0)
        numpyro.sample("y", dist.Normal(mean, 0.5), obs=x["y"])
        return jnp.stack([now, lags[0]]), now

    scan(transition, jnp.zeros(2), {"temperature": temperature, "holiday": holiday, "y": y})


THETA = {"phi": jnp.array([0.5, 0.2]), "q": jnp.array(0.7), "warmth": jnp.array(0.8), "bonus": jnp.array(4.0)}


def main(key, quick=False):
    """Simulate a year at THETA, fit it, filter it, and return what was found."""
    simulate_key, nuts_key, filter_key = jax.random.split(key, 3)
    day = jnp.arange(60 if quick else 365)
    temperature, holiday = jnp.sin(2 * jnp.pi * day / 365), day % 7 == 6
    draws = {name: value[None] for name, value in THETA.items()}
    data = Predictive(sales, draws)(simulate_key, temperature, holiday, 10.0)

    ssm = ssmscan.trace(sales, temperature, holiday, 10.0, data["y"][0])
    print(ssm)
    num = 100 if quick else 1000
    nuts = ssmscan.NUTS(num_warmup=num, num_samples=num, num_chains=2).run(nuts_key, ssm)
    print(nuts.summary())
    filtered = ssmscan.ParticleFilter(num_particles=5000).run(filter_key, ssm, THETA)
    print(f"log likelihood where the data came from: {filtered.log_likelihood:.2f}")
    return {"bonus": nuts.mean()["bonus"], "y": data["y"][0], "log_likelihood": filtered.log_likelihood}


if __name__ == "__main__":
    main(jax.random.key(0))

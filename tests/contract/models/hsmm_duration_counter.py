"""Hidden semi-Markov model: regime and time spent in it are carried in a dict, the hazard of leaving is a logistic
function of that time up to a bound. Machines in a plate, each with its own regime; a covariate moves the hazard.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

MAX_DURATION = 4


def model(y, load, num_machines):
    base = numpyro.sample("base", dist.Normal(-1.0, 1.0))
    slope = numpyro.sample("slope", dist.HalfNormal(0.5))
    effect = numpyro.sample("effect", dist.Normal(0.0, 0.5))
    levels = numpyro.sample("levels", dist.Normal(jnp.array([0.0, 2.0]), 0.5).to_event(1))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.3))

    def transition(carry, inputs):
        y_t, load_t = inputs
        state, age = carry["state"], carry["age"]
        with numpyro.plate("machines", num_machines):
            logits = base + slope * age + effect * load_t
            leave = numpyro.sample("leave", dist.Bernoulli(logits=logits))
            state = jnp.where(leave == 1, 1 - state, state)
            age = jnp.where(leave == 1, 0, jnp.minimum(age + 1, MAX_DURATION))
            numpyro.sample("y", dist.Normal(levels[state], scale), obs=y_t)
        return {"state": state, "age": age}, state

    init = {"state": jnp.zeros(num_machines, jnp.int32), "age": jnp.zeros(num_machines, jnp.int32)}
    _, states = scan(transition, init, (y, load))
    numpyro.deterministic("states", states)


_RNG = np.random.default_rng(12)
model_args = (
    jnp.asarray(_RNG.normal(size=(8, 3)) + np.array([0, 0, 0, 2, 2, 2, 0, 0])[:, None]),
    jnp.asarray(_RNG.normal(size=8)),
)
model_kwargs = {"num_machines": 3}
THETA = {
    "base": jnp.array(-1.0),
    "slope": jnp.array(0.4),
    "effect": jnp.array(0.3),
    "levels": jnp.array([0.0, 1.5]),
    "scale": jnp.array(1.0),
}
OBS = ["y"]
LATENT_IN_SCAN = ["leave"]

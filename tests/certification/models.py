"""Six sound models of unlike kinds, and a small one in which faults are planted."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

from benchmarks import verdict_models


def autoregression(y):
    """A level around zero, its start from a law of its own; scale and noise unknown."""
    phi = numpyro.sample("phi", dist.Beta(8.0, 2.0))
    scale = numpyro.sample("scale", dist.LogNormal(-0.5, 0.4))
    x_0 = numpyro.sample("x_0", dist.Normal(0.0, 1.5))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(phi * x, scale))
        numpyro.sample("y", dist.Normal(x, 0.7), obs=y)
        return x, None

    scan(step, x_0, y)


READINGS = np.array([0.4, 1.1, 0.2, -0.5, -0.9, 0.3, 0.8, 1.6, 1.0, 0.1, -0.7, -0.2])
"""What the autoregression is traced with."""


def gaps(y):
    """The same by another name, for data with missing values."""
    return autoregression(y)


SOUND = ("Nile", "demonstration", "three regimes", "Poisson trend", "panel of 10", "SIR")


def traced(name: str):
    """Trace a sound model."""
    return verdict_models.MODELS[name].traced()


def jittered(y):
    """A model that computes what it observes from its argument."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(x, scale))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=jnp.log(y))
        return x, None

    scan(step, 0.0, y)

"""One compilation serves every parameter value, key and data of one shape, however the model is reached."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import ssmscan

T = 37


@contextmanager
def compilations() -> Iterator[Counter]:
    """Count compiled functions by name, as JAX's own log reports them."""
    counts: Counter[str] = Counter()

    class Count(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            match = re.search(r"Finished XLA compilation of jit\(([^)]*)\)", record.getMessage())
            counts.update([match.group(1)] if match else [])

    handler, logger = Count(), logging.getLogger("jax._src.dispatch")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield counts
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def bare():
    """A model without data."""
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    x0 = numpyro.sample("x0", dist.Normal(0, 1))

    def step(x, _):
        x = numpyro.sample("x", dist.Normal(x, q))
        numpyro.sample("y", dist.Normal(x, 1.0))
        return x, None

    scan(step, x0, None, length=T)


def with_argument(y):
    with handlers.condition(data={"y": y}):
        bare()


def closed_over(y):
    def model():
        with handlers.condition(data={"y": y}):
            bare()

    return model


def test_twenty_runs_reached_in_four_ways_compile_once():
    rows = [jnp.asarray(row) for row in np.random.default_rng(0).normal(size=(20, T)).astype(np.float32)]
    first = ssmscan.trace(with_argument, rows[0])
    models = [
        *(first.with_data(row) for row in rows[:5]),
        *(ssmscan.trace(with_argument, row) for row in rows[5:10]),
        *(ssmscan.trace(closed_over(row)) for row in rows[10:15]),
        *(ssmscan.trace(handlers.condition(bare, data={"y": row})) for row in rows[15:]),
    ]
    casts = [lambda v: v, np.float64, np.float32, jnp.float32, jnp.asarray]
    particle_filter, values = ssmscan.ParticleFilter(128), []
    with compilations() as counts:
        for i, ssm in enumerate(models):
            theta = {"q": casts[i % 5](0.3 + 0.05 * i)}
            values.append(float(particle_filter.run(jax.random.key(i), ssm, theta).log_likelihood))
    assert counts["run_filter"] == 1, counts
    assert len(set(values)) == 20
    assert len({ssm.program for ssm in models}) == 1


@pytest.mark.slow
def test_another_shape_compiles_again():
    """The counter can count to two."""
    particle_filter, row = ssmscan.ParticleFilter(129), np.zeros(T, np.float32)
    with compilations() as counts:
        particle_filter.run(jax.random.key(0), ssmscan.trace(with_argument, row), {"q": 0.3})
        ssmscan.ParticleFilter(130).run(jax.random.key(0), ssmscan.trace(with_argument, row), {"q": 0.3})
    assert counts["run_filter"] == 2

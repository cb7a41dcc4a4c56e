"""Panels are found where elements do not interact, and only there; the reason is in the table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan

T, M = 5, 4
Y = np.random.default_rng(0).normal(size=(T, M)).astype(np.float32)
GROUPS = np.random.default_rng(1).normal(size=(T, 3, M)).astype(np.float32)


def series(step, start=None, after=None):
    """A model of one loop over Y, from a transition `step(carry, y, s)`."""

    def model(y=Y):
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        carry = jnp.zeros(M) if start is None else start(s)
        _, path = scan(lambda carry, yt: step(carry, yt, s), carry, y)
        if after is not None:
            after(path)

    return model


def see(mean, y):
    numpyro.sample("y", dist.Normal(mean, 1.0).to_event(mean.ndim), obs=y)


def walk(x, s):
    return numpyro.sample("x", dist.Normal(0.9 * x, s).to_event(x.ndim))


def plated(x, y, s):
    with numpyro.plate("animals", M):
        x = numpyro.sample("x", dist.Normal(0.9 * x, s))
        numpyro.sample("y", dist.StudentT(4.0, x, 1.0), obs=y)
    return x, x


def vector(x, y, s):
    x = walk(x, s)
    see(x, y)
    return x, None


def own_start(s):
    return numpyro.sample("x0", dist.Normal(jnp.arange(1.0 * M), s).to_event(1))


def common_start(s):
    return jnp.full(M, 1.0) * numpyro.sample("x0", dist.Normal(0.0, s))


def buffers(carry, y, s):
    """A window of past states, a counter, and a mean of the data that no noise reaches."""
    window, count, mean = carry
    x = numpyro.sample("x", dist.Normal(window @ jnp.array([0.5, 0.3]) + mean, s).to_event(1))
    see(x, y)
    return (jnp.concatenate([x[:, None], window[:, :1]], 1), count + 1, 0.9 * mean + 0.1 * y.mean()), None


def two_noises(x, y, s):
    """Discrete and continuous noise, looked up."""
    with numpyro.plate("animals", M):
        k = numpyro.sample("k", dist.Bernoulli(jax.nn.sigmoid(x)))
        x = numpyro.sample("x", dist.StudentT(5.0, jnp.array([-1.0, 1.0])[k], s))
    see(x, y)
    return x, None


def nested(x, y, s):
    with numpyro.plate("groups", 3, dim=-2), numpyro.plate("animals", M, dim=-1):
        x = numpyro.sample("x", dist.Normal(x + x.mean(0), s))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
    return x, None


def unseen(x, y, s):
    x = walk(x, s)
    return x, x


def counted(x, y, s):
    with numpyro.plate("animals", M):
        x = numpyro.sample("x", dist.Poisson(2.0 + jnp.abs(x))).astype(float)
        x = numpyro.sample("b", dist.Binomial(9, 1.0 / (1.0 + x))) + 0.5 * x
    see(x, y)
    return x, None


PANELS = {
    "plated": (series(plated), (M, "animals")),
    "vector": (series(vector), (M, None)),
    "own start": (series(vector, own_start), (M, None)),
    "buffers": (series(buffers, lambda s: (jnp.zeros((M, 2)), 0, 0.0)), (M, None)),
    "two noises": (series(two_noises), (M, "animals")),
    "counts": (series(counted), (M, "animals")),
    "nested": (lambda: series(nested, lambda s: jnp.zeros((3, M)))(GROUPS), (M, "animals")),
    "after": (series(unseen, None, lambda path: see(path, Y)), (M, None)),
}


@pytest.mark.parametrize("name", PANELS)
def test_elements_that_do_not_interact_are_found(name):
    model, (size, plate) = PANELS[name]
    ssm = ssmscan.trace(model)
    assert ssm.panel is not None
    assert (ssm.panel.size, ssm.panel.name) == (size, plate)
    named = f" '{plate}'" if plate else ""
    assert f"panel of {size} elements{named}, filtered one by one" in repr(ssm).splitlines()


def shared_factor(carry, y, s):
    x, g = carry
    g = numpyro.sample("g", dist.Normal(g, 1.0))
    x = walk(x, s)
    see(x + g, y)
    return (x, g), None


def mean_field(x, y, s):
    x = walk(x + x.mean(), s)
    see(x, y)
    return x, None


def total_seen(x, y, s):
    x = walk(x, s)
    numpyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y.sum())
    return x, None


def neighbours(x, y, s):
    x = walk(jnp.roll(x, 1), s)
    see(x, y)
    return x, None


def correlated(x, y, s):
    x = numpyro.sample("x", dist.MultivariateNormal(x, s * (jnp.eye(M) + 0.2)))
    see(x, y)
    return x, None


def total_reported(x, y, s):
    x = walk(x, s)
    numpyro.deterministic("total", x.sum())
    see(x, y)
    return x, None


def own_sampler(x, y, s):
    with numpyro.plate("animals", M):
        x = numpyro.sample("x", dist.VonMises(x, 3.0))
    see(x, y)
    return x, None


def rejection(x, y, s):
    with numpyro.plate("animals", M):
        x = numpyro.sample("x", dist.Gamma(2.0 + jnp.exp(x), 3.0))
    see(x, y)
    return x, None


JOINT = {
    "shared factor": (series(shared_factor, lambda s: (jnp.zeros(M), 0.0)), "'g' is common to all elements"),
    "common start": (series(vector, common_start), "'x0' is common to all elements"),
    "mean field": (series(mean_field), "the carry joins elements, reduce_sum (test_panel.py:"),
    "total seen": (series(total_seen), "an observation joins elements, reduce_sum (test_panel.py:"),
    "neighbours": (series(neighbours), "the carry joins elements, "),
    "correlated": (series(correlated), "the carry joins elements, dot_general"),
    "total reported": (series(total_reported), "'total' joins elements, reduce_sum (test_panel.py:"),
    "rejection": (series(rejection), "'x' is drawn by rejection, for all elements at once"),
    "own sampler": (series(own_sampler), "'x' is drawn by its family's own sampler, for all elements at once"),
    "after": (
        series(unseen, None, lambda path: see(path.sum(-1), Y[:, 0])),
        "an observation joins elements, reduce_sum (test_panel.py:",
    ),
}


@pytest.mark.parametrize("name", JOINT)
def test_elements_that_interact_are_filtered_jointly_and_the_table_says_why(name):
    model, reason = JOINT[name]
    ssm = ssmscan.trace(model)
    assert ssm.panel is None
    assert repr(ssm).splitlines()[-1].startswith(f"filtered jointly: {reason}")


def test_one_series_says_nothing_of_panels():
    ssm = ssmscan.trace(lambda: series(lambda x, y, s: vector(x, y[0], s), lambda s: 0.0)())
    assert ssm.panel is None
    assert "filtered" not in repr(ssm)

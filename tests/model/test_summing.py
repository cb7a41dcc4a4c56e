"""Discrete states summed out, against NumPyro's log-density of the original model added up over all paths."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import log_density
from scipy.special import logsumexp

import ssmscan

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
Y, PAIRS, X = RNG.normal(size=4), RNG.normal(size=(4, 2)), RNG.normal(size=4)
ROWS = RNG.dirichlet(np.ones(3), 3)


def scaled_and_masked(y, seen):
    def step(z, inputs):
        yt, ok = inputs
        with handlers.scale(scale=0.5):
            z = numpyro.sample("z", dist.Categorical(jnp.asarray(ROWS)[z]))
        with handlers.mask(mask=ok):
            numpyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=yt)
        return z, None

    scan(step, 0, (y, seen))


def changing_in_time(y, x):
    def step(carry, inputs):
        yt, xt = inputs
        logits = jnp.log(jnp.asarray(ROWS))[carry["z"]] + 0.3 * xt * jnp.arange(3) * carry["n"]
        z = numpyro.sample("z", dist.Categorical(logits=logits))
        numpyro.sample("y", dist.Normal(1.0 * z - carry["z"] + 0.1 * carry["n"], 1.0), obs=yt)
        return {"z": z, "n": carry["n"] + 1, "nothing": None}, None

    scan(step, {"z": jnp.array(1), "n": 0, "nothing": None}, (y, x))


def two_chains(y):
    """Two discrete starts, of which one follows from the other, and an observation of the start."""
    rows = jnp.asarray(ROWS)
    a = numpyro.sample("a", dist.Bernoulli(0.4))
    b = numpyro.sample("b", dist.Categorical(rows[a]))
    numpyro.sample("y0", dist.Normal(1.0 * b, 1.0), obs=0.2)

    def step(carry, yt):
        a, b = carry
        u = numpyro.sample("u", dist.Bernoulli(0.3 + 0.1 * b))
        v = numpyro.sample("v", dist.Categorical(rows[a + u]))
        numpyro.sample("y", dist.Normal(1.0 * v - u, 1.0), obs=yt)
        return (u, v), None

    scan(step, (a, b), y)


def partly_known(y):
    def step(carry, yt):
        z, w = carry
        z = numpyro.sample("z", dist.Bernoulli(0.3 + 0.3 * w + 0.2 * z))
        w = numpyro.sample("w", dist.Bernoulli(0.5 - 0.2 * z))
        numpyro.sample("y", dist.Normal(1.0 * z + w, 1.0), obs=yt)
        return (z, w), None

    with handlers.condition(data={"w": jnp.array([0, 1, 1, 0])}):
        scan(step, (0, 0), y)


def only_a_function_is_carried(y):
    def step(logit, yt):
        z = numpyro.sample("z", dist.Bernoulli(logits=logit))
        numpyro.factor("soft", -((yt - z) ** 2))
        return jnp.where(z == 1, 0.7, -0.3 * yt), None

    scan(step, 0.2, y)


def neighbours(y):
    """Elements that interact: their joint values are summed."""

    def step(z, yt):
        z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.5 * z[::-1]).to_event(1))
        numpyro.sample("y", dist.Normal(1.0 * z, 1.0).to_event(1), obs=yt)
        return z, None

    scan(step, jnp.zeros(2, int), y)


def elements(y):
    def step(z, yt):
        with numpyro.plate("series", 2):
            z = numpyro.sample("z", dist.Categorical(jnp.asarray(ROWS)[z]))
            numpyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=yt)
        return z, None

    scan(step, jnp.array([0, 2]), y)


def single_step(y):
    z0 = numpyro.sample("z0", dist.Bernoulli(0.3))

    def step(z, yt):
        z = numpyro.sample("z", dist.Categorical(jnp.asarray(ROWS)[z]))
        numpyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=yt)
        return z, None

    scan(step, z0, y[:1])


PAIR_ROWS = RNG.dirichlet(np.ones(3), (3, 3))
HAZARD = jnp.array([0.1, 0.2, 0.5])


def second_order(y):
    """Two starts that are drawn; the law of a step knows the last two; `history` for NumPyro's own enumeration."""
    rows = jnp.asarray(PAIR_ROWS)
    a = numpyro.sample("a", dist.Categorical(jnp.ones(3) / 3))
    b = numpyro.sample("b", dist.Categorical(rows[0, a]))
    numpyro.sample("y0", dist.Normal(1.0 * b, 1.0), obs=0.3)

    def step(carry, yt):
        last, before = carry["last"], carry["before"]
        z = numpyro.sample("z", dist.Categorical(rows[before, last]))
        numpyro.sample("y", dist.Normal(1.0 * z - before, 1.0), obs=yt)
        return {"last": z, "before": last}, None

    scan(step, {"last": b, "before": a}, y, history=2)


def rolled(y):
    """A window of floats, moved by roll and an update at a place."""

    def step(w, yt):
        z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.2 * w[2]))
        w = jnp.roll(w, 1).at[0].set(z)
        numpyro.sample("y", dist.Normal(w[0] - w[1] * w[2], 1.0), obs=yt)
        return w, None

    scan(step, jnp.zeros(3), y)


def residuals(y, x):
    """Lags of what the regime leaves over: terms of data, two steps back, in a window that has no regimes."""

    def step(carry, inputs):
        (yt, xt), (z, errors) = inputs, carry
        z = numpyro.sample("z", dist.Categorical(jnp.asarray(ROWS)[z]))
        mean = jnp.array([-1.0, 0.5, 2.0])[z] + 0.3 * xt
        numpyro.sample("y", dist.Normal(mean + errors @ jnp.array([0.5, 0.2]), 1.0), obs=yt)
        return (z, jnp.concatenate([(yt - mean)[None], errors[:-1]])), None

    scan(step, (0, jnp.array([0.4, -0.2])), (y, x))


def spells(y):
    """A regime and how long it has lasted, which decides when it ends."""

    def step(carry, yt):
        z, age = carry
        ends = numpyro.sample("ends", dist.Bernoulli(HAZARD[age]))
        z, age = jnp.where(ends == 1, 1 - z, z), jnp.where(ends == 1, 0, jnp.minimum(age + 1, 2))
        numpyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=yt)
        return (z, age), None

    scan(step, (0, 0), y)


def spells_of_elements(y):
    """The same for the elements of a plate, which are summed one by one."""

    def step(carry, yt):
        z, age = carry
        with numpyro.plate("series", 2):
            ends = numpyro.sample("ends", dist.Bernoulli(HAZARD[age]))
            z, age = jnp.where(ends == 1, 1 - z, z), jnp.where(ends == 1, 0, jnp.minimum(age + 1, 2))
            numpyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=yt)
        return (z, age), None

    scan(step, (jnp.zeros(2, int), jnp.zeros(2, int)), y)


def beside_in_one_array(y):
    """Two regimes and a level that no draw touches, stacked."""

    def step(carry, yt):
        z = numpyro.sample("z", dist.Categorical(jnp.asarray(ROWS)[carry[1].astype(int)]))
        numpyro.sample("y", dist.Normal(carry[1] + z + 0.1 * carry[2], 1.0), obs=yt)
        return jnp.stack([1.0 * z, carry[0], 0.5 * carry[2] + yt]), None

    scan(step, jnp.zeros(3), y)


def changes(y):
    """A count of changes, never cut off, and a count that nothing reads."""

    def step(carry, yt):
        n, idle = carry
        new = numpyro.sample("new", dist.Bernoulli(0.3))
        n = n + new
        numpyro.sample("y", dist.Normal(jnp.sqrt(1.0 * n), 1.0), obs=yt)
        return (n, 0.5 * idle + n), idle

    scan(step, (0, 0.0), y)


MODELS = {
    second_order: (Y[:3],),
    rolled: (Y,),
    residuals: (Y, X),
    spells: (Y,),
    spells_of_elements: (PAIRS[:3],),
    beside_in_one_array: (Y,),
    changes: (Y,),
    scaled_and_masked: (Y, Y > 0),
    changing_in_time: (Y, X),
    two_chains: (Y[:3],),
    partly_known: (Y,),
    only_a_function_is_carried: (Y,),
    neighbours: (PAIRS,),
    elements: (PAIRS[:3],),
    single_step: (Y,),
}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_the_sum_over_all_paths_of_the_original_model(model):
    ssm = ssmscan.trace(model, *MODELS[model])
    summed = ssm.program.marginal.summed
    drawn = [(site, site.shape) for site in summed.initial]
    drawn += [(site, (ssm.num_steps, *site.shape)) for site in summed.sites]
    choices = [site.values for site, shape in drawn for _ in range(math.prod(shape))]
    grid, values, offset = np.array(list(itertools.product(*choices))), {}, 0
    for site, shape in drawn:
        size = math.prod(shape)
        values[site.name] = grid[:, offset : offset + size].reshape(-1, *shape).astype(site.dtype)
        offset += size

    arguments = MODELS[model]
    logs = jax.jit(jax.vmap(lambda v: log_density(model, arguments, {}, v)[0]))(values)
    logs = np.asarray(logs, np.float64)

    def found(key):
        posterior = ssm.program.marginal.posterior(ssm.core, {}, {}, key)
        return ssm.log_likelihood_given_noise({}, {}), posterior

    value, (states, probabilities, log_joint) = jax.jit(found)(jax.random.key(0))
    np.testing.assert_allclose(value, logsumexp(logs), rtol=1e-5)
    weights = np.exp(logs - logsumexp(logs))
    same = [(values[s.name] == np.asarray(states[s.name])).reshape(len(grid), -1).all(1) for s, _ in drawn]
    np.testing.assert_allclose(log_joint, logs[np.all(same, 0)][0], rtol=1e-5)
    for site, shape in drawn:
        assert states[site.name].shape == shape
        exact = [np.tensordot(weights, values[site.name] == v, 1) for v in site.values]
        np.testing.assert_allclose(probabilities[site.name], np.stack(exact, -1), atol=1e-5)

"""A model that is another each time it runs is refused, wherever the difference is; one that is not, is not."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import ssmscan
from tests.model.zoo import Y

RNG = np.random.default_rng(0)
DATA = Y[:4].astype(np.float32)


def model_of(
    mean=lambda x: x, seen=lambda x: x, start=lambda: 0.0, prior=lambda: 1.0, xs=lambda y: y, family=dist.Normal
):
    def model(y):
        q = numpyro.sample("q", dist.HalfNormal(prior()))

        def step(x, yt):
            x = numpyro.sample("x", family(mean(x), q))
            numpyro.sample("y", dist.Normal(seen(x), 1.0), obs=yt)
            return x, None

        scan(step, start(), xs(y))

    return model


def counting():
    count = itertools.count()
    return model_of(mean=lambda x: x + next(count))


def alternating_sites():
    count = itertools.count()

    def model(y):
        if next(count) % 2:
            numpyro.sample("extra", dist.Normal(0, 1))
        model_of()(y)

    return model


def alternating_sites_of_the_step():
    count = itertools.count()

    def seen(x):
        if next(count) % 2:
            numpyro.sample("extra", dist.Normal(0, 1))
        return x

    return model_of(seen=seen)


def alternating_families():
    count = itertools.count()
    return model_of(family=lambda *args: dist.Laplace(*args) if next(count) % 2 else dist.Normal(*args))


def alternating_order():
    """The same operations on other operands."""
    count = itertools.count()

    def mean(x):
        y = jnp.tanh(x)
        return x - y if next(count) % 2 else y - x

    return model_of(mean=mean)


CHANGING = {
    "number": (lambda: model_of(mean=lambda x: x + RNG.normal()), r"the number \S+ in the place of .*density of 'x'"),
    "small": (lambda: model_of(mean=lambda x: x * np.float32(1 + 1e-6 * RNG.uniform())), "density of 'x'"),
    "counter": (counting, r"the number \d+ in the place of \d+ \(test_repeatable.py:\d+, in .*density of 'x'"),
    "alternating": (lambda: (lambda c: model_of(mean=lambda x: x + next(c) % 2))(itertools.count()), "density of 'x'"),
    "array": (
        lambda: model_of(seen=lambda x: x + jnp.asarray(RNG.normal(size=50)).sum()),
        r"other values in a constant array of shape \[50\], which reaches the density of 'y'",
    ),
    "start": (lambda: model_of(start=lambda: RNG.normal()), "the number .* which reaches the initial carry"),
    "prior": (lambda: model_of(prior=lambda: 1 + RNG.uniform()), "the number .* which reaches the density of 'q'"),
    "inputs": (lambda: model_of(xs=lambda y: y + RNG.normal(size=4).astype("f")), "which reaches the inputs"),
    "nested": (
        lambda: model_of(mean=lambda x: jax.lax.cond(x > 0, lambda a: a * RNG.normal(), lambda a: a, x)),
        "the number .* density of 'x'",
    ),
    "key": (
        lambda: model_of(mean=lambda x: x + jax.random.normal(jax.random.key(RNG.integers(1000)))),
        "the number .* density of 'x'",
    ),
    "operation": (
        lambda: (lambda c: model_of(mean=lambda x: (jnp.sin, jnp.cos, jnp.tan, jnp.exp, jnp.tanh)[next(c) % 5](x)))(
            itertools.count()
        ),
        "the operation .* in the place of .* density of 'x'",
    ),
    "order": (alternating_order, "other operations, which reaches the density of 'x'"),
    "site": (alternating_sites, "at site 'extra'"),
    "site of the step": (alternating_sites_of_the_step, "it has (nothing|'Normal') at site"),
    "family": (alternating_families, "it has '(Laplace|Normal)' at site 'x' in the place of '(Laplace|Normal)'"),
}  # fmt: skip
QUICK = ("number", "array", "start", "order", "site of the step")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CHANGING])
def test_a_model_that_changes_is_refused(name):
    make, message = CHANGING[name]
    with pytest.raises(ssmscan.ModelError, match=f"the model is not a function of its arguments.*{message}"):
        ssmscan.trace(make(), DATA)


def test_what_reaches_nothing_may_change():
    def model(y):
        key = jax.random.key(RNG.integers(1000))
        x0 = numpyro.sample("x0", dist.Normal(RNG.normal() * 0 + 0.0, 1.0), rng_key=key)

        def step(x, yt):
            RNG.normal() * x
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
            return x, None

        scan(step, x0, y)

    assert ssmscan.trace(model, DATA).program is ssmscan.trace(model, DATA).program


@pytest.mark.slow
def test_constants_of_a_key_of_the_model_are_the_same_each_time():
    def model(y):
        w = jax.random.normal(numpyro.prng_key(), (3,))
        model_of(mean=lambda x: x + w.sum())(y)

    assert ssmscan.trace(handlers.seed(model, rng_seed=0), DATA).num_steps == 4


@pytest.mark.slow
def test_several_loops_are_compared_part_by_part():
    def model(y):
        for k in range(2):

            def step(x, yt, k=k):
                x = numpyro.sample(f"x{k}", dist.Normal(x + (RNG.normal() if k else 0.0), 1.0))
                numpyro.sample(f"y{k}", dist.Normal(x, 1.0), obs=yt)
                return x, None

            scan(step, 0.0, y)

    with pytest.raises(ssmscan.ModelError, match="not a function of its arguments.*'x1'"):
        ssmscan.trace(model, DATA)

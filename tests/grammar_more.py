"""More styles: discrete memory, and states that have no smooth map from noise; see `grammar_styles`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

from tests import grammar_styles as styles
from tests.grammar_small import SMALL, small_print
from tests.grammar_styles import STEPS, THETA, Case, R, Y, sigma

STAY = jnp.array([[0.8, 0.2], [0.3, 0.7]])
SECOND = jnp.array([[[0.9, 0.1], [0.4, 0.6]], [[0.7, 0.3], [0.2, 0.8]]])
LEVELS = jnp.array([-1.0, 1.5])


def chain(kind: str) -> Case:
    """Discrete states whose carry holds some of the last draws."""

    def model(y):
        q = sigma()

        def see(mean, yt):
            numpyro.sample("y", dist.Normal(mean, q), obs=yt)

        if kind == "first":

            def step(z, yt):
                z = numpyro.sample("z", dist.Categorical(STAY[z]))
                see(LEVELS[z], yt)
                return z, z

            scan(step, 0, y)
        elif kind == "second":

            def step(pair, yt):
                z = numpyro.sample("z", dist.Categorical(SECOND[pair[0], pair[1]]))
                see(LEVELS[z], yt)
                return (pair[1], z), z

            scan(step, (0, 0), y)
        elif kind == "array window":

            def step(window, yt):
                p = 0.2 + 0.2 * window.sum()
                z = numpyro.sample("z", dist.Bernoulli(p))
                see(LEVELS[z], yt)
                return jnp.concatenate([window[1:], jnp.asarray(z)[None]]), None

            scan(step, jnp.zeros(3, int), y)
        elif kind == "rolled window":

            def step(window, yt):
                z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.3 * window.mean()))
                window = jnp.roll(window, 1).at[0].set(z)
                see((window * jnp.array([1.0, 0.5, 0.2])).sum(), yt)
                return window, None

            scan(step, jnp.zeros(3), y)
        elif kind == "lagged mean":

            def step(before, yt):
                z = numpyro.sample("z", dist.Categorical(STAY[before]))
                see(LEVELS[z] + 0.5 * LEVELS[before], yt)
                return z, None

            scan(step, 0, y)
        elif kind == "autoregressive":

            def step(carry, yt):
                z, last = carry
                z = numpyro.sample("z", dist.Categorical(STAY[z]))
                see(LEVELS[z] + 0.5 * last, yt)
                return (z, yt), None

            scan(step, (0, 0.0), y)
        elif kind == "duration":

            def step(carry, yt):
                z, left = carry
                change = numpyro.sample("d", dist.Bernoulli(jnp.where(left > 0, 0.1, 0.6)))
                z = jnp.where(change == 1, 1 - z, z)
                left = jnp.where(change == 1, 2, jnp.maximum(left - 1, 0))
                see(LEVELS[z], yt)
                return (z, left), None

            scan(step, (0, 2), y)
        elif kind == "count":

            def step(total, yt):
                z = numpyro.sample("z", dist.Bernoulli(0.4))
                total = total + z
                see(0.3 * total, yt)
                return total, None

            scan(step, 0, y)
        elif kind == "start":
            z0 = numpyro.sample("z0", dist.Categorical(jnp.array([0.4, 0.6])))

            def step(z, yt):
                z = numpyro.sample("z", dist.Categorical(STAY[z]))
                see(LEVELS[z], yt)
                return z, z

            scan(step, z0, y)
        elif kind == "after":

            def step(z, _):
                z = numpyro.sample("z", dist.Categorical(STAY[z]))
                return z, z

            _, path = scan(step, 0, None, length=STEPS)
            numpyro.sample("y", dist.Normal(LEVELS[path], q), obs=y)
        elif kind == "one hot":

            def step(p, yt):
                z = numpyro.sample("z", dist.Categorical(p @ STAY))
                see(LEVELS[z], yt)
                return jnp.eye(2)[z], None

            scan(step, jnp.array([1.0, 0.0]), y)
        elif kind == "logits":

            def step(z, yt):
                z = numpyro.sample("z", dist.Categorical(logits=jnp.log(STAY)[z]))
                see(jnp.where(z == 0, -1.0, 1.5), yt)
                return z, z

            scan(step, jnp.array(0), y)
        elif kind == "factorial":

            def step(carry, yt):
                a = numpyro.sample("z", dist.Categorical(STAY[carry[0]]))
                b = numpyro.sample("w", dist.Bernoulli(jnp.where(carry[1] == 1, 0.7, 0.2)))
                see(LEVELS[a] + 0.7 * b, yt)
                return jnp.stack([a, b]), None

            scan(step, jnp.zeros(2, int), y)
        else:
            raise ValueError(kind)

    sites = {"duration": {"d": 2}, "factorial": {"z": 2, "w": 2}, "start": {"z": 2, "z0": 2}}
    return Case(f"chain, {kind}", model, (jnp.asarray(Y),), THETA, "sum", sites.get(kind, {"z": 2}))


def switching(kind: str) -> Case:
    """A discrete chain that moves a continuous state."""

    def model(y):
        q = sigma()

        def step(carry, yt):
            x, z = carry
            z = numpyro.sample("z", dist.Categorical(STAY[z]))
            if kind == "drift":
                x = numpyro.sample("x", dist.Normal(x + jnp.array([0.0, 0.5])[z], q))
            else:
                x = numpyro.sample("x", dist.Normal(x, jnp.array([q, 2 * q])[z]))
            numpyro.sample("y", dist.Normal(x, R), obs=yt)
            return (x, z), None

        scan(step, (0.0, 0), y)

    return Case(f"switching {kind}", model, (jnp.asarray(Y),), THETA, "runs")


def odd_state(family: str) -> Case:
    """Continuous states whose family has no map from noise, or an unusual one."""

    def model(y):
        q = sigma()
        laws = {
            "VonMises": lambda c: dist.VonMises(c, 2.0),
            "mixture": lambda c: dist.MixtureSameFamily(
                dist.Categorical(jnp.array([0.3, 0.7])), dist.Normal(c + jnp.array([-1.0, 1.0]), 0.5)
            ),
            "MultivariateStudentT": lambda c: dist.MultivariateStudentT(5.0, jnp.stack([c, c]), jnp.eye(2)),
            "StudentT": lambda c: dist.StudentT(4.0, c, 1.0),
            "Laplace": lambda c: dist.Laplace(c, 1.0),
            "Gamma": lambda c: dist.Gamma(2.0, 1.0 + c**2),
            "Beta": lambda c: dist.Beta(1.0 + c**2, 2.0),
            "truncated": lambda c: dist.TruncatedNormal(c, 1.0, low=-2.0, high=2.0),
            "LogNormal": lambda c: dist.LogNormal(0.3 * c, 0.4),
            "Uniform": lambda c: dist.Uniform(c - 1.0, c + 1.0),
            "Gumbel": lambda c: dist.Gumbel(0.5 * c, 0.5),
            "folded": lambda c: dist.FoldedDistribution(dist.Normal(0.5 * c, 1.0)),
            "skew": lambda c: dist.AsymmetricLaplace(0.5 * c, 1.0, 1.5),
            "Dirichlet": lambda c: dist.Dirichlet(jnp.stack([1.0 + c**2, 2.0])),
            "affine": lambda c: dist.TransformedDistribution(
                dist.Normal(0.0, 1.0), [dist.transforms.AffineTransform(c, q)]
            ),
        }

        def step(c, yt):
            x = numpyro.sample("x", laws[family](c))
            mean = x if jnp.ndim(x) == 0 else x[0]
            numpyro.sample("y", dist.Normal(mean, q + 0.5), obs=yt)
            return jnp.clip(mean, -3.0, 3.0), None

        scan(step, jnp.zeros(()), 0.3 * y)

    return Case(f"state {family}", model, (jnp.asarray(Y[:4]),), THETA, "runs")


CHAINS = (
    "first", "second", "array window", "rolled window", "lagged mean", "autoregressive", "duration", "count", "start",
    "after", "one hot", "logits", "factorial",
)  # fmt: skip
FAMILIES = (
    "VonMises", "mixture", "MultivariateStudentT", "StudentT", "Laplace", "Gamma", "Beta", "truncated", "LogNormal",
    "Uniform", "Gumbel", "folded", "skew", "Dirichlet", "affine",
)  # fmt: skip
LAYOUTS = (
    "given times", "times in data", "take", "boolean", "stride", "late", "reversed", "twice", "repeated", "outer",
    "front", "front event", "matrix", "event time", "flat", "moveaxis", "permuted", "covariate", "squeezed", "padded",
    "where", "multivariate",
)  # fmt: skip
AFTER = (
    "rows", "last", "index", "sum", "mean of rest", "differences", "sorted", "rolled", "product", "matrix", "residual",
    "flip",
)  # fmt: skip
KINDS = (
    "start", "two", "one tree", "used twice", "summed", "reversed", "shorter", "indexed", "chain", "hyper",
)  # fmt: skip


def cases() -> Iterator[Case]:
    """Yield all of them."""
    loops, wheres = ("scan", "lax", "cumsum", "named"), ("plate", "expand", "event", "array")
    for number, (loop, where) in enumerate(itertools.product(loops, wheres)):
        yield styles.moved(loop, where, ("unit", "scaled")[number % 2], ("plain", "plate")[number // 2 % 2])
    for where, noise in itertools.product(wheres, ("unit", "scaled")):
        yield styles.moved("scan", where, noise, "inside")
    yield from map(styles.moved_with_start, KINDS)
    yield from map(styles.moved_panel, ("front", "behind"))
    for number, after in enumerate(AFTER):
        yield styles.stateless(("scan", "lax", "for", "seen inside")[number % 4], after)
        yield styles.stateless(("lax", "seen inside", "scan", "lax")[number % 4], after)
    yield from map(styles.layout, LAYOUTS)
    yield from map(styles.later_scan, ("index", "lagged", "counter", "late start", "tree"))
    yield from map(chain, CHAINS)
    yield from map(switching, ("drift", "scale"))
    yield from map(odd_state, FAMILIES)
    yield from map(small_print, SMALL)

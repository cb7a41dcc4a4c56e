"""Small print: what nobody thinks of when writing a paper; see `grammar_styles`."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from jax import lax, vmap
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

from tests.grammar_styles import BOTH, COUNTS, STEPS, THETA, Case, Q, R, X, Y, sigma

SMALL = (
    "scope", "scope inside", "scope around", "series", "frame", "delta", "multinomial", "dirichlet multinomial",
    "np counts", "reparam", "reparam default", "reparam transform", "improper", "f-string", "vmap", "no parameters",
    "factor", "factor inside", "mask", "scale", "sunspot level", "plate", "shared plate", "static likelihood",
    "keyword", "class", "conditioned", "last and path", "student obs", "zero inflated",
)  # fmt: skip


def small_print(kind: str) -> Case:
    """What nobody thinks of when writing a paper."""
    args, theta, truth, twin = (jnp.asarray(Y),), dict(THETA), "gauss", None

    def walk(y, name="x", seen="y", q=None):
        q = sigma() if q is None else q

        def step(c, yt):
            c = numpyro.sample(name, dist.Normal(c, q))
            numpyro.sample(seen, dist.Normal(c, R), obs=yt)
            return c, c

        return scan(step, 0.0, y)

    if kind == "scope":

        def model(y):
            with handlers.scope(prefix="sub", divider="."):
                q = numpyro.sample("q", dist.HalfNormal(1.0))
            walk(y, q=q)

        theta = {"sub.q": Q}
    elif kind == "scope inside":

        def model(y):
            q = sigma()

            def step(c, yt):
                with handlers.scope(prefix="sub"):
                    c = numpyro.sample("x", dist.Normal(c, q))
                    numpyro.sample("y", dist.Normal(c, R), obs=yt)
                return c, None

            scan(step, 0.0, y)
    elif kind == "scope around":

        def model(y):
            handlers.scope(walk, prefix="sub")(y)

        theta, truth = {"sub/q": Q}, "runs"
    elif kind in ("series", "frame"):

        def model(data):
            y = data if kind == "series" else data["y"]
            walk(jnp.asarray(y.values))

        index = pd.date_range("2020", periods=STEPS)
        args = (pd.Series(Y, index=index) if kind == "series" else pd.DataFrame({"y": Y}, index=index),)
    elif kind == "delta":

        def model(y):
            q = sigma()
            start = numpyro.sample("start", dist.Delta(jnp.array(0.5)))

            def step(c, yt):
                c = numpyro.sample("x", dist.Normal(c, q))
                d = numpyro.sample("twice", dist.Delta(2 * c))
                numpyro.sample("y", dist.Normal(d, R), obs=yt)
                return c, None

            scan(step, start, y)

        args, truth = (jnp.asarray(Y[:4]),), "runs"
    elif kind in ("multinomial", "dirichlet multinomial"):

        def model(n, total=None):
            q = sigma()

            def step(c, nt):
                c = numpyro.sample("x", dist.Normal(c, q))
                p, size = jnp.stack([1.0, jnp.exp(c), 1.0]), nt.sum() if total is None else total
                if kind == "multinomial":
                    numpyro.sample("n", dist.Multinomial(total_count=size, probs=p / p.sum()), obs=nt)
                else:
                    numpyro.sample("n", dist.DirichletMultinomial(p, total_count=size), obs=nt)
                return c, None

            scan(step, 0.0, n)

        def twin(n):  # NumPyro's own forward runs do not bear a total that is traced
            model(n, 4)

        args, truth = (jnp.asarray(np.random.default_rng(2).multinomial(4, [0.2, 0.5, 0.3], size=3)),), "runs"
    elif kind == "np counts":

        def model(n):
            q, most = sigma(), int(np.array(n).max())

            def step(c, nt):
                c = numpyro.sample("x", dist.Normal(c, q))
                numpyro.sample("n", dist.Binomial(most, logits=c), obs=nt)
                return c, None

            scan(step, 0.0, n)

        args, truth = (jnp.asarray(COUNTS[:4]),), "runs"
    elif kind == "reparam":

        def model(y):
            q = sigma()

            def step(c, yt):
                with handlers.reparam(config={"x": LocScaleReparam(0)}):
                    c = numpyro.sample("x", dist.Normal(c, q))
                numpyro.sample("y", dist.Normal(c, R), obs=yt)
                return c, None

            scan(step, 0.0, y)
    elif kind == "reparam default":

        def model(y):
            with handlers.reparam(config={"m": LocScaleReparam()}):
                m = numpyro.sample("m", dist.Normal(0.0, 2.0))
            walk(y - m)

        theta = {"q": Q, "m_decentered": 0.2}
    elif kind == "reparam transform":

        def model(y):
            with handlers.reparam(config={"m": TransformReparam()}):
                law = dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.AffineTransform(1.0, 2.0))
                m = numpyro.sample("m", law)
            walk(y - m)

        theta = {"q": Q, "m_base": 0.3}
    elif kind == "improper":

        def model(y):
            m = numpyro.sample("m", dist.ImproperUniform(dist.constraints.real, (), ()))
            walk(y - m)

        theta = {"q": Q, "m": 0.3}
    elif kind == "f-string":

        def model(y):
            q = sigma()
            x0 = numpyro.sample("x", dist.Normal(0.0, 1.0))

            def step(carry, yt):
                c, t = carry
                c = numpyro.sample(f"x_{t}", dist.Normal(c, q))
                numpyro.sample("y", dist.Normal(c, R), obs=yt)
                return (c, t + 1), None

            scan(step, (x0, 0), y)
    elif kind == "vmap":

        def model(y):
            q = sigma()
            smooth = vmap(lambda a: lax.scan(lambda c, v: (a * c + v,) * 2, 0.0, y)[1])(jnp.array([0.3, 0.5]))
            walk(y + 0.1 * smooth.sum(0), q=q)
    elif kind == "no parameters":

        def model(y):
            walk(y, q=Q)

        theta = {}
    elif kind == "factor":

        def model(y):
            walk(y)
            numpyro.factor("f", jnp.asarray(-0.5))
    elif kind == "factor inside":

        def model(y):
            q = sigma()

            def step(c, yt):
                c = numpyro.sample("x", dist.Normal(c, q))
                numpyro.factor("f", -0.5 * ((yt - c) / R) ** 2)
                return c, None

            scan(step, 0.0, y)
    elif kind == "mask":

        def model(y):
            q = sigma()

            def step(c, v):
                yt, there = v
                c = numpyro.sample("x", dist.Normal(c, q))
                with handlers.mask(mask=there):
                    numpyro.sample("y", dist.Normal(c, R), obs=yt)
                return c, None

            scan(step, 0.0, (y, jnp.array([True, False, True, True, False, True])))
    elif kind == "scale":

        def model(y):
            q = sigma()

            def step(c, yt):
                c = numpyro.sample("x", dist.Normal(c, q))
                with handlers.scale(scale=0.5):
                    numpyro.sample("y", dist.Normal(c, R), obs=yt)
                return c, None

            scan(step, 0.0, y)
    elif kind == "sunspot level":  # the state is observed without noise

        def model(y):
            q = sigma()

            def step(c, yt):
                c = numpyro.sample("y", dist.Normal(0.8 * c, q), obs=yt)
                return c, None

            scan(step, 0.0, y)

        truth = "none"
    elif kind == "plate":

        def model(y):
            q = sigma()

            def step(c, yt):
                with numpyro.plate("n", 2):
                    c = numpyro.sample("x", dist.Normal(c, q))
                    numpyro.sample("y", dist.Normal(c, R), obs=yt)
                return c, None

            scan(step, jnp.zeros(2), y)

        args = (jnp.asarray(BOTH),)
    elif kind == "shared plate":

        def model(y):
            q = sigma()
            with numpyro.plate("n", 2):
                bias = numpyro.sample("bias", dist.Normal(0.0, 1.0))

            def step(c, yt):
                c = numpyro.sample("x", dist.Normal(c, q))
                with numpyro.plate("n", 2):
                    numpyro.sample("y", dist.Normal(c + bias, R), obs=yt)
                return c, None

            scan(step, 0.0, y)

        args, theta = (jnp.asarray(BOTH),), {"q": Q, "bias": np.array([0.2, -0.3])}
    elif kind == "static likelihood":

        def model(y, x):
            q = sigma()
            numpyro.sample("x", dist.Normal(0.0, q), obs=x)
            walk(y, name="level", q=q)

        args = (jnp.asarray(Y), jnp.asarray(X))
    elif kind == "keyword":

        def model(y, *, covariates=None, horizon=0):
            walk(y if covariates is None else y - 0.2 * covariates)
    elif kind == "class":

        class Model:
            def __call__(self, y):
                walk(y)

        model = Model()
    elif kind == "conditioned":

        def inner(y):
            walk(None if y is None else y)

        def free(size):
            q = sigma()

            def step(c, _):
                c = numpyro.sample("x", dist.Normal(c, q))
                numpyro.sample("y", dist.Normal(c, R))
                return c, None

            scan(step, 0.0, None, length=size)

        model, args = handlers.condition(free, data={"y": jnp.asarray(Y)}), (STEPS,)
    elif kind == "last and path":

        def model(y):
            last, _ = walk(y)
            numpyro.deterministic("end", last)
    elif kind == "student obs":

        def model(y):
            q = sigma()

            def step(c, yt):
                c = numpyro.sample("x", dist.Normal(c, q))
                numpyro.sample("y", dist.StudentT(4.0, c, R), obs=yt)
                return c, None

            scan(step, 0.0, y)

        args, truth = (jnp.asarray(Y[:4]),), "runs"
    elif kind == "zero inflated":

        def model(n):
            q = sigma()

            def step(c, nt):
                c = numpyro.sample("x", dist.Normal(c, q))
                numpyro.sample("n", dist.ZeroInflatedPoisson(0.2, jnp.exp(c)), obs=nt)
                return c, None

            scan(step, 0.5, n)

        args, truth = (jnp.asarray(COUNTS[:4]),), "runs"
    else:
        raise ValueError(kind)
    return Case(f"small print, {kind}", model, args, theta, truth, twin=twin)

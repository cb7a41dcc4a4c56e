"""The degree of a jaxpr as a polynomial: primitive by primitive, and never too low."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ssmscan.model.jaxprs.degree import AFFINE, CONSTANT, MORE, degrees

A = jnp.asarray(np.random.RandomState(0).randn(3, 3))
V = A[0]

AFFINE_FUNCTIONS = {
    "solve": lambda x: jnp.linalg.solve(A, x),
    "cho_solve": lambda x: jax.scipy.linalg.cho_solve((A, True), x),
    "triangular": lambda x: jax.scipy.linalg.solve_triangular(A, x, lower=True),
    "set": lambda x: x.at[1].set(2.0)[jnp.array([1, 2])],
    "add_at": lambda x: x.at[jnp.array([0, 0])].add(x[:2]),
    "mean": jnp.mean,
    "roll": lambda x: jnp.roll(x, 1),
    "convolve": lambda x: jnp.convolve(x, V),
    "cumsum": jnp.cumsum,
    "diff": jnp.diff,
    "einsum": lambda x: jnp.einsum("ij,j->i", A, x),
    "where": lambda x: jnp.where(V > 0.0, x, 1.0 - x),
    "guarded": lambda x: jnp.where(jnp.isfinite(x) & (x == x), x, 0.0),
    "cond": lambda x: lax.cond(V[0] > 0.0, lambda x: x, lambda x: 2.0 * x, x),
    "switch": lambda x: lax.switch(jnp.argmax(V), [lambda x: x, lambda x: -x], x),
    "fori": lambda x: lax.fori_loop(0, 5, lambda i, c: 0.5 * c + x, x),
    "while": lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, A @ c[1]), (0, x))[1],
    "scan": lambda x: lax.scan(lambda c, a: (0.5 * c + a, c), 0.0, x),
    "jit": lambda x: jax.jit(lambda y: A @ y)(x),
    "vmap": lambda x: jax.vmap(lambda a: 2.0 * a)(x),
    "polyval": lambda x: jnp.polyval(x, 2.0),
    "interpolate": lambda x: jnp.interp(0.3, jnp.arange(3.0), x),
    "divided": lambda x: x / V,
    "padded": lambda x: jnp.pad(x, 2, constant_values=1.0),
    "float": lambda x: x.astype(jnp.float32),
}
QUADRATIC = {
    "form": lambda x: x @ A @ x,
    "square": jnp.square,
    "power": lambda x: x**2,
    "float_power": lambda x: x**2.0,
    "variance": jnp.var,
    "outer": lambda x: jnp.outer(x, x),
    "pairs": lambda x: lax.scan(lambda c, a: (c + a, c * a), 0.0, x)[1],
    "tiny": lambda x: x + 1e-30 * x * x[0],
}
OTHER = {
    "sin": (lambda x: x + 1e-9 * jnp.sin(x), "sin"),
    "clip": (lambda x: jnp.clip(x, -1e9, 1e9), "max"),
    "abs": (jnp.abs, "abs"),
    "where": (lambda x: jnp.where(x > 0.0, x, x), "gt"),
    "cond": (lambda x: lax.cond(x[0] > 0.0, lambda x: x, lambda x: 2.0 * x, x), "gt"),
    "while": (lambda x: lax.while_loop(lambda c: c[0] < 3.0, lambda c: 2.0 * c, x), "while"),
    "loop": (lambda x: lax.fori_loop(0, 2, lambda i, c: c * x, x), "mul"),
    "stopped": (lambda x: 2.0 * lax.stop_gradient(x), "stop_gradient"),
    "own_rule": (jax.nn.relu, "custom_jvp_call"),
    "rounded": (lambda x: x.astype(int).astype(float), "convert_element_type"),
    "half": (lambda x: x.astype(jnp.bfloat16), "convert_element_type"),
    "reciprocal": (lambda x: 1.0 / x, "div"),
    "matrix": (lambda x: jnp.linalg.solve(A + jnp.diag(x), V), None),
    "index": (lambda x: V[jnp.argmax(x)], "argmax"),
    "cube": (lambda x: x * x * x, "mul"),
    "norm": (lambda x: jnp.sqrt(x @ x), "sqrt"),
    "sign": (lambda x: jnp.where(jnp.isfinite(jnp.log(x)), x, -x), "log"),
    "largest": (jnp.max, "reduce_max"),
    "product": (jnp.prod, "reduce_prod"),
    "sorted": (jnp.sort, "sort"),
}


def degree(fn, *, followed: bool = True):
    """Return the largest degree of a function, and what is to blame."""
    jaxpr = jax.make_jaxpr(fn)(V).jaxpr
    found = degrees(jaxpr, [AFFINE if followed else CONSTANT])
    return max(found, key=lambda one: one.order)


@pytest.mark.parametrize("name", AFFINE_FUNCTIONS)
def test_affine(name):
    assert degree(AFFINE_FUNCTIONS[name]).order == 1
    assert degree(AFFINE_FUNCTIONS[name], followed=False).order == 0


@pytest.mark.parametrize("name", QUADRATIC)
def test_quadratic(name):
    assert degree(QUADRATIC[name]).order == 2


@pytest.mark.parametrize("name", OTHER)
def test_more_and_the_primitive_to_blame(name):
    fn, primitive = OTHER[name]
    found = degree(fn)
    assert found.order == MORE
    if primitive is not None:
        assert found.origin.primitive == primitive
    assert degree(fn, followed=False).order == 0


def test_the_line_to_blame_is_the_users():
    def inner(x):
        return jnp.clip(x, 0.0, 1.0)

    def fn(x):
        return lax.scan(lambda c, a: (inner(c + a), None), 0.0, x)[0]

    line = inner.__code__.co_firstlineno + 1
    assert f"test_degree.py:{line}, in inner" in str(degree(fn).origin)

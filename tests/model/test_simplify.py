"""What is written out has the value, the shape and the dtype of what it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmscan.model.jaxprs.dataflow import evaluate, stage
from ssmscan.model.jaxprs.simplify import written_out

A, B, C = (np.random.default_rng(k).standard_normal(shape) for k, shape in enumerate(((3, 4), (4,), (2, 3))))
FUNCTIONS = {
    "sum": (lambda a, b, c: a.sum(), True),
    "sum of rows": (lambda a, b, c: a.sum(1), True),
    "sum of counts": (lambda a, b, c: (a > 0).sum(0), True),
    "matrix and vector": (lambda a, b, c: a @ b, True),
    "vector and matrix": (lambda a, b, c: b @ a.T, True),
    "two matrices": (lambda a, b, c: c @ a, True),
    "over both axes": (lambda a, b, c: jnp.tensordot(a, a, 2), False),
    "inner": (lambda a, b, c: b @ b, True),
    "outer": (lambda a, b, c: jnp.einsum("i,j->ij", b[:2], b), True),
    "batch": (lambda a, b, c: jnp.einsum("ij,ij->i", a, a), None),
    "of nothing": (lambda a, b, c: b[:0].sum() + a[:, :0] @ b[:0], False),
    "of many": (lambda a, b, c: jnp.tile(b, 9).sum(), False),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_is_what_was_written(name):
    function, expected = FUNCTIONS[name]
    with jax.enable_x64(True):
        closed = jax.make_jaxpr(function)(A, B, C)
        found = []
        env = dict(zip(closed.jaxpr.invars, map(jnp.asarray, (A, B, C))))
        for eqn in closed.jaxpr.eqns:
            found.append(written_out(eqn, lambda v: v.val if hasattr(v, "val") else env[v]) is not None)
            evaluate([eqn], env, rewrite=written_out)
        (result,), truth = (env[v] for v in closed.jaxpr.outvars), function(A, B, C)
    assert result.shape == truth.shape and result.dtype == truth.dtype
    np.testing.assert_allclose(result, truth, rtol=1e-12)
    assert expected is None or any(found) == expected


@pytest.mark.parametrize("scale", [None, -2.0], ids=["exp", "product"])
@pytest.mark.parametrize("q", [4.0j, 1.0 - 7.0j, 2.0], ids=str)
def test_the_logarithm_of_an_exponential_keeps_its_branch(q, scale):
    """Im log is in (-pi, pi], Im q need not be."""

    def function(_, q):
        e = jnp.exp(q) if scale is None else scale * jnp.exp(q)
        return {"log": jnp.log(e)}

    q = jnp.asarray(q, jnp.result_type(complex))
    staged = stage(function, {"q": jax.ShapeDtypeStruct((), q.dtype)}, [], data=0, late=())
    np.testing.assert_allclose(staged([], q=q)["log"], function([], q)["log"], rtol=1e-5)

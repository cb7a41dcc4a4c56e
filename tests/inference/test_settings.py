"""What no result can hold is refused before a sampler starts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.inference import progress
from ssmscan.inference.settings import describe, gradients_required, require_result_can_hold


def named(y, parameter="q", state="x", output="double", kind=float):
    q = numpyro.sample(parameter, dist.HalfNormal(1.0))

    def transition(x, y):
        x = numpyro.sample(state, dist.Normal(x, q))
        numpyro.deterministic(output, x + 1j * x if kind is complex else x > 0)
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(transition, 0.0, y)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ({"kind": complex}, TypeError, r"states\['double'\] must be an array of numbers, got dtype complex64"),
        ({"parameter": "a/b", "state": "a.b"}, ValueError, "become 'a.b' in a file"),
        ({"parameter": "draw", "output": "draw_"}, ValueError, "all become"),
        ({"output": "."}, ValueError, "no variable of a netCDF file"),
    ],
)
def test_a_model_that_no_result_can_hold_is_refused_at_once(names, error, message, monkeypatch):
    ssm = ssmscan.trace(named, jnp.zeros(4), **names)
    monkeypatch.setattr(progress, "compile_timed", lambda *_, **__: pytest.fail("something was compiled"))
    message = message.replace("complex64", str(jnp.result_type(complex)))
    with pytest.raises(error, match=message):
        ssmscan.PMMH().run(jax.random.key(0), ssm)


def test_booleans_slashes_and_names_of_dimensions_are_held():
    require_result_can_hold(ssmscan.trace(named, jnp.zeros(4), "a/b", "chain"), ssmscan.PMMH())


def test_numbers_of_numpy_and_jax_are_described_as_numbers():
    settings = ssmscan.PMMH(num_samples=np.int64(40), target_sd=np.float32(0.5))
    found = describe(settings)
    assert (found["num_samples"], found["target_sd"]) == (40, 0.5)
    assert json.loads(json.dumps(describe({"a": jnp.asarray(2), "b": (True, None)}))) == {"a": 2, "b": [True, None]}


@pytest.mark.parametrize("engine", ["NUTS", "TemperedSMC", "MaximumLikelihood"])
def test_where_jax_has_no_gradient_it_is_said_whose_it_is(engine):
    def loop(x):
        return jax.lax.while_loop(lambda z: z < 1.0, lambda z: 2.0 * z, x)

    def callback(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), x.dtype), x)

    for function, words in ((loop, "lax.while_loop"), (callback, "callback to Python")):
        with pytest.raises(ssmscan.ModelError, match=f"{engine} needs the gradient .* {words}"):
            with gradients_required(engine):
                jax.eval_shape(jax.grad(function), jnp.ones(()))
    with pytest.raises(ValueError, match="^another$"), gradients_required(engine):
        raise ValueError("another")

"""What makes two programs one, and how staged functions are called."""

import dataclasses

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.model.jaxprs.dataflow import Staged, stage
from ssmscan.model.statespace.program import Program

Y = jnp.array([0.1, 0.4, -0.2])


def walk(y, scale=1.0):
    sigma = numpyro.sample("sigma", dist.LogNormal(0.0, scale))

    def step(x, yt):
        x = numpyro.sample("x", dist.Normal(x, sigma))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=yt)
        return x, None

    scan(step, 0.0, y)


def program(**settings) -> Program:
    return ssmscan.trace(walk, Y, **settings).program


FIRST = program()
FIELDS = [field.name for field in dataclasses.fields(Program)]


def test_equal_models_are_one_program_and_others_are_not():
    assert program() is FIRST
    assert program(scale=2.0) is not FIRST


@pytest.mark.parametrize("name", FIELDS)
def test_a_program_with_one_other_field_is_another(name):
    value = getattr(FIRST, name)
    other = FIRST.inputs if isinstance(value, Staged) and value is not FIRST.inputs else FIRST.prior
    assert dataclasses.replace(FIRST, **{name: other}).key() != FIRST.key()


@pytest.mark.parametrize("record", ["particles", "densities", "data", "replicates", "computed", "post_loop"])
def test_a_function_inside_a_record_counts(record):
    value = getattr(FIRST, record)
    for name in value._fields:
        other = dataclasses.replace(FIRST, **{record: value._replace(**{name: FIRST.prior})})
        assert other.key() != FIRST.key(), name


def test_a_field_that_is_added_counts():
    @dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
    class Longer(Program):
        more: Staged

    fields = {name: getattr(FIRST, name) for name in FIELDS}
    assert Longer(**fields, more=FIRST.prior).key() != Longer(**fields, more=FIRST.inputs).key()


def staged() -> Staged:
    def fn(data, theta, x, noise):
        return {"both": data[0] * theta["a"] + x, "noise": noise}

    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    arguments = {"theta": {"a": scalar}, "x": scalar, "noise": scalar}
    return stage(fn, arguments, [jnp.float32(2.0)], data=1, late=("x", "noise"))


def test_arguments_go_by_name_and_those_not_needed_need_not_be_given():
    function, data, theta = staged(), [jnp.float32(3.0)], {"a": jnp.float32(2.0)}
    late = function.select("both").bind(data, theta=theta)
    assert late(x=jnp.float32(1.0))["both"] == 7.0
    assert function.select("noise")(data, noise=jnp.float32(5.0))["noise"] == 5.0
    assert function.reaches("both") == {("theta", 0), ("x", 0)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": 1.0}, "needs theta, and was given nothing"),
        ({"theta": {"a": 1.0}}, "needs noise, x, and was given nothing"),
        ({"theta": {"b": 1.0}, "x": 1.0, "noise": 1.0}, "argument theta has structure"),
        ({"theta": {"a": 1.0}, "x": 1.0, "noise": 1.0, "t": 1.0}, "was given t, where it takes theta"),
    ],
)
def test_a_missing_an_unknown_and_a_wrong_argument_are_named(arguments, message):
    with pytest.raises(TypeError, match=message):
        staged()([jnp.float32(2.0)], **arguments)

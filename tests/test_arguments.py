"""One rule for every argument: what was expected, what was given, what to do; before anything is compiled."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import arguments

KEY = jax.random.key(0)
Y = np.array([0.3, -0.2, 0.7, 1.4])


def walk(y):
    walk_of("x", y)


def walk_of(name, y):
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def step(x, y):
        x = numpyro.sample(name, dist.Normal(x, q))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(step, x0, y)


@pytest.fixture(scope="module")
def ssm():
    return ssmscan.trace(walk, Y)


# ---- the rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "None"),
        (3, "3 (int)"),
        ("a" * 100, "..."),
        (ssmscan.Mean, "the class Mean"),
        (np, "the module numpy"),
        (walk, "the function walk"),
        ([1, 2], "a list of 2"),
        ({}, "an empty dict"),
        (np.zeros((2, 3), np.float32), "an array of float32 with shape (2, 3)"),
        (object(), "an object"),
        (pandas.Series([1.0]), "a Series"),
    ],
)
def test_a_value_is_shown_in_a_few_words(value, words):
    shown = arguments.shown(value)
    assert words in shown and len(shown) < 70


@pytest.mark.parametrize("value", [3.0, True, "3", None, np.array(3), [3], int])
def test_what_is_no_integer_is_a_type_error(value):
    with pytest.raises(TypeError, match="n: expected an integer of at least 1, got "):
        arguments.require_integer("n", value, at_least=1)


def test_an_integer_has_bounds_and_becomes_pythons():
    assert type(arguments.require_integer("n", np.int64(3), at_least=1)) is int
    with pytest.raises(ValueError, match="n: expected an integer of at least 1, got 0"):
        arguments.require_integer("n", 0, at_least=1)
    with pytest.raises(ValueError, match="n: expected an integer of at most 2147483647"):
        arguments.require_integer("n", 2**70, at_least=1)


@pytest.mark.parametrize(("value", "error"), [("0.5", TypeError), (True, TypeError), (np.array(0.5), TypeError)])
def test_what_is_no_number_is_a_type_error(value, error):
    with pytest.raises(error, match="a: expected a number strictly between 0 and 1, got "):
        arguments.require_number("a", value, 0, 1)


def test_a_number_has_bounds_that_may_be_closed():
    for value in (0, 1.0, np.float32(0.5)):
        assert arguments.require_number("a", value, 0, 1, closed=True) == value
    for value in (0, 1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a: expected a number strictly between 0 and 1"):
            arguments.require_number("a", value, 0, 1)


def test_a_tracer_has_a_shape_and_a_type_but_no_value():
    @jax.jit
    def of(x):
        arguments.require_numbers("x", x, (None,))
        with pytest.raises(ValueError, match=r"x has shape \(3,\), expected \(\)"):
            arguments.require_numbers("x", x, ())
        with pytest.raises(TypeError, match="n: expected an integer .* got a traced float32"):
            arguments.require_integer("n", x, at_least=1)
        return x

    jax.eval_shape(of, jnp.zeros(3))


@pytest.mark.parametrize("value", ["a", None, 1j, object(), {}, [[1], [2, 3]], float, np.array("a"), np.array([None])])
def test_what_is_no_number_at_all_is_a_type_error(value):
    with pytest.raises(TypeError, match="x: expected a real number or an array of them, got "):
        arguments.require_numbers("x", value)


# ---- the same sentence wherever parameters, noise and states are given ------------------------------------

NO_THETA = [
    (None, TypeError, r"expected a mapping from the .* \['q'\] to values, got None"),
    ("q", TypeError, "got 'q'"),
    ([0.5], TypeError, "got a list of 1"),
    (dict, TypeError, "got the class dict"),
    (pandas.Series({"q": 0.5}), TypeError, r"got a Series\. Give dict\(\w+\)"),
    ({1: 0.5}, ValueError, r"missing: \['q'\], unknown: \[1\]"),
    ({}, ValueError, "missing: .*'q'.*unknown: none"),
    ({"q": 0.5, "k": 1.0}, ValueError, "unknown: .*'k'"),
    ({"q": "a"}, TypeError, r"\['q'\]: expected a real number .* got 'a'"),
    ({"q": None}, TypeError, r"\['q'\]: expected a real number .* got None"),
    ({"q": 1j}, TypeError, r"\['q'\]: expected a real number"),
    ({"q": [0.5]}, ValueError, r"\['q'\] has shape \(1,\), expected \(\)"),
]
OF_THETA = ["canonical", "log_prior", "log_static", "unconstrain"]
OF_Z = ["constrain", "log_prior_unconstrained", "log_law_unconstrained"]


@pytest.mark.parametrize("name", OF_THETA + OF_Z)
@pytest.mark.parametrize(("value", "error", "words"), NO_THETA)
def test_what_is_no_parameters_is_named(ssm, name, value, error, words):
    argument = "theta" if name in OF_THETA else "z"
    with pytest.raises(error, match=f"^{argument}.*{words}"):
        getattr(ssm, name)(value)


@pytest.mark.parametrize("name", ["log_likelihood_given_noise", "states_from_noise"])
def test_noise_and_its_parameters_are_checked(ssm, name):
    noise = {"x": jnp.zeros(4), "x0": 0.0}
    ask = getattr(ssm, name)
    for theta, error, words in ((None, TypeError, "^theta: "), ({"q": -1.0}, ValueError, "outside the support")):
        with pytest.raises(error, match=words):
            ask(theta, noise)
    for wrong, error, words in (
        (None, TypeError, "^noise: expected a mapping"),
        ({"x": jnp.zeros(4)}, ValueError, r"missing: \['x0'\].*ssm.smooth_noise"),
        ({**noise, "x": jnp.zeros(9)}, ValueError, r"noise\['x'\] has shape \(9,\), expected \(4,\)"),
        ({**noise, "x": "a"}, TypeError, r"noise\['x'\]: expected a real number"),
    ):
        with pytest.raises(error, match=words):
            ask({"q": 0.5}, wrong)


@pytest.mark.parametrize(
    ("states", "error", "words"),
    [
        (None, TypeError, "^states: expected a mapping"),
        ({"x": np.zeros(4)}, ValueError, r"missing: \['x0'\]"),
        ({"x": np.zeros(4), "x0": 0.0, "k": 1}, ValueError, r"unknown: \['k'\]"),
        ({"x": np.zeros(9), "x0": 0.0}, ValueError, r"states\['x'\] has 9 steps, and the model 4"),
        ({"x": np.zeros((4, 2)), "x0": 0.0}, ValueError, r"states\['x'\] has shape \(4, 2\), expected \(any,\)"),
    ],
)
def test_states_to_go_on_from_are_checked(ssm, states, error, words):
    with pytest.raises(error, match=words):
        ssm.predict(KEY, {"q": 0.5}, states)


def test_deterministics_need_all_states_at_all_steps(ssm):
    for states, words in (
        ({"x0": 0.0}, r"must have exactly the latent sites \['x', 'x0'\]; missing: \['x'\]"),
        ({"x": np.zeros(3), "x0": 0.0}, r"states\['x'\] has shape \(3,\), expected \(4,\)"),
    ):
        with pytest.raises(ValueError, match=words):
            ssm.deterministics({"q": 0.5}, states)
    with pytest.raises(ValueError, match=r"^theta must have .* missing: \['q'\]"):
        ssm.at({})


def test_roles_are_named_by_several_texts(ssm):
    with pytest.raises(TypeError, match=r"parameters: .* got 'q' \(str\)\. Give one name as \('q',\)"):
        ssm.with_roles(parameters="q")
    with pytest.raises(TypeError, match="initial: expected names of sites.*got None"):
        ssm.with_roles(initial=None)
    with pytest.raises(ValueError, match="'x0' twice"):
        ssm.with_roles(parameters=("x0", "x0"))


def test_the_noise_of_sites_that_are_not_there_cannot_be_moved():
    with pytest.raises(TypeError, match="initial: expected names of sites before the loop"):
        ssmscan.noise_outside(walk, initial="x0")
    with pytest.raises(TypeError, match="model: expected a NumPyro model"):
        ssmscan.noise_outside("walk")
    moved = ssmscan.noise_outside(walk, initial=("x0", "x"))
    with pytest.raises(ValueError, match="initial: the model draws no site 'x' before its loop.* 'q', 'x0'"):
        numpyro.handlers.seed(moved, 0)(Y)


# ---- resampling, engines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [ssmscan.systematic, ssmscan.stratified, ssmscan.multinomial])
def test_resampling_checks_what_it_is_given(scheme):
    even = np.array([0.5, 0.5])
    for arguments_, error, words in (
        ((0, even, 4), TypeError, "key: expected one PRNG key"),
        ((KEY, np.full((2, 2), 0.25), 4), TypeError, r"weights: expected an array \(N,\) of floats.*shape \(2, 2\)"),
        ((KEY, "even", 4), TypeError, r"weights: expected an array \(N,\) of floats, got 'even'"),
        ((KEY, np.array([]), 4), ValueError, "weights: expected none negative and a sum of one"),
        ((KEY, np.array([0.5, np.nan]), 4), ValueError, "weights: expected none negative"),
        ((KEY, even, 4.0), TypeError, "n: expected an integer of at least 1"),
        ((KEY, even, 0), ValueError, "n: expected an integer of at least 1"),
    ):
        with pytest.raises(error, match=words):
            scheme(*arguments_)
    # Known weights under somebody's jit are looked at too.
    assert jax.eval_shape(lambda key: scheme(key, even, 3), KEY).shape == (3,)


def test_a_scheme_of_ones_own_must_return_ancestors(ssm):
    with pytest.raises(TypeError, match=r"resampling: .* got the function <lambda>\. It takes \(key, weights\)"):
        ssmscan.ParticleFilter(8, resampling=lambda key, weights: weights)
    for scheme in (lambda key, w, n: w, lambda key, w, n: None, lambda key, w, n: jnp.arange(2)):
        settings = ssmscan.ParticleFilter(8, resampling=scheme)
        with pytest.raises(TypeError, match="resampling: expected 8 integers as ancestors, got "):
            jax.eval_shape(lambda s=settings: s.run(KEY, ssm, {"q": 0.5}))


def test_paths_are_of_one_run_of_the_model_that_is_given(ssm):
    settings = ssmscan.ParticleFilter(8, store=ssmscan.FullHistory())
    other = ssmscan.trace(lambda y: walk_of("v", y), Y)
    shapes = jax.eval_shape(lambda: settings.run(KEY, other, {"q": 0.5}))
    with pytest.raises(ValueError, match=r"result: expected states \['x'\], as ssm has, got \['v'\]"):
        ssmscan.backward_sample(KEY, ssm, {"q": 0.5}, shapes, num_paths=2)
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((3, *leaf.shape), leaf.dtype), shapes)
    for ask in (
        lambda: ssmscan.trace_ancestry(KEY, batch, num_paths=2),
        lambda: ssmscan.backward_sample(KEY, other, {"q": 0.5}, batch, num_paths=2),
    ):
        with pytest.raises(ValueError, match=r"result: expected one run, got \(3,\) of them; call this under jax.vmap"):
            ask()


@pytest.mark.parametrize(
    "engine", [ssmscan.NUTS, ssmscan.PMMH, ssmscan.TemperedSMC, ssmscan.MaximumLikelihood], ids=lambda e: e.__name__
)
def test_engines_check_their_settings(engine):
    with pytest.raises(TypeError, match=re.escape("progress: expected True or False, got 'no' (str).")):
        engine(progress="no")
    if engine in (ssmscan.PMMH, ssmscan.MaximumLikelihood):
        with pytest.raises(TypeError, match="estimator: .* such as ParticleFilter.*, got the class ParticleFilter"):
            engine(estimator=ssmscan.ParticleFilter)
        with pytest.raises(TypeError, match="estimator: expected an estimator of the likelihood such as .*, got 100"):
            engine(estimator=100)


def test_predict_takes_a_result_of_an_engine(ssm):
    with pytest.raises(TypeError, match="result: expected a Result, as engines return it, got an empty dict"):
        ssmscan.predict(KEY, ssm, {})

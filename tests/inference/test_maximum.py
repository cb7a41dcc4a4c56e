"""Maximum likelihood against Kalman's, the verdict, and the pieces."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.contrib.control_flow import scan
from scipy import optimize

import ssmscan
from ssmscan import MaximumLikelihood, ParticleFilter
from ssmscan.inference import curvature, progress
from ssmscan.inference.ascent import Climb, ClimbStep
from ssmscan.inference.averages import average_error, halves, log_mean_exp
from ssmscan.inference.curvature import ProbeStep, objective
from ssmscan.labels import Labels
from ssmscan.particles.draws import as_key
from ssmscan.results.data import Costs
from ssmscan.results.maximum import Maximum
from tests.inference.interrupting import control_c_at
from tests.inference.maximum import hessian
from tests.inference.models import NOISE, Y, linear_gaussian
from tests.truth import LinearGaussian
from tests.truth import linear_gaussian as solve

pytestmark = pytest.mark.slow

LONG = np.random.default_rng(3).normal(size=40)
for _t in range(1, 40):
    LONG[_t] += 0.7 * LONG[_t - 1]
KEY = jax.random.key(0)
FEW = ParticleFilter(64, summaries=())


@pytest.fixture(scope="module")
def found():
    engine = MaximumLikelihood(num_steps=400, num_starts=2, num_replicates=32, estimator=ParticleFilter(1000))
    return engine.run(KEY, ssmscan.trace(linear_gaussian, LONG))


@pytest.fixture
def plain():
    """A result made by hand, all well."""
    one = {"rho": np.array(0.6), "q": np.array(0.9)}
    two = {name: np.full(2, value) for name, value in one.items()}
    return Maximum(
        theta=one,
        standard_errors={"rho": np.array(0.1), "q": np.array(0.2)},
        covariance=np.eye(2),
        standard_error_noise=0.02,
        log_likelihood=-88.1,
        log_likelihood_error=0.02,
        log_likelihood_sd=0.4,
        objective="likelihood",
        starts=two,
        start_objective=np.full(2, -88.1),
        best=0,
        agreeing=2,
        drift=0.06,
        noise=0.02,
        failed_steps=0.0,
        faulty=0.0,
        path={name: np.full((2, 3), value) for name, value in one.items()},
        path_log_likelihood=np.full((2, 3), -88.0),
        interrupted=False,
        costs=Costs(1.0, 0.0, 1.0),
        settings={},
        versions={},
        ascent=None,
        origin={},
    )


@pytest.fixture(scope="module")
def exact():
    """The maximum in (rho, q) and the covariance there, from Kalman."""

    def loss(theta):
        rho, q = theta
        model = LinearGaussian.scalar(0, rho**2 + q**2, rho, q**2, 1, NOISE**2)
        return -solve(model, LONG[:, None]).log_likelihood

    best = optimize.minimize(loss, [0.6, 0.9], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9})
    return best.x, np.linalg.inv(hessian(loss, best.x)), -best.fun


@pytest.mark.heavy
def test_estimates_standard_errors_and_likelihood_are_kalmans(found, exact):
    assert found.converged, found.message()
    theta, spread, log_likelihood = exact
    for name, value, error in zip(("rho", "q"), theta, np.sqrt(np.diag(spread))):
        assert abs(found.theta[name] - value) < 0.2 * error
        np.testing.assert_allclose(found.standard_errors[name], error, rtol=0.15)
    assert found.log_likelihood_error < 0.1
    assert abs(found.log_likelihood - log_likelihood) < 5 * found.log_likelihood_error
    assert found.agreeing == 2
    assert found.standard_error_noise < 0.2


@pytest.mark.heavy
def test_the_result_has_the_shapes_it_says(found):
    assert found.path["rho"].shape == (2, 400) and found.path_log_likelihood.shape == (2, 400)
    assert found.starts["q"].shape == found.start_objective.shape == (2,)
    assert found.covariance.shape == (2, 2)
    assert found.costs.gradient_evaluations == 2 * 400 + (16 + 32) * 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"drift": 2.0}, "moved by 2.0 standard errors between its halves: take more steps"),
        ({"noise": 0.4}, "known to 0.40 standard errors only"),
        ({"agreeing": 1}, "no other start ended there"),
        ({"covariance": np.full((2, 2), np.nan)}, "flat or rises away"),
        ({"interrupted": True}, "was interrupted"),
        ({"interrupted": True, "covariance": np.full((2, 2), np.nan)}, "there are no standard errors"),
        ({"failed_steps": 0.9}, "90% of the steps had no finite gradient and were not taken: use more particles"),
    ],
)
def test_what_is_not_a_maximum_is_called_so_with_what_to_do(plain, change, words):
    other = dataclasses.replace(plain, **change)
    assert not other.converged
    assert other.message().startswith("Not converged:") and words in other.message()


def test_the_verdict_mentions_what_else_there_is_to_know(plain):
    assert str(plain).startswith(
        "log-likelihood -88.100. Converged to a maximum of the likelihood (2 of 2 starts ended there); the average is "
        "within 0.060 standard errors of it.\n"
    )
    assert [row[0] for row in plain.summary().rows] == ["rho", "q"]
    pair, labels = {"rho": np.full(2, 0.5)}, Labels({"town": ["LIS", "OPO"]}, {"rho": ("town",)})
    named = dataclasses.replace(plain, theta=pair, standard_errors=pair, labels=labels)
    assert [row[0] for row in named.summary().rows] == ["rho[LIS]", "rho[OPO]"]
    alone = dataclasses.replace(plain, start_objective=plain.start_objective[:1], agreeing=1)
    assert alone.converged and "Other maxima were not looked for" in alone.message()
    assert "use more particles" in dataclasses.replace(plain, log_likelihood_sd=3.0).message()
    assert "10% of the steps" in dataclasses.replace(plain, failed_steps=0.1).message()
    faulty = dataclasses.replace(plain, faulty=0.25)
    assert not faulty.converged and "in 25% of the filters at the estimate log weights were not" in faulty.message()


def test_probes_see_weights_that_are_not_numbers():
    def model(y):
        q = numpyro.sample("q", dist.HalfNormal(1.0))

        def transition(x, y):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("y", dist.Normal(x, jnp.where((q > 1.0) & (x > 0.0), jnp.nan, 0.5)), obs=y)
            return x, None

        with numpyro.validation_enabled(False):
            scan(transition, 0.0, y)

    ssm = ssmscan.trace(model, np.zeros(3))
    points = {"q": jnp.log(jnp.array([0.5, 2.0]))}
    _, found = jax.jit(ProbeStep(FEW, False, gradient=False))((ssm, points), as_key(KEY))
    np.testing.assert_array_equal(found.faulty, [False, True])


@pytest.mark.heavy
def test_the_mode_is_of_the_density_of_the_parameters_themselves(linear):
    z = linear.unconstrain({"rho": jnp.asarray(0.4), "q": jnp.asarray(0.7)})

    @jax.jit
    def both(key):
        return [objective(key, linear, z, FEW, prior)[0] for prior in (False, True)]

    without, with_prior = both(KEY)
    np.testing.assert_allclose(with_prior - without, linear.log_prior(linear.constrain(z)), rtol=1e-5)


@pytest.mark.heavy
def test_a_point_without_a_gradient_is_left_to_the_next_key_and_the_optimizer_does_not_learn(linear):
    optimizer = optax.adam(0.1)
    step = ClimbStep(FEW, optimizer, False)
    z = {"q": jnp.array([jnp.nan, -0.3]), "rho": jnp.zeros(2)}
    climbs = Climb(jax.random.split(KEY, 2), z, jax.vmap(optimizer.init)(z))
    after, kept = jax.jit(step)(linear, climbs)
    np.testing.assert_array_equal(kept.usable, [False, True])
    np.testing.assert_array_equal(after.optimizer[0].count, [0, 1])
    np.testing.assert_array_equal(after.z["rho"][0], 0)
    assert after.z["q"][1] != z["q"][1]


QUICK = MaximumLikelihood(num_steps=40, num_starts=2, num_replicates=4, estimator=ParticleFilter(16, summaries=()))


@pytest.mark.parametrize(
    ("label", "presses", "likelihood", "errors"),
    [
        ("ascent", 1, True, True),
        ("ascent", 2, False, True),
        ("ascent", 3, False, False),
        ("likelihood: compiling", 1, False, True),
        ("likelihood", 2, True, False),
        ("standard errors: compiling", 1, True, False),
        ("standard errors", 1, True, True),
    ],
)
def test_no_step_is_lost_by_control_c_however_often(linear, monkeypatch, label, presses, likelihood, errors):
    monkeypatch.setattr(progress, "SECONDS_PER_CHUNK", 0.0)
    with pytest.warns(ssmscan.ResultWarning, match="it was interrupted") as caught:
        with control_c_at(monkeypatch, label, presses=presses):
            stopped = QUICK.run(KEY, linear)
    assert stopped.interrupted and not stopped.converged and caught[0].filename == __file__
    assert np.isfinite([*stopped.theta.values()]).all()
    assert stopped.path["q"].shape == (2, 3 if label == "ascent" else 40)
    assert np.isfinite(stopped.log_likelihood) == likelihood
    if not errors:
        assert np.isnan(stopped.covariance).all() and "there are no standard errors" in stopped.message()
    assert len(str(stopped.summary())) > 100


@pytest.mark.parametrize("label", ["starts: compiling", "ascent: compiling"])
def test_an_interrupt_before_the_first_step_is_raised(linear, monkeypatch, label):
    with pytest.raises(KeyboardInterrupt), control_c_at(monkeypatch, label):
        QUICK.run(KEY, linear)


# ---- numbers ------------------------------------------------------------------------------------------


def test_information_of_linear_scores_is_their_matrix():
    truth = np.array([[4.0, 1.0], [1.0, 9.0]])
    z, steps = np.array([0.3, -1.0]), np.array([0.1, 0.2])
    noise = np.random.default_rng(0).normal(size=(16, 1, 2))  # the same at every point: common keys
    scores = -(curvature.displaced(z, steps) - z) @ truth + noise
    np.testing.assert_allclose(curvature.information(scores, steps), truth, rtol=1e-12)
    np.testing.assert_allclose(curvature.next_steps(scores, steps), [0.25, 0.5 / 3])
    assert curvature.relative_noise(scores, steps) < 1e-12
    np.testing.assert_allclose(curvature.covariance(truth), np.linalg.inv(truth))
    assert np.isnan(curvature.covariance(np.diag([1.0, -1.0]))).all()


def test_scores_that_are_nan_are_left_out():
    scores = np.array([[[1.0], [-1.0]], [[np.nan], [-3.0]]])
    np.testing.assert_allclose(curvature.information(scores, np.array([0.5])), [[-3.0]])
    nowhere = np.full((4, 2, 1), np.nan)
    assert np.isnan(curvature.information(nowhere, np.array([0.5]))).all()
    assert np.isnan(curvature.relative_noise(nowhere, np.array([0.5])))


def test_noise_of_the_average_counts_the_autocorrelation():
    steps = np.random.default_rng(0).normal(size=(200, 4000, 1))
    walk = np.empty_like(steps)
    walk[:, 0] = steps[:, 0]
    for t in range(1, 4000):
        walk[:, t] = 0.9 * walk[:, t - 1] + steps[:, t]
    true = walk.mean(axis=1).std()
    estimated = np.mean([average_error(path)[0] for path in walk])
    np.testing.assert_allclose(estimated, true, rtol=0.15)
    np.testing.assert_allclose(np.std([halves(path)[0] for path in walk]), 2 * true, rtol=0.2)


def test_averaging_likelihoods_survives_impossible_ones():
    values = np.array([[-1000.0, -np.inf], [-1001.0, -np.inf]])
    np.testing.assert_allclose(log_mean_exp(values), [-1000 + np.log((1 + np.exp(-1)) / 2), -np.inf])


# ---- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"num_steps": 3}, ValueError, "num_steps: expected an integer of at least 20, got 3"),
        ({"num_starts": 0}, ValueError, "num_starts"),
        ({"num_replicates": 1}, ValueError, "num_replicates"),
        ({"average": 1.5}, ValueError, "average"),
        ({"prior": 1}, TypeError, "prior: expected True or False, got 1"),
        ({"optimizer": "adam"}, TypeError, "optimizer: expected an optax.GradientTransformation"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, error, words):
    with pytest.raises(error, match=words):
        MaximumLikelihood(**settings)


def test_a_model_without_parameters_and_something_that_is_no_key_are_refused(linear):
    known = ssmscan.trace(lambda y: _fixed(y), Y)
    with pytest.raises(ValueError, match="no parameters to estimate"):
        MaximumLikelihood().run(KEY, known)
    with pytest.raises(TypeError, match="key: expected one PRNG key"):
        MaximumLikelihood().run(0, linear)


def _fixed(y):
    import numpyro.handlers

    return numpyro.handlers.condition(linear_gaussian, {"rho": jnp.asarray(0.5), "q": jnp.asarray(1.0)})(y)


@pytest.mark.heavy
def test_data_that_no_parameter_explains_are_refused():
    with pytest.raises(ValueError, match="no draw from the prior, out of 32, with a positive likelihood"):
        MaximumLikelihood(estimator=FEW).run(KEY, ssmscan.trace(linear_gaussian, np.full(12, 1e30)))


@pytest.mark.parametrize("name", ["filter", "exact"])
def test_an_ascent_that_goes_on_is_one_longer_ascent(name):
    estimator = {"filter": FEW, "exact": ssmscan.ExactLikelihood()}[name]
    engine = MaximumLikelihood(num_steps=60, num_starts=2, num_replicates=8, estimator=estimator, progress=False)
    ssm = ssmscan.trace(linear_gaussian, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ssmscan.ResultWarning)
        longer = dataclasses.replace(engine, num_steps=120).run(KEY, ssm)
        half = engine.run(KEY, ssm)
        whole = engine.run(jax.random.key(1), ssm, start=half)
    for field in ("theta", "standard_errors", "starts", "path"):
        for site, value in getattr(longer, field).items():
            assert value.tobytes() == getattr(whole, field)[site].tobytes(), (field, site)
    assert whole.settings == longer.settings and whole.log_likelihood == longer.log_likelihood
    assert not np.array_equal(half.theta["rho"], whole.theta["rho"])

    refused = {
        "result of other data": lambda: engine.run(KEY, ssmscan.trace(linear_gaussian, Y + 1), start=half),
        "num_starts was 2 and is 3": lambda: dataclasses.replace(engine, num_starts=3).run(KEY, ssm, start=half),
        "expected a Maximum": lambda: engine.run(KEY, ssm, start=half.theta),
    }
    for sentence, call in refused.items():
        with pytest.raises((ValueError, TypeError), match=sentence):
            call()

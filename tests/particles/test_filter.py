"""The filter against Kalman, and the invariants of its step, on a model written by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmscan.particles import filter_step
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter, log_likelihood
from ssmscan.particles.filter_result import FilterResult
from ssmscan.particles.filter_run import run_filter
from ssmscan.particles.filter_step import FAULTY, VANISHED
from ssmscan.particles.proposals import Bootstrap
from ssmscan.particles.resampling import multinomial
from ssmscan.particles.stores import FullHistory
from ssmscan.particles.summaries import SD, Mean, Quantiles
from tests.particles.handmade import THETA, autoregression, exact
from tests.truth import z_threshold

KEY = jax.random.key(0)
SMALL = ParticleFilter(32, threshold=0.5)


@pytest.fixture(scope="module")
def small() -> FilterResult:
    return SMALL.run(KEY, autoregression(), THETA)


@pytest.mark.parametrize("start_observed", [False, True])
def test_many_particles_come_close_to_kalman(start_observed):
    ssm = autoregression(start_observed=start_observed)
    truth, result = exact(ssm), ParticleFilter(100_000).run(KEY, ssm, THETA)
    assert abs(float(result.log_likelihood) - truth.log_likelihood) < 0.1
    np.testing.assert_allclose(result.increments, truth.increments, atol=0.1)
    mean, sd = truth.filtered_mean[-10:, 0], np.sqrt(truth.filtered_cov[-10:, 0, 0])
    np.testing.assert_allclose(result.summaries["mean"]["x"], mean, atol=0.03)
    np.testing.assert_allclose(result.summaries["sd"]["x"], sd, atol=0.03)
    np.testing.assert_allclose(result.summaries["mean"]["twice"], 2 * mean, atol=0.06)
    assert len(result.ess) == len(result.resampled) == len(truth.increments)
    assert result.message() == "The run is complete."


def test_increments_sum_to_the_likelihood(small):
    np.testing.assert_allclose(small.log_likelihood, np.sum(np.asarray(small.increments, float)), rtol=1e-6)


def test_final_cloud_is_the_last_summary(small):
    w = np.exp(np.asarray(small.final.log_weights, float))
    np.testing.assert_allclose(w.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose((w * small.final.values["x"]).sum(), small.summaries["mean"]["x"][-1], rtol=1e-4)
    np.testing.assert_array_equal(small.final.carry, small.final.values["x"])


def test_jit_and_raw_keys_change_nothing(small):
    compiled = jax.jit(lambda key, ssm, theta: SMALL.run(key, ssm, theta))(KEY, autoregression(), THETA)
    raw = SMALL.run(jax.random.PRNGKey(0), autoregression(), {k: np.float64(v) for k, v in THETA.items()})
    for other in (compiled, raw):
        np.testing.assert_array_equal(other.log_likelihood, small.log_likelihood)
        np.testing.assert_array_equal(other.increments, small.increments)


def test_vmap_is_a_loop():
    ssm, keys = autoregression(), jax.random.split(KEY, 3)
    thetas = {**THETA, "sy": jnp.array([0.2, 0.5, 1.0])}
    axes = {"rho": None, "sx": None, "sy": 0}
    together = jax.vmap(lambda key, theta: SMALL.run(key, ssm, theta), in_axes=(0, axes))(keys, thetas)
    for i, key in enumerate(keys):
        alone = SMALL.run(key, ssm, {**THETA, "sy": thetas["sy"][i]})
        np.testing.assert_allclose(together.increments[i], alone.increments, rtol=2e-5, atol=2e-5)
        np.testing.assert_array_equal(together.resampled[i], alone.resampled)


def test_chunks_are_the_whole_run_bit_by_bit_and_single_updates_to_rounding():
    ssm = autoregression(start_observed=True)
    theta, whole = ssm.canonical(THETA), SMALL.run(KEY, ssm, THETA)
    parts = [slice(0, 2), slice(2, 6), slice(6, 10)]

    @jax.jit
    def start(key, ssm, theta):
        return filter_step.start(SMALL, key, ssm.at(theta))

    @jax.jit
    def update(state, ssm, theta, x):
        state, info = filter_step.update(SMALL, state, ssm.at(theta), x)
        return state, info.increment[None]

    @jax.jit
    def chunk(state, ssm, theta, xs):
        report, n = (lambda _, state, info: (None, info.increment)), len(xs[0])
        state, _, _, rest = filter_step.scan_updates(
            SMALL, state, ssm.at(theta), xs, report, begin=lambda _: None, length=n
        )
        return state, rest

    began = start(as_key(KEY), ssm, theta)
    state, increments = began.state, [began.increment[None]]
    for part in parts:
        state, rest = chunk(state, ssm, theta, (ssm.y[part], ssm.penalty[part]))
        increments.append(rest)
    np.testing.assert_array_equal(jnp.concatenate(increments), whole.increments)
    np.testing.assert_array_equal(state.log_likelihood.value(), whole.log_likelihood)
    np.testing.assert_array_equal(state.carry, whole.final.carry)
    np.testing.assert_array_equal(state.log_weights, whole.final.log_weights)

    state = began.state
    for y, zero in zip(ssm.y, ssm.penalty):
        state, _ = update(state, ssm, theta, (y, zero))
    np.testing.assert_allclose(state.log_likelihood.value(), whole.log_likelihood, rtol=1e-6)
    np.testing.assert_allclose(state.carry, whole.final.carry, rtol=1e-5)


@pytest.mark.parametrize(("threshold", "count"), [(0, 0), (1, 10)])
def test_threshold_zero_never_resamples_and_one_always(threshold, count):
    result = ParticleFilter(32, threshold=threshold, summaries=()).run(KEY, autoregression(), THETA)
    assert result.resampled.sum() == count


def test_resampling_follows_from_the_effective_sample_size_before(small):
    before = np.concatenate([[32], small.ess[:-1]])
    np.testing.assert_array_equal(small.resampled, before < 16)
    assert 0 < small.resampled.sum() < 10


def test_likelihood_of_a_stiff_float32_series_does_not_drift():
    """Ten thousand increments: compensated, the total is right to the last float32 digits."""
    ssm = autoregression(100)
    long = type(ssm)(jnp.tile(ssm.y, 100), jnp.tile(ssm.penalty, 100), ssm.y_start)
    result = ParticleFilter(8, threshold=1, summaries=()).run(KEY, long, THETA)
    total = np.sum(np.asarray(result.increments, float))
    np.testing.assert_allclose(float(result.log_likelihood), total, rtol=1.2e-7)


# ---- clouds that die, and weights that are not numbers ------------------------------------------------


def penalty(value: float, step: int) -> np.ndarray:
    """Give what one step adds to the log weight of every particle with x > 0."""
    return np.where(np.arange(10) == step, value, 0.0)


def test_a_dead_cloud_ends_with_minus_infinity_and_keeps_what_was_before(small):
    ssm = autoregression()
    ssm = type(ssm)(ssm.y.at[4].set(jnp.inf), ssm.penalty, ssm.y_start)
    result = SMALL.run(KEY, ssm, THETA)
    assert result.log_likelihood == -np.inf
    assert (result.status, result.failed_step) == (VANISHED, 4)
    np.testing.assert_array_equal(result.increments[:4], small.increments[:4])
    np.testing.assert_array_equal(result.summaries["mean"]["x"][:4], small.summaries["mean"]["x"][:4])
    assert (result.increments[4:] == -np.inf).all() and (result.ess[4:] == 0).all()
    assert np.isnan(result.summaries["sd"]["x"][4:]).all()
    assert np.isfinite(result.final.log_weights).all()
    assert "step 4" in result.message() and "'y'" in result.message() and "-inf" in result.message()


def test_a_dead_replicate_leaves_the_others_alone():
    healthy = autoregression()
    ys = jnp.stack([healthy.y, healthy.y.at[4].set(jnp.inf)])
    batch = jax.vmap(lambda y: SMALL.run(KEY, type(healthy)(y, healthy.penalty, healthy.y_start), THETA))(ys)
    np.testing.assert_allclose(batch.increments[0], SMALL.run(KEY, healthy, THETA).increments, rtol=2e-5)
    np.testing.assert_array_equal(batch.status, [0, VANISHED])
    assert batch.log_likelihood[1] == -np.inf
    with pytest.raises(ValueError, match="index the batch"):
        batch.message()


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_faulty_weights_count_as_zero_and_are_reported(fault):
    at, theta = 9, {**THETA, "sy": 5.0}  # so vague that there are particles on both sides of zero
    faulty = SMALL.run(KEY, autoregression(penalty=penalty(fault, at)), theta)
    without = SMALL.run(KEY, autoregression(penalty=penalty(-np.inf, at)), theta)
    assert (faulty.status, faulty.failed_step) == (FAULTY, at)
    assert without.status == 0
    np.testing.assert_array_equal(faulty.log_likelihood, without.log_likelihood)
    assert "NaN" in faulty.message()


# ---- gradients ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_gradient_without_resampling_is_that_of_the_estimate():
    ssm, never = autoregression(5), ParticleFilter(64, threshold=0, summaries=())

    def value(rho):
        return never.run(KEY, ssm, {**THETA, "sy": 1.0, "rho": rho}).log_likelihood

    with jax.enable_x64(True):
        ssm = autoregression(5)
        numeric = (value(0.9 + 1e-6) - value(0.9 - 1e-6)) / 2e-6
        np.testing.assert_allclose(jax.grad(value)(0.9), numeric, rtol=1e-5)


@pytest.mark.slow
def test_gradient_through_resampling_is_the_score():
    """At fixed parameters, E[(Z_hat / Z) (grad log Z_hat - score)] = 0: z test on 400 filters of 100 particles."""
    ssm, pf = autoregression(5), ParticleFilter(100, threshold=1, resampling=multinomial, summaries=())
    theta = {**THETA, "sy": 1.0}
    both = jax.value_and_grad(lambda rho, key: pf.run(key, ssm, {**theta, "rho": rho}).log_likelihood)
    values, gradients = jax.jit(jax.vmap(both, in_axes=(None, 0)))(0.9, jax.random.split(KEY, 400))

    def log_z(rho):
        return exact(ssm, {**theta, "rho": rho}).log_likelihood

    score = (log_z(0.9 + 1e-5) - log_z(0.9 - 1e-5)) / 2e-5
    terms = np.exp(np.asarray(values, float) - log_z(0.9)) * (np.asarray(gradients, float) - score)
    assert abs(terms.mean() / (terms.std(ddof=1) / 20)) < z_threshold()
    assert gradients.std() > 0


# ---- compilation, memory, strictness, errors ----------------------------------------------------------


def test_one_compilation_serves_keys_parameters_and_data(caplog):
    pf = ParticleFilter(33, summaries=())
    with jax.log_compiles(True), caplog.at_level("WARNING"):
        for i in range(3):
            ssm = autoregression()
            ssm = type(ssm)(ssm.y + i, ssm.penalty, ssm.y_start)
            pf.run(jax.random.key(i), ssm, {**THETA, "sy": 0.2 + i})
    compiled = [r for r in caplog.records if "Compiling" in r.getMessage() and "run_filter" in r.getMessage()]
    assert len(compiled) == 1


@pytest.mark.slow
def test_default_store_keeps_nothing_of_size_steps_times_particles():
    """The largest temporary of the compiled run is O(N): doubling T at N = 50,000 adds less than N bytes."""

    def temporaries(num_steps: int) -> int:
        ssm = autoregression(num_steps)
        compiled = run_filter.lower(as_key(KEY), ssm, ssm.canonical(THETA), settings=ParticleFilter(50_000)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(100) - temporaries(50) < 50_000


def test_the_kernel_is_strict_about_dtypes_and_ranks():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        pf = ParticleFilter(24, summaries=(Mean(), SD()), store=FullHistory())
        result = pf.run(KEY, autoregression(start_observed=True), THETA)
    assert result.increments.dtype == jnp.zeros(()).dtype


def test_function_and_front_object_agree(small):
    with pytest.warns(UserWarning, match=r"fell to 1\.\d of 32 particles at step 0"):
        value = log_likelihood(KEY, autoregression(), THETA, num_particles=32)
    np.testing.assert_allclose(value, small.log_likelihood, rtol=1e-6)


class Unhashable(Bootstrap):
    __hash__ = None


def test_one_summary_may_be_given_as_it_is():
    assert ParticleFilter(10, summaries=Mean()) == ParticleFilter(10, summaries=[Mean()])
    assert ParticleFilter(np.int64(10), threshold=np.float32(0.5)).num_particles == 10


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (partial(ParticleFilter, 1), ValueError, "num_particles: .* at least 2, got 1"),
        (partial(ParticleFilter, 2.5), TypeError, "num_particles: expected an integer of at least 2, got 2.5"),
        (partial(ParticleFilter, True), TypeError, "num_particles: .* got True"),
        (partial(ParticleFilter, "10"), TypeError, "num_particles: .* got '10'"),
        (partial(ParticleFilter, 10, threshold=True), TypeError, "threshold: expected a fraction .* got True"),
        (partial(ParticleFilter, 10, threshold=None), TypeError, "threshold: expected a fraction .* got None"),
        (partial(ParticleFilter, 10, threshold=jnp.ones(())), TypeError, "threshold: expected a fraction"),
        (partial(ParticleFilter, 10, store=FullHistory), TypeError, "store: .*got the class FullHistory; call it"),
        (partial(ParticleFilter, 10, store="all"), TypeError, r"store: expected an object such as FinalCloud\(\), got"),
        (partial(ParticleFilter, 10, proposal=Bootstrap), TypeError, "proposal: .*got the class Bootstrap; call it"),
        (partial(ParticleFilter, 10, proposal=Unhashable()), TypeError, "proposal: .* cannot be hashed.*frozen=True"),
        (partial(ParticleFilter, 10, summaries=Mean), TypeError, "summaries: .*got the class Mean; call it"),
        (partial(ParticleFilter, 10, summaries=(Mean,)), TypeError, "summaries: .*got the class Mean; call it"),
        (partial(ParticleFilter, 10, summaries="mean"), TypeError, r"summaries: .* such as Mean\(\), got 'mean'"),
        (partial(ParticleFilter, 10, summaries=None), TypeError, r"summaries: .* such as Mean\(\), got None"),
        (partial(ParticleFilter, 10, summaries=(Mean(), Mean())), ValueError, "both called 'mean'"),
        (
            partial(ParticleFilter, 10, summaries=(Quantiles((0.1,)), Quantiles((0.9,)))),
            ValueError,
            r"summaries: Quantiles\(probs=\(0.1,\)\) and Quantiles\(probs=\(0.9,\)\) are both called 'quantiles'",
        ),
        (partial(SMALL.run, KEY, lambda y: y, {}), TypeError, "ssm: expected a traced model, got the function"),
        (partial(SMALL.run, KEY, [1.0], {}), TypeError, "ssm: expected a traced model, got a value of type list"),
        (partial(ParticleFilter, 10, threshold=1.5), ValueError, r"threshold: .*\[0, 1\], got 1.5"),
        (partial(ParticleFilter, 10, threshold=float("nan")), ValueError, "threshold"),
        (partial(ParticleFilter, 10, resampling="systematic"), TypeError, "resampling: .*'systematic'"),
        (partial(SMALL.run, 0, None, {}), TypeError, "key: expected one PRNG key"),
        (partial(SMALL.run, jax.random.split(KEY), None, {}), TypeError, "key: expected one PRNG key"),
    ],
)
def test_bad_settings_are_refused_by_name_before_compilation(make, error, match):
    with pytest.raises(error, match=match):
        make()

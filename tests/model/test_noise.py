"""Every map against SciPy's quantiles and distribution functions, and against the family's own density.

Families are compiled together, once for each question: the fixtures compute, the tests judge.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from numpyro.distributions.transforms import (
    AffineTransform,
    ExpTransform,
    LowerCholeskyAffine,
    SigmoidTransform,
)
from scipy.special import log_ndtr, logsumexp, ndtri_exp

from ssmscan.model.noise.families import MapKind, particle_map, smooth_map
from ssmscan.model.noise.transport import gamma_log_ratio
from tests.truth import ERROR_RATE

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
COV = np.array([[2.0, 0.6], [0.6, 1.0]])
TAILS = np.linspace(-6.0, 6.0, 97)
GRID = np.linspace(-9.0, 9.0, 6001)

# name -> (family, SciPy's law).  Each has a monotone map, so the map is the quantile function.
EXACT = {
    "Normal": (lambda: dist.Normal(1.5, 0.3), st.norm(1.5, 0.3)),
    "LogNormal": (lambda: dist.LogNormal(-0.5, 0.8), st.lognorm(0.8, scale=np.exp(-0.5))),
    "Laplace": (lambda: dist.Laplace(-1.0, 2.0), st.laplace(-1.0, 2.0)),
    "AsymmetricLaplace": (
        lambda: dist.AsymmetricLaplace(0.5, 2.0, 1.7),
        st.laplace_asymmetric(1.7, 0.5, 2.0),
    ),
    "Cauchy": (lambda: dist.Cauchy(0.5, 2.0), st.cauchy(0.5, 2.0)),
    "Gumbel": (lambda: dist.Gumbel(0.5, 2.0), st.gumbel_r(0.5, 2.0)),
    "Logistic": (lambda: dist.Logistic(0.5, 2.0), st.logistic(0.5, 2.0)),
    "SoftLaplace": (lambda: dist.SoftLaplace(0.5, 2.0), st.hypsecant(0.5, 2.0)),
    "Exponential": (lambda: dist.Exponential(2.5), st.expon(scale=1 / 2.5)),
    "Pareto": (lambda: dist.Pareto(1.3, 2.5), st.pareto(2.5, scale=1.3)),
    "HalfNormal": (lambda: dist.HalfNormal(1.7), st.halfnorm(scale=1.7)),
    "HalfCauchy": (lambda: dist.HalfCauchy(1.7), st.halfcauchy(scale=1.7)),
    "Uniform": (lambda: dist.Uniform(-2.0, 3.0), st.uniform(-2.0, 5.0)),
    "LogUniform": (lambda: dist.LogUniform(0.1, 30.0), st.loguniform(0.1, 30.0)),
    "Weibull": (lambda: dist.Weibull(1.5, 0.7), st.weibull_min(0.7, scale=1.5)),
    "Gompertz": (lambda: dist.Gompertz(0.7, 2.0), st.gompertz(0.7, scale=0.5)),
    "TruncatedNormal": (
        lambda: dist.TruncatedNormal(0.5, 2.0, low=-1.0, high=4.0),
        st.truncnorm(-0.75, 1.75, 0.5, 2.0),
    ),
}
# Quantile functions written out where SciPy has none or is inaccurate: functions of (p, 1 - p).
WRITTEN = {
    "Kumaraswamy": (lambda: dist.Kumaraswamy(2.0, 3.0), lambda p, q: (-np.expm1(np.log(q) / 3.0)) ** 0.5),
    "LeftTruncatedNormal": (
        lambda: dist.TruncatedNormal(0.0, 1.0, low=9.0),
        lambda p, q: -ndtri_exp(log_ndtr(-9.0) + np.log(q)),
    ),
    "RightTruncatedNormal": (
        lambda: dist.TruncatedNormal(0.0, 1.0, high=-9.0),
        lambda p, q: ndtri_exp(log_ndtr(-9.0) + np.log(p)),
    ),
    "TruncatedCauchy": (
        lambda: dist.TruncatedCauchy(0.0, 1.0, low=2.0),
        lambda p, q: 1 / np.tan(np.arctan(1 / 2.0) * q),
    ),
    "TruncatedLaplace": (
        lambda: dist.LeftTruncatedDistribution(dist.Laplace(0.0, 1.0), 3.0),
        lambda p, q: 3.0 - np.log(q),
    ),
    "TruncatedLogistic": (
        lambda: dist.RightTruncatedDistribution(dist.Logistic(0.0, 1.0), 0.0),
        lambda p, q: np.log(p) - np.log1p(q),
    ),
}
TRANSPORTED = {
    "Gamma": (lambda: dist.Gamma(2.5, 1.3), st.gamma(2.5, scale=1 / 1.3)),
    "Gamma(0.05)": (lambda: dist.Gamma(0.05, 1.3), st.gamma(0.05, scale=1 / 1.3)),
    "Gamma(1e4)": (lambda: dist.Gamma(1e4, 50.0), st.gamma(1e4, scale=1 / 50.0)),
    "Chi2": (lambda: dist.Chi2(3.0), st.chi2(3.0)),
    "InverseGamma": (lambda: dist.InverseGamma(3.0, 2.0), st.invgamma(3.0, scale=2.0)),
    "Beta": (lambda: dist.Beta(2.0, 0.7), st.beta(2.0, 0.7)),
    "Beta(0.2, 0.05)": (lambda: dist.Beta(0.2, 0.05), st.beta(0.2, 0.05)),
    "Beta(1e4, 3e3)": (lambda: dist.Beta(1e4, 3e3), st.beta(1e4, 3e3)),
    "BetaProportion": (lambda: dist.BetaProportion(0.3, 10.0), st.beta(3.0, 7.0)),
}
EXACTLY = {**EXACT, **WRITTEN}
SCALAR = {**EXACTLY, **TRANSPORTED}


def quantile(law, eps):
    """Return the quantile of Phi(eps), taken from the nearer tail."""
    p, q = st.norm.cdf(eps), st.norm.sf(eps)
    if callable(law):
        return law(p, q)
    return np.where(eps < 0, law.ppf(p), law.isf(q))


@pytest.fixture(scope="module", params=["float32", "float64"])
def computed(request):
    """Values of the exact maps on TAILS; values and corrections of the transports on GRID."""

    def everything(tails, grid):
        exact = {name: smooth_map(f()).apply(f().expand(tails.shape), tails) for name, (f, _) in EXACTLY.items()}
        moved = {}
        for name, (family, _) in TRANSPORTED.items():
            fn, noise_map = family(), smooth_map(family())
            corrections = jax.vmap(lambda e, fn=fn, noise_map=noise_map: noise_map.log_correction(fn, e))
            moved[name] = noise_map.apply(fn.expand(grid.shape), grid), corrections(grid)
        return {**exact, **moved}

    with jax.enable_x64(request.param == "float64"):
        return request.param, jax.jit(everything)(jnp.asarray(TAILS), jnp.asarray(GRID))


@pytest.mark.parametrize("name", EXACTLY)
def test_exact_map_is_the_quantile_function_far_into_the_tails(name, computed):
    precision, values = computed
    family, law = EXACTLY[name]
    assert smooth_map(family()).kind is MapKind.EXACT is particle_map(family()).kind
    assert values[name].dtype == precision
    rtol, atol = (2e-5, 3e-6) if precision == "float32" else (1e-9, 1e-11)
    np.testing.assert_allclose(values[name], quantile(law, TAILS), rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", TRANSPORTED)
def test_pulled_back_density_integrates_to_the_distribution_function(name, computed):
    precision, values = computed
    family, law = TRANSPORTED[name]
    assert smooth_map(family()).kind is MapKind.TRANSPORT and particle_map(family()).kind is MapKind.REJECTION
    value, log_ratio = (np.asarray(a, np.float64) for a in values[name])
    density = st.norm.pdf(GRID) * np.exp(log_ratio)
    cells = 0.5 * (density[1:] + density[:-1]) * np.diff(GRID)
    below = np.concatenate([[0.0], np.cumsum(cells)])
    below = below if value[-1] > value[0] else below[-1] - below
    assert np.isclose(below.max(), 1.0, atol=1e-4)
    # SciPy's CDF of a rounded value, so only where rounding of the value does not show.
    inside = (value > 1e-30) & (value < 1e30) & ((value < 1 - 1e-4) | (law.support()[1] > 1.0))
    atol = 5e-4 if precision == "float32" else 2e-6
    np.testing.assert_allclose(below[inside], law.cdf(value[inside]), rtol=0, atol=atol)


@pytest.fixture(scope="module")
def densities():
    """Value, log p(T) + log |T'| and log N + correction of every scalar family, in double precision."""

    def one(name, eps):
        fn, noise_map = SCALAR[name][0](), smooth_map(SCALAR[name][0]())
        value, slope = jax.jvp(lambda e: noise_map.apply(fn, e), (eps,), (jnp.ones_like(eps),))
        left = fn.log_prob(value) + jnp.log(jnp.abs(slope))
        return value, left, dist.Normal(0.0, 1.0).log_prob(eps) + noise_map.log_correction(fn, eps)

    with jax.enable_x64(True):
        eps = jnp.linspace(-4.0, 4.0, 33)
        return jax.jit(jax.vmap(lambda eps: {name: one(name, eps) for name in SCALAR}))(eps)


@pytest.mark.parametrize("name", SCALAR)
def test_density_identity(name, densities):
    """log p(T(eps)) + log |T'(eps)| = log N(eps) + correction, with the family's own log_prob."""
    value, left, right = (np.asarray(a) for a in densities[name])
    # A value within rounding of one has no log(1 - x) left to compare with.
    usable = value < 1 - 1e-7 if name[:4] in ("Beta", "Kuma") else np.isfinite(value)
    assert usable.sum() >= 15
    np.testing.assert_allclose(left[usable], right[usable], rtol=0, atol=2e-7)


def test_transport_is_close_to_the_quantile_function():
    """The noise of a Gamma of any shape is almost normal: a divergence below 0.01 costs NUTS nothing."""
    concentration = jnp.array([0.05, 0.2, 0.5, 1.0, 3.0, 30.0, 1e3, 1e4])
    eps = jnp.linspace(-8.0, 8.0, 2001)
    log_ratio = jax.jit(jax.vmap(jax.vmap(gamma_log_ratio, (None, 0)), (0, None)))(concentration, eps)
    log_weight = st.norm.logpdf(np.asarray(eps)) + np.log(16.0 / 2000)
    np.testing.assert_allclose(logsumexp(log_weight + log_ratio, axis=1), 0.0, atol=1e-3)
    divergence = -np.sum(np.exp(log_weight) * np.asarray(log_ratio, np.float64), axis=1)
    assert np.all(divergence > -1e-4) and np.all(divergence < 0.01)


DRAWN = {
    **{name: TRANSPORTED[name] for name in ("Gamma(0.05)", "InverseGamma", "Beta(0.2, 0.05)")},
    "StudentT": (lambda: dist.StudentT(3.0, 0.5, 2.0), st.t(3.0, 0.5, 2.0)),
    "Dirichlet": (lambda: dist.Dirichlet(jnp.array([0.4, 2.0, 5.0])), st.beta(2.0, 5.4)),
}


@pytest.fixture(scope="module")
def drawn():
    """Images of 3000 drawn noises for each transported family."""

    def one(family):
        fn, noise_map = family(), smooth_map(family())
        return noise_map.apply(fn.expand([3000]), noise_map.draw(KEY, fn, (3000,)))

    with jax.enable_x64(True):
        return jax.jit(lambda: {name: one(family) for name, (family, _) in DRAWN.items()})()


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_noise_has_the_law_of_the_family(name, drawn):
    law, value = DRAWN[name][1], np.asarray(drawn[name])
    if name == "Dirichlet":
        np.testing.assert_allclose(value.sum(-1), 1.0, rtol=1e-6)
        value = value[:, 1]
    # Values within rounding of the end of the support are one atom: count them, test the rest.
    end = 1 - 1e-9 if law.support()[1] == 1.0 else np.inf
    rest = value[value < end]
    rate = ERROR_RATE / (2 * len(DRAWN))
    assert st.binomtest(rest.size, value.size, law.cdf(end)).pvalue > rate
    assert st.kstest(rest, lambda x: law.cdf(x) / law.cdf(end)).pvalue > rate


def test_exact_student_t_by_quadrature():
    """Midpoints of an equiprobable grid of both noises stand for the uniform law of (U, V)."""
    n, df = 400, 2.5
    fn = dist.StudentT(df, 0.5, 2.0).expand([n, n])
    eps = jnp.asarray(st.norm.ppf((np.arange(n) + 0.5) / n))
    noise_map = particle_map(fn)
    assert noise_map.kind is MapKind.EXACT and noise_map.spec.shape == (2, n, n)
    value = np.asarray(noise_map.apply(fn, jnp.stack(jnp.meshgrid(eps, eps)))).ravel()
    for point in st.t.ppf([0.01, 0.2, 0.5, 0.8, 0.99], df, 0.5, 2.0):
        assert abs(np.mean(value <= point) - st.t.cdf(point, df, 0.5, 2.0)) < 2.0 / n


def test_student_t_given_its_mixing_variable():
    """Integrating the mixing noise out of the corrected density leaves Student's t."""
    eps = jnp.linspace(-8.0, 8.0, 1201)
    log_weight = st.norm.logpdf(np.asarray(eps)) + np.log(16.0 / 1200)

    def of(df, e):
        fn = dist.StudentT(df, 0.5, 2.0)
        noise_map = smooth_map(fn)
        # z = 1 gives the scale of the conditional normal: x | g ~ N(loc, (scale / sqrt g)^2).
        scale = noise_map.apply(fn, jnp.stack([1.0, e])) - 0.5
        return noise_map.log_correction(fn, jnp.stack([0.0, e])), scale

    degrees = [0.5, 3.0, 200.0]
    both = jax.jit(jax.vmap(jax.vmap(of, (None, 0)), (0, None)))(jnp.array(degrees), eps)
    for df, log_ratio, scale in zip(degrees, *map(np.asarray, both)):
        for point in (-3.0, 0.5, 1.0, 6.0):
            log_terms = log_weight + log_ratio + st.norm.logpdf(point, 0.5, scale)
            assert abs(logsumexp(log_terms) - st.t.logpdf(point, df, 0.5, 2.0)) < 2e-3


def normal_mv(**form):
    return dist.MultivariateNormal(jnp.array([1.0, -1.0]), **form)


def state_dependent(x):
    return dist.Normal(jnp.sin(x), 0.1 + jnp.abs(x)).to_event(1)


def standard(shape):
    return dist.Normal(0.0, 1.0).expand(shape).to_event(1)


VECTOR = {
    "MultivariateNormal(scale_tril)": lambda: normal_mv(scale_tril=jnp.linalg.cholesky(COV)),
    "MultivariateNormal(covariance)": lambda: normal_mv(covariance_matrix=jnp.asarray(COV)),
    "MultivariateNormal(precision)": lambda: normal_mv(precision_matrix=jnp.linalg.inv(COV)),
    "MultivariateNormal.expand": lambda: normal_mv(covariance_matrix=jnp.asarray(COV)).expand([3]),
    "GaussianRandomWalk": lambda: dist.GaussianRandomWalk(0.7, 4),
    "MatrixNormal": lambda: dist.MatrixNormal(jnp.ones((3, 2)), jnp.eye(3) + jnp.tri(3), jnp.linalg.cholesky(COV)),
    "to_event": lambda: dist.Normal(jnp.arange(3.0), 2.0).to_event(1),
    "state-dependent loc and scale": lambda: state_dependent(jnp.array([0.3, -2.0])),
    "broadcast batch": lambda: dist.Gumbel(jnp.zeros((2, 1)), jnp.array([1.0, 2.0, 3.0])),
    "expand inside to_event": lambda: dist.Laplace(jnp.zeros((2, 1)), 1.5).expand([2, 3]).to_event(2),
    "expand outside to_event": lambda: dist.Normal(jnp.arange(3.0), 2.0).to_event(1).expand([2]),
    "masked": lambda: dist.Normal(jnp.arange(3.0), 2.0).mask(jnp.array([True, True, True])),
    "affine": lambda: dist.TransformedDistribution(standard([3]), AffineTransform(jnp.arange(3.0), 2.0)),
    "matrix affine": lambda: dist.TransformedDistribution(
        standard([2]), LowerCholeskyAffine(jnp.ones(2), jnp.linalg.cholesky(jnp.asarray(COV)))
    ),
    "two transforms, expanded": lambda: dist.TransformedDistribution(
        dist.Logistic(jnp.array([0.0, 1.0]), 1.0), [AffineTransform(1.0, 0.5), SigmoidTransform()]
    ).expand([3, 2]),
    "LogNormal, expanded": lambda: dist.LogNormal(jnp.array([0.0, 1.0]), 0.3).expand([3, 2]).to_event(1),
    "Gamma, expanded": lambda: dist.Gamma(jnp.array([0.5, 3.0]), 2.0).expand([3, 2]).to_event(1),
    "InverseGamma, broadcast": lambda: dist.InverseGamma(jnp.array([[2.0], [3.0]]), jnp.ones(3)),
    "masked Beta": lambda: dist.Beta(jnp.array([0.5, 3.0]), 2.0).mask(jnp.array([True, True])),
    "transformed Gamma": lambda: dist.TransformedDistribution(
        dist.Gamma(jnp.array([0.5, 3.0]), 2.0).to_event(1), AffineTransform(0.0, jnp.array([2.0, 3.0]))
    ),
}


@pytest.fixture(scope="module")
def wrapped():
    """Value, log p + log |det| and log N + correction of every wrapped family, in double precision."""

    def one(fn):
        noise_map = smooth_map(fn)
        eps = jax.random.normal(KEY, noise_map.spec.shape)
        value = noise_map.apply(fn, eps)
        jacobian = jax.jacfwd(lambda e: noise_map.apply(fn, e).ravel())(eps).reshape(value.size, eps.size)
        left = jnp.sum(fn.log_prob(value)) + jnp.linalg.slogdet(jacobian)[1]
        return value, left, jnp.sum(dist.Normal(0.0, 1.0).log_prob(eps)) + noise_map.log_correction(fn, eps)

    with jax.enable_x64(True):
        return jax.jit(lambda: {name: one(fn()) for name, fn in VECTOR.items()})()


@pytest.mark.parametrize("name", VECTOR)
def test_density_identity_under_wrappers(name, wrapped):
    value, left, right = wrapped[name]
    assert value.shape == VECTOR[name]().shape() and not value.weak_type
    np.testing.assert_allclose(left, right, rtol=1e-10)


def test_low_rank_normal_has_its_covariance():
    factor, diagonal = jnp.array([[1.0, 0.5], [-2.0, 0.0], [0.3, 1.0]]), jnp.array([0.5, 1.0, 2.0])
    fn = dist.LowRankMultivariateNormal(jnp.arange(3.0), factor, diagonal).expand([2])
    noise_map = smooth_map(fn)
    assert noise_map.spec.shape == (2, 5)
    jacobian = jax.jacfwd(lambda e: noise_map.apply(fn, e))(jnp.zeros((2, 5)))[0, :, 0]
    np.testing.assert_allclose(jacobian @ jacobian.T, factor @ factor.T + jnp.diag(diagonal), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(noise_map.apply(fn, jnp.zeros((2, 5)))[1], jnp.arange(3.0), atol=1e-6)


def test_zero_sum_normal_sums_to_zero_with_its_variance():
    fn = dist.ZeroSumNormal(1.5, (4,))
    noise_map = smooth_map(fn)
    jacobian = jax.jacfwd(lambda e: noise_map.apply(fn, e))(jnp.zeros(noise_map.spec.shape))
    np.testing.assert_allclose(jacobian.sum(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(jacobian @ jacobian.T, 2.25 * (np.eye(4) - 0.25), atol=1e-5)


def test_delta_needs_no_noise():
    fn = dist.Delta(jnp.array([1.0, 2.0]), event_dim=1).expand([3])
    noise_map = smooth_map(fn)
    assert noise_map.spec.shape == (0, 3, 2)
    np.testing.assert_array_equal(noise_map.apply(fn, jnp.zeros((0, 3, 2))), np.tile([1.0, 2.0], (3, 1)))


EXTREME = {
    **{name: family for name, (family, _) in SCALAR.items()},
    "StudentT": lambda: dist.StudentT(3.0, 0.5, 2.0),
    "StudentT(0.1)": lambda: dist.StudentT(0.1),
    "StudentT(1e6)": lambda: dist.StudentT(1e6),
    "Weibull(0.05)": lambda: dist.Weibull(1.0, 0.05),
    "Pareto(0.05)": lambda: dist.Pareto(1.0, 0.05),
    "Kumaraswamy(0.05, 0.05)": lambda: dist.Kumaraswamy(0.05, 0.05),
    "Kumaraswamy(50, 50)": lambda: dist.Kumaraswamy(50.0, 50.0),
    "Beta(0.05, 1e4)": lambda: dist.Beta(0.05, 1e4),
    "Beta(0.05, 0.05)": lambda: dist.Beta(0.05, 0.05),
    "InverseGamma(0.05)": lambda: dist.InverseGamma(0.05, 1.0),
    "Dirichlet": lambda: dist.Dirichlet(jnp.array([0.05, 1.0, 1e4])),
    "TruncatedNormal(30)": lambda: dist.TruncatedNormal(0.0, 1.0, low=30.0, high=30.001),
    "TruncatedNormal(-inf)": lambda: dist.TruncatedNormal(0.0, 1.0, low=-jnp.inf, high=1.0),
    "Normal(1e-20)": lambda: dist.Normal(0.0, 1e-20),
}
BY_TABLE = {
    **{name: (family, smooth_map) for name, family in EXTREME.items()},
    **{f"{name} exact": (EXTREME[name], particle_map) for name in EXTREME if name.startswith("StudentT")},
}


@pytest.fixture(scope="module")
def extremes():
    """Value, whether it is in the support, gradients and parameters, |eps| up to 40, default precision."""

    def one(family, table):
        fn, noise_map = family(), table(family())
        tree = jax.tree.structure(fn)
        leaves = [jnp.asarray(leaf, jnp.result_type(float)) for leaf in jax.tree.leaves(fn)]

        def total(leaves, noise):
            rebuilt = jax.tree.unflatten(tree, leaves)
            value = noise_map.apply(rebuilt, noise)
            return jnp.sum(jnp.log1p(jnp.abs(value))) + noise_map.log_correction(rebuilt, noise), value

        def everything(eps):
            noise = jnp.full(noise_map.spec.shape, eps)
            (_, value), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(leaves, noise)
            return value, fn.support(value), gradients

        return *jax.vmap(everything)(jnp.array([-40.0, -12.0, -6.0, 0.0, 6.0, 12.0, 40.0])), leaves

    return jax.jit(lambda: {name: one(*case) for name, case in BY_TABLE.items()})()


@pytest.mark.parametrize("name", BY_TABLE)
def test_values_and_gradients_are_finite_at_twelve_and_beyond(name, extremes):
    value, inside, (by_leaf, by_noise), leaves = extremes[name]
    assert np.all(np.isfinite(value)) and np.all(inside)
    assert np.all(np.isfinite(by_noise))
    assert all(np.all(np.isfinite(g)) for g, leaf in zip(by_leaf, leaves) if np.all(np.isfinite(leaf)))


FIVE = np.array([0.0, 0.25, 0.0, 0.75, 0.0])
THREE = np.array([0.1, 0.6, 0.3])
DISCRETE = {
    "Bernoulli(probs)": (lambda: dist.Bernoulli(0.3), [0.7, 0.3]),
    "Bernoulli(logits)": (lambda: dist.Bernoulli(logits=jnp.log(0.25)), [0.8, 0.2]),
    "Categorical(probs)": (lambda: dist.Categorical(jnp.asarray(FIVE)), FIVE),
    "Categorical(logits)": (lambda: dist.Categorical(logits=jnp.log(THREE)), THREE),
    "OrderedLogistic": (lambda: dist.OrderedLogistic(0.0, jnp.array([0.0])), [0.5, 0.5]),
}


@pytest.mark.parametrize("name", DISCRETE)
def test_inverse_cdf_has_the_probabilities(name):
    family, probabilities = DISCRETE[name]
    n = 2000
    eps = jnp.asarray(np.append(st.norm.ppf((np.arange(n) + 0.5) / n), [-12.0, 12.0]))
    fn = family().expand(eps.shape)
    noise_map = particle_map(fn)
    assert noise_map.kind is MapKind.INVERSE_CDF and smooth_map(fn) is None
    value = np.asarray(jax.jit(noise_map.apply)(fn, eps))
    assert value.dtype == jnp.result_type(int)
    frequency = np.bincount(value[:n], minlength=len(probabilities)) / n
    np.testing.assert_allclose(frequency, probabilities, atol=1.0 / n)
    assert all(probabilities[k] > 0 for k in value[n:])


@pytest.mark.parametrize("logit", [-np.log(1e9), np.log(1e9)])
def test_bernoulli_logits_keep_small_probabilities_on_both_sides(logit):
    """An event of probability 1e-9 happens for eps beyond its quantile, near zero and near one alike."""
    at = np.sign(-logit) * st.norm.isf(1e-9)
    fn = dist.Bernoulli(logits=logit).expand([2])
    assert list(particle_map(fn).apply(fn, jnp.array([at - 1e-2, at + 1e-2]))) == [0, 1]


def test_families_without_a_map():
    truncated = dist.LeftTruncatedDistribution(dist.StudentT(3.0), 0.0)
    for fn in (dist.VonMises(0.0, 1.0), dist.Multinomial(3, jnp.array([0.4, 0.6])), truncated):
        assert smooth_map(fn) is None and particle_map(fn).spec.is_key
    assert smooth_map(dist.ImproperUniform(dist.constraints.real, (), ())) is None
    value = particle_map(dist.VonMises(0.0, 1.0)).apply(dist.VonMises(0.0, 1.0).expand([2]), KEY)
    assert value.shape == (2,)


def test_subclass_with_its_own_law_is_not_mistaken_for_its_parent():
    class Doubled(dist.Normal):
        def sample(self, key, sample_shape=()):
            return 2.0 * super().sample(key, sample_shape)

        def log_prob(self, value):
            return super().log_prob(0.5 * value) - jnp.log(2.0)

    class Renamed(dist.Normal):
        """Adds nothing."""

    assert smooth_map(Doubled(0.0, 1.0)) is None and particle_map(Doubled(0.0, 1.0)).spec.is_key
    assert smooth_map(Renamed(0.0, 1.0)).kind is MapKind.EXACT


STRICT = {**EXTREME, **VECTOR, **{name: family for name, (family, _) in DISCRETE.items()}}
# Here the broadcasting is that of NumPyro's transforms.
THEIRS = {"two transforms, expanded", "LogNormal, expanded", "transformed Gamma"}


@pytest.mark.parametrize("name", sorted(set(STRICT) - THEIRS))
def test_maps_promote_nothing_behind_the_users_back(name):
    fn = STRICT[name]()
    noise_map = smooth_map(fn) or particle_map(fn)
    noise = jax.ShapeDtypeStruct(noise_map.spec.shape, jnp.result_type(float))
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        value = jax.eval_shape(lambda e: noise_map.apply(fn, e), noise)
        jax.eval_shape(lambda e: noise_map.log_correction(fn, e), noise)
    assert value.shape == fn.shape()


def test_integer_and_python_parameters_give_the_default_real_dtype():
    integers = dist.Normal(jnp.array(0), jnp.array(2))
    for fn in (dist.Normal(0, 1), integers, dist.Gamma(2, 3), dist.Uniform(0, 1)):
        value = jax.eval_shape(lambda e, fn=fn: smooth_map(fn).apply(fn, e), jnp.asarray(0.5))
        assert value.dtype == jnp.result_type(float) and not value.weak_type


def test_exp_of_normal_equals_lognormal():
    chained = dist.TransformedDistribution(dist.Normal(0.2, 0.5), ExpTransform()).expand([7])
    direct = dist.LogNormal(0.2, 0.5).expand([7])
    eps = jnp.linspace(-3.0, 3.0, 7)
    np.testing.assert_allclose(
        smooth_map(chained).apply(chained, eps), smooth_map(direct).apply(direct, eps), rtol=1e-6
    )

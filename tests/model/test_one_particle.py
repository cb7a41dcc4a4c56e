"""One particle under each choice of maps: smooth maps keep the law, stand-ins the mean field and its derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from scipy.integrate import quad

import ssmscan
from tests.contract.models import stochastic_sir_dict_carry_binomial as sir

GRID = np.linspace(-9.0, 9.0, 401)


class Quartic(dist.Distribution):
    """A density of the user's without a sampler, proportional to exp(-x^4)."""

    support = constraints.real

    def log_prob(self, value):
        return -(value**4) - np.log(1.8128049541109541)


FAMILIES = {
    "Gamma": (lambda: dist.Gamma(0.4, 2.0), st.gamma(0.4, scale=0.5)),
    "InverseGamma": (lambda: dist.InverseGamma(0.7, 2.0), st.invgamma(0.7, scale=2.0)),
    "Beta": (lambda: dist.Beta(0.3, 0.6), st.beta(0.3, 0.6)),
    "StudentT": (lambda: dist.StudentT(0.6, 0.0, 0.3), st.t(0.6, 0.0, 0.3)),
    "Dirichlet": (lambda: dist.Dirichlet(jnp.array([0.4, 0.8])), st.beta(0.4, 0.8)),
}
Y, SD = 0.7, 0.5


def observed_twice(family, y):
    """The family at the start and in a step, each observed with noise, of a vector its first element."""
    x0 = numpyro.sample("x0", family())
    numpyro.sample("y0", dist.Normal(x0.ravel()[0], SD), obs=Y)

    def step(x, y):
        new = numpyro.sample("x", family())
        numpyro.sample("y", dist.Normal(new.ravel()[0], SD), obs=y)
        return new + 0.0 * x, None

    scan(step, x0, y)


def bind(model, *args, theta=None, **kwargs):
    ssm = ssmscan.trace(model, *args, **kwargs)
    return ssm.at(ssm.canonical(theta or {}))


def zeros(specs):
    return {name: jnp.zeros(spec.shape) for name, spec in specs.items()}


def first(dynamics):
    return jax.tree.map(lambda leaf: leaf[0], dynamics.xs)


def mean_over_noise(of_noise, spec):
    """The mean of exp(of_noise(e)) over standard normal e, by a sum over a grid."""
    points = np.stack(np.meshgrid(*[GRID] * int(np.prod(spec.shape))), axis=-1).reshape(-1, *spec.shape)
    weights = np.exp(-0.5 * np.sum(points.reshape(len(points), -1) ** 2, axis=1))
    values = np.exp(np.asarray(jax.jit(jax.vmap(of_noise))(jnp.asarray(points)), float))
    return np.sum(weights * values) / np.sum(weights)


def evidence(density, support):
    """The marginal density of an observation, by quadrature."""
    pieces = [support[0], *(p for p in (0.0, 1e-6, 1e-3, Y, 3.0) if support[0] < p < support[1]), support[1]]
    parts = (quad(lambda x: density(x) * st.norm.pdf(Y, x, SD), a, b, limit=200)[0] for a, b in zip(pieces, pieces[1:]))
    return sum(parts)


@pytest.mark.parametrize("name", [*FAMILIES, "Quartic"])
@pytest.mark.slow
def test_a_smooth_map_with_its_correction_has_the_law_of_the_family(name):
    own = name == "Quartic"
    family, law = (Quartic, None) if own else FAMILIES[name]
    dynamics = bind(observed_twice, family, jnp.array([Y]))
    assert dynamics.moved == (() if own else ("x0", "x"))
    under = dynamics.surrogate if own else dynamics.guided
    density = (lambda x: np.exp(-(x**4)) / 1.8128049541109541) if own else law.pdf
    truth = evidence(density, (-5.0, 5.0) if own else law.support())
    x = first(dynamics)
    carry = jnp.zeros(dynamics.initial[0].shape)

    def at_start(e):
        return under.init({"x0": e}).log_weight

    def at_step(e):
        return under.step(carry, x, {"x": e}).log_weight

    def uncorrected(e):
        values = {"x": under.step(carry, x, {"x": e}).values["x"]}
        return dynamics.evaluate(carry, x, values).log_observation

    np.testing.assert_allclose(mean_over_noise(at_start, under.initial_noise["x0"]), truth, rtol=3e-4)
    np.testing.assert_allclose(mean_over_noise(at_step, under.step_noise["x"]), truth, rtol=3e-4)
    assert abs(mean_over_noise(uncorrected, under.step_noise["x"]) / truth - 1.0) > 1e-3


def test_a_model_of_smooth_sites_has_one_dynamics():
    dynamics = bind(observed_twice, lambda: dist.Normal(0.0, 1.0), jnp.array([Y]))
    assert dynamics.guided is dynamics.surrogate is dynamics and dynamics.moved == ("x0", "x")


@pytest.mark.slow
def test_a_count_that_enters_the_carry_moves_it_as_the_mean_field_does():
    """At noise zero a step is S - S p(I), I + S p(I) - gam I, and has its derivatives in S and I."""
    theta = {"beta": 0.8, "gam": 0.3, "rho": 0.5}
    dynamics = bind(sir.model, *sir.model_args, theta=theta, **sir.model_kwargs)
    surrogate, x = dynamics.surrogate, first(dynamics)
    assert dynamics.guided is dynamics and dynamics.moved == () and surrogate.varying == (True, True, True)
    assert dynamics.varying == (False, False, False) and not surrogate.held
    start = dynamics.init({})
    assert all(
        leaf.dtype == jnp.int32
        for leaf in jax.tree.leaves(dynamics.step(start.carry, x, zeros(dynamics.step_noise)).carry)
    )
    begun = surrogate.init({}).carry
    assert jax.tree.structure(begun) == jax.tree.structure(start.carry)

    def moved(carry):
        return surrogate.step(carry, x, zeros(surrogate.step_noise)).carry

    s, i, n = 195.0, 5.0, 200.0
    p = 1 - np.exp(-theta["beta"] * i / n)
    slope = s * theta["beta"] / n * np.exp(-theta["beta"] * i / n)
    after, jacobian = moved(begun), jax.jacfwd(moved)(begun)
    expected = {"S": s - s * p, "I": i + s * p - theta["gam"] * i, "R": theta["gam"] * i}
    for name, value in expected.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-5)
    rows = {"S": (1 - p, -slope, 0), "I": (p, 1 + slope - theta["gam"], 0), "R": (0, theta["gam"], 1)}
    for name, row in rows.items():
        np.testing.assert_allclose([jacobian[name][other] for other in "SIR"], row, rtol=1e-4, atol=1e-5)
    spread = jax.jacfwd(lambda e: surrogate.step(begun, x, e).carry["S"])(zeros(surrogate.step_noise))
    np.testing.assert_allclose(-spread["inf"], np.sqrt(s * p * (1 - p)), rtol=0.02)


def counted(y, table=None, outside=False, start=False):
    """A walk and a count around it, which is observed in the loop or after it, or looked up in a table."""
    n0 = numpyro.sample("n0", dist.Poisson(4.0)) if start else 4
    if start:
        numpyro.sample("seen0", dist.Normal(n0, 1.0), obs=3.0)

    def step(carry, y):
        x, n = carry
        x = numpyro.sample("x", dist.Normal(0.9 * x, 0.3))
        n = numpyro.sample("n", dist.Poisson(2.0 * jnp.exp(x) + 0.1 * n))
        level = n if table is None else table[n]
        m = numpyro.sample("m", dist.Binomial(10, probs=0.3))
        if not outside:
            numpyro.sample("y", dist.Normal(level + m, 2.0), obs=y)
        return (x, n), level + m

    _, levels = scan(step, (0.0, n0), None if outside else y, length=len(y))
    if outside:
        numpyro.sample("y", dist.Normal(levels, 2.0), obs=y)


DATA = jnp.array([1.0, 4.0, 3.0])


@pytest.mark.slow
@pytest.mark.parametrize("outside", [False, True])
def test_what_is_observed_of_a_count_reaches_it_inside_and_after_the_loop(outside):
    dynamics = bind(counted, DATA, outside=outside)
    surrogate, x = dynamics.surrogate, first(dynamics)
    assert dynamics.moved == ("x",) and set(surrogate.step_noise) == {"x", "n", "m"}
    carry = surrogate.init({}).carry

    def weight(carry):
        return surrogate.step(carry, x, zeros(surrogate.step_noise)).log_weight

    mean = 2.0 + 0.1 * 4 + 3.0
    np.testing.assert_allclose(weight(carry), st.norm.logpdf(1.0, mean, 2.0), rtol=1e-5)
    slope = jax.grad(weight)(carry)[1]
    np.testing.assert_allclose(slope, 0.1 * (1.0 - mean) / 4.0, rtol=1e-5)


@pytest.mark.slow
def test_a_count_of_the_start_is_real_and_observed():
    surrogate = bind(counted, DATA, start=True).surrogate
    start = surrogate.init({"n0": jnp.zeros(())})
    np.testing.assert_allclose(start.carry[1], 4.0, rtol=1e-6)
    np.testing.assert_allclose(start.log_weight, st.norm.logpdf(3.0, 4.0, 1.0), rtol=1e-5)
    slope = jax.grad(lambda e: surrogate.init({"n0": e}).log_weight)(jnp.zeros(()))
    np.testing.assert_allclose(slope, -np.sqrt(4.0), rtol=0.02)


@pytest.mark.slow
def test_a_count_that_must_be_an_integer_is_held_and_the_others_are_not():
    dynamics = bind(counted, DATA, table=jnp.arange(50.0))
    surrogate, x = dynamics.surrogate, first(dynamics)
    assert surrogate.held == {"n": "the model cannot be run with real values of it"}
    assert set(surrogate.step_noise) == {"x", "m"} and surrogate.varying == (True, False)
    out = surrogate.step(surrogate.init({}).carry, x, zeros(surrogate.step_noise))
    assert out.carry[1].dtype == jnp.int32 and out.carry[1] == st.poisson(2.4).median()


def regimes(y):
    """A category, whose probability depends on a walk, chooses its scale."""

    def step(x, y):
        busy = numpyro.sample("busy", dist.Bernoulli(logits=1.0 + x))
        x = numpyro.sample("x", dist.Normal(x, jnp.where(busy == 1, 2.0, 0.1)))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(step, 0.0, y)


def test_a_category_is_held_at_its_median_and_draws_no_gradient():
    dynamics = bind(regimes, DATA)
    surrogate = dynamics.surrogate
    assert dynamics.guided is dynamics and set(surrogate.held) == {"busy"} and set(surrogate.step_noise) == {"x"}
    out = surrogate.step(jnp.float32(0.0), first(dynamics), {"x": jnp.float32(1.0)})
    np.testing.assert_allclose(out.carry, 2.0)

    def slope(under, noise):
        return jax.grad(lambda x: under.step(x, first(dynamics), {"x": jnp.float32(1.0), **noise}).log_weight)(
            jnp.float32(0.0)
        )

    np.testing.assert_allclose(slope(surrogate, {}), -(2.0 - DATA[0]), rtol=1e-5)
    assert slope(dynamics, {"busy": jnp.float32(0.0)}) > 0.1 + slope(surrogate, {})
    assert surrogate.varying == (True,)


def panel(y):
    """Counts of several series, each thinned from step to step."""
    rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))

    def step(n, y):
        with numpyro.plate("series", y.shape[-1]):
            kept = numpyro.sample("kept", dist.Binomial(n, probs=0.6))
            shock = numpyro.sample("shock", dist.StudentT(4.0, 0.0, 1.0))
            numpyro.sample("y", dist.Normal(rate * kept + shock, 1.0), obs=y)
        return kept, None

    scan(step, jnp.full(y.shape[-1], 7), y)


@pytest.fixture(scope="module")
def moved_panel():
    """By maps: what a step does to all series, and to each alone, with the gradient in the noise of the shock."""
    ssm = ssmscan.trace(panel, jnp.asarray(np.random.default_rng(3).normal(size=(3, 4)) + 5.0))
    theta, axes = ssm.canonical({"rate": 2.5}), dict(ssm.panel.noise)
    specs = ssm.at(theta).guided.step_noise
    keys = jax.random.split(jax.random.key(0), len(specs))
    noise = {n: jax.random.normal(key, spec.shape) for key, (n, spec) in zip(keys, specs.items())}

    @jax.jit
    def everything():
        whole, found = ssm.at(theta), {}
        x = first(whole)
        for under in ("guided", "surrogate"):
            carry = jnp.full(4, 7, int if under == "guided" else float)

            def step(dynamics, carry, noise, under=under):
                def weight(shock):
                    out = getattr(dynamics, under).step(carry, x, {**noise, "shock": shock})
                    return out.log_weight, out.carry

                (weighed, moved), slope = jax.value_and_grad(weight, has_aux=True)(noise["shock"])
                return moved, weighed, slope

            def alone(m, carry=carry, step=step):
                own = {n: jnp.take(e, m[None], axis=axes[n]) for n, e in noise.items()}
                return step(ssm.elements_at(theta)(m), carry[m][None], own)

            found[under] = step(whole, carry, noise), jax.vmap(alone)(jnp.arange(4))
        return found

    return ssm, theta, everything()


@pytest.mark.slow
@pytest.mark.parametrize("under", ["guided", "surrogate"])
def test_an_element_of_a_panel_moves_as_it_does_among_all(moved_panel, under):
    ssm, theta, found = moved_panel
    whole, element = ssm.at(theta), ssm.elements_at(theta)(jnp.int32(2))
    assert element.moved == whole.moved == ("shock",)
    for dynamics in (getattr(whole, under), getattr(element, under)):
        assert dynamics.varying == (under == "surrogate",) and not dynamics.held
    (carry, weight, slope), (carries, weights, slopes) = found[under]
    np.testing.assert_allclose(carries[:, 0], carry, rtol=1e-6)
    np.testing.assert_allclose(weights.sum(), weight, rtol=1e-5)
    np.testing.assert_allclose(slopes[:, :, 0].T, slope, rtol=1e-4, atol=1e-6)


def memory(y):
    """Noise reaches the third leaf after two steps, the clock never, and the switch is no number."""

    def step(carry, y):
        x, last, before, clock, switch = carry
        new = numpyro.sample("x", dist.Normal(0.5 * x + 0.1 * before, 1.0))
        numpyro.sample("y", dist.Normal(new, 1.0), obs=y)
        return (new, x, last, clock + 0.5, jnp.where(new > 0, 1, 0)), None

    scan(step, (0.0, 0.0, 0.0, 0.0, 0), y)


def test_leaves_that_vary_are_the_real_ones_that_noise_reaches():
    assert bind(memory, DATA).varying == (True, True, True, False, False)


def two_loops(y, counts):
    """A walk, and counts in a loop of their own."""

    def walk(x, y):
        x = numpyro.sample("x", dist.Normal(x, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    def thin(n, c):
        n = numpyro.sample("n", dist.Poisson(0.5 * n + 1.0))
        numpyro.sample("c", dist.Normal(n, 1.0), obs=c)
        return n, None

    scan(walk, 0.0, y)
    scan(thin, 3, counts)


@pytest.mark.slow
def test_each_of_several_loops_has_dynamics_of_its_own():
    ssm = ssmscan.trace(two_loops, DATA, DATA)
    walk, thin = (loop.at({}) for loop in ssm.loops)
    assert walk.surrogate is walk and walk.moved == ("x",)
    assert thin.moved == () and set(thin.surrogate.step_noise) == {"n"} and thin.surrogate.varying == (True,)


def fed_by_data(y):
    """A series that is read by its next value; where it is missing it is a count drawn for it."""

    def step(last, y):
        x = numpyro.sample("x", dist.Normal(0.0, 0.5))
        y = numpyro.sample("y", dist.Poisson(jnp.exp(x) + 0.5 * last), obs=y)
        return y, None

    scan(step, 2.0, y)


@pytest.mark.slow
def test_a_missing_count_that_is_read_has_a_stand_in():
    dynamics = bind(fed_by_data, jnp.array([3.0, np.nan, 2.0]))
    surrogate = dynamics.surrogate
    (missing,) = set(surrogate.step_noise) - {"x"}
    assert dynamics.moved == ("x",) and surrogate.varying == (True,)
    x = jax.tree.map(lambda leaf: leaf[1], dynamics.xs)
    spread = jax.jacfwd(lambda e: surrogate.step(jnp.float32(2.0), x, e).carry)(zeros(surrogate.step_noise))
    np.testing.assert_allclose(spread[missing], np.sqrt(2.0), rtol=0.05)
    np.testing.assert_allclose(surrogate.step(jnp.float32(2.0), x, zeros(surrogate.step_noise)).carry, 2.0, rtol=1e-5)

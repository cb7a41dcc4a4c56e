"""States that gradient engines sample where they are, and improper priors, against sums over grids and algebra."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from scipy import stats
from scipy.special import betaln, i0e, logsumexp

import ssmscan
from ssmscan.results.summary import summarise
from tests.truth import hmm_forward_backward, z_threshold

NUTS = ssmscan.NUTS(num_warmup=500, num_samples=1000, num_chains=4, progress=False)
TEMPERED = ssmscan.TemperedSMC(num_runs=8, num_paths=2000, progress=False)
KEYS = [0, pytest.param(1, marks=pytest.mark.heavy), pytest.param(2, marks=pytest.mark.heavy)]

FLAT = dist.ImproperUniform(constraints.real, (), ())


class Bare(dist.Distribution):
    """A normal law of which a user has written the density alone."""

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.real

    def __init__(self, loc, scale):
        self.loc, self.scale = loc, scale
        super().__init__(jnp.shape(loc), ())

    def log_prob(self, value):
        return dist.Normal(self.loc, self.scale).log_prob(value)


def z_scores(draws: dict[str, np.ndarray], truth: dict[str, np.ndarray], *, independent: bool = False) -> np.ndarray:
    """Errors of posterior means in standard errors; draws (chains, draws, ...), truth (...)."""
    found = []
    for name, expected in truth.items():
        statistics = [s.statistics[0] for s in _summaries(draws[name], independent)]
        found += [(s.value - e) / s.error for s, e in zip(statistics, np.ravel(expected), strict=True)]
    return np.abs(np.asarray(found))


def _summaries(draws: np.ndarray, independent: bool):
    flat = np.asarray(draws, float).reshape(*draws.shape[:2], -1)
    return [summarise(flat[..., k], independent_runs=independent) for k in range(flat.shape[-1])]


# ---- angles that pass from pi to -pi ----------------------------------------------------------------

ANGLES = np.array([2.2, 2.9, -2.7, -2.0, 3.1, -2.6], np.float32)
GRID = (np.arange(240) + 0.5) * 2 * np.pi / 240 - np.pi


def angles(y):
    kappa = numpyro.sample("kappa", dist.Gamma(8.0, 2.0))
    x_0 = numpyro.sample("x_0", dist.VonMises(2.0, 1.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.VonMises(x + 0.4, kappa))
        numpyro.sample("y", dist.VonMises(x, 3.0), obs=y)
        return x, x

    scan(transition, x_0, y)


def von_mises(x, kappa):
    return np.exp(kappa * (np.cos(x) - 1)) / (2 * np.pi * i0e(kappa))


def exact_angles() -> tuple[float, dict[str, np.ndarray]]:
    cell, kappas = GRID[1] - GRID[0], stats.gamma.ppf((np.arange(60) + 0.5) / 60, 8, scale=0.5)
    start = von_mises(GRID - 2.0, 1.0) * cell
    runs = []
    for kappa in kappas:
        move = von_mises(GRID[None] - GRID[:, None] - 0.4, kappa) * cell
        runs.append(hmm_forward_backward(start @ move, move, np.log(von_mises(ANGLES[:, None] - GRID, 3.0))))
    logs = np.array([run.log_likelihood for run in runs])
    weights = np.exp(logs - logsumexp(logs))
    smoothed = np.einsum("k,ktg->tg", weights, [run.smoothed for run in runs])
    directions = {"cos": smoothed @ np.cos(GRID), "sin": smoothed @ np.sin(GRID)}
    return float(logsumexp(logs) - np.log(len(kappas))), {"kappa": weights @ kappas, **directions}


def _directions(result) -> dict[str, np.ndarray]:
    return {"kappa": result.draws["kappa"], "cos": np.cos(result.states["x"]), "sin": np.sin(result.states["x"])}


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_angles_agree_with_a_grid(seed):
    ssm = ssmscan.trace(angles, ANGLES)
    assert {site.name: site.map for site in ssm.sites if site.map} == {
        "x_0": "sampler, in place",
        "x": "sampler, in place",
    }
    _, truth = exact_angles()
    z = z_scores(_directions(NUTS.run(jax.random.key(seed), ssm)), truth)
    assert z.max() < z_threshold(3 * len(z))


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_evidence_of_angles_agrees_with_a_grid(seed):
    evidence, truth = exact_angles()
    result = TEMPERED.run(jax.random.key(seed), ssmscan.trace(angles, ANGLES))
    assert abs(result.log_evidence - evidence) < z_threshold(3) * max(result.log_evidence_error, 0.01)
    z = z_scores(_directions(result), truth, independent=True)
    assert z.max() < 2 * z_threshold(3 * len(z))  # eight runs, t with seven degrees of freedom


# ---- increments from a mixture, its indicator summed by enumeration ---------------------------------

LEVELS = np.array([0.3, 0.1, 2.6, 2.2, 2.9], np.float32)


def jumps(y):
    p = numpyro.sample("p", dist.Beta(2.0, 6.0))

    def transition(x, y):
        moves = dist.Normal(x, jnp.array([0.3, 2.0]))
        x = numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(probs=jnp.stack([1 - p, p])), moves))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, x

    scan(transition, 0.0, y)


def exact_jumps() -> tuple[float, dict[str, np.ndarray]]:
    steps, logs, means, shares = len(LEVELS), [], [], []
    sums = np.tril(np.ones((steps, steps)))
    for jumped in itertools.product([0, 1], repeat=steps):
        covariance = sums @ np.diag(np.where(jumped, 4.0, 0.09)) @ sums.T
        of_data = covariance + 0.25 * np.eye(steps)
        k = sum(jumped)
        log_prior = betaln(2 + k, 6 + steps - k) - betaln(2, 6)
        logs.append(stats.multivariate_normal(np.zeros(steps), of_data).logpdf(LEVELS) + log_prior)
        means.append(covariance @ np.linalg.solve(of_data, LEVELS))
        shares.append((2 + k) / (8 + steps))
    weights = np.exp(logs - logsumexp(logs))
    return float(logsumexp(logs)), {"p": weights @ shares, "x": weights @ np.array(means)}


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_mixture_agrees_with_enumeration_on_three_engines(seed):
    ssm = ssmscan.trace(jumps, LEVELS)
    evidence, truth = exact_jumps()
    nuts, tempered = NUTS.run(jax.random.key(seed), ssm), TEMPERED.run(jax.random.key(seed), ssm)
    pmmh = ssmscan.PMMH(num_samples=10_000, progress=False).run(jax.random.key(seed), ssm)
    for result in (nuts, pmmh):
        z = z_scores({**result.draws, **result.states}, truth)
        assert z.max() < z_threshold(6 * len(z))
    assert abs(tempered.log_evidence - evidence) < z_threshold(3) * max(tempered.log_evidence_error, 0.01)


# ---- a state in place beside one that is summed out -------------------------------------------------

FIXES = np.array([[0.9, 0.2], [0.7, 0.6], [-0.8, 0.5], [-0.9, 0.1], [0.2, -1.1]], np.float32)
TURNS = np.array([0.5, 12.0])


def headings(y):
    stay = numpyro.sample("stay", dist.Beta(8.0, 3.0))
    move = jnp.stack([jnp.stack([stay, 1 - stay]), jnp.stack([1 - stay, stay])])

    def transition(carry, y):
        regime, x = carry
        regime = numpyro.sample("regime", dist.Categorical(probs=move[regime]))
        x = numpyro.sample("x", dist.VonMises(x, jnp.asarray(TURNS)[regime]))
        numpyro.sample("y", dist.Normal(jnp.stack([jnp.cos(x), jnp.sin(x)]), 0.4).to_event(1), obs=y)
        return (regime, x), x

    scan(transition, (0, 0.0), y)


def exact_headings() -> tuple[float, dict[str, np.ndarray]]:
    """A chain of 2 x 120 joint values of regime and heading."""
    grid = (np.arange(120) + 0.5) * 2 * np.pi / 120 - np.pi
    cell, stays = grid[1] - grid[0], stats.beta.ppf((np.arange(40) + 0.5) / 40, 8, 3)
    turn = np.stack([von_mises(grid[None] - grid[:, None], k) for k in TURNS]) * cell
    seen = stats.norm.logpdf(FIXES[:, None], np.stack([np.cos(grid), np.sin(grid)], 1), 0.4).sum(2)
    runs = []
    for stay in stays:
        regimes = np.array([[stay, 1 - stay], [1 - stay, stay]])
        move = np.einsum("ij,jab->iajb", regimes, turn).reshape(240, 240)
        first = np.einsum("j,ja->ja", regimes[0], np.stack([von_mises(grid, k) for k in TURNS]) * cell).ravel()
        runs.append(hmm_forward_backward(first, move, np.tile(seen, 2)))
    logs = np.array([run.log_likelihood for run in runs])
    weights = np.exp(logs - logsumexp(logs))
    smoothed = np.einsum("k,ktg->tg", weights, [run.smoothed for run in runs]).reshape(-1, 2, 120)
    angle = smoothed.sum(1)
    truth = {"stay": weights @ stays, "regime": smoothed[:, 1].sum(1)}
    return float(logsumexp(logs) - np.log(len(stays))), {
        **truth,
        "cos": angle @ np.cos(grid),
        "sin": angle @ np.sin(grid),
    }


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_state_in_place_beside_a_chain_that_is_summed_out(seed):
    ssm = ssmscan.trace(headings, FIXES)
    assert [site.name for site in ssm.summed_out] == ["regime"]
    evidence, truth = exact_headings()
    result, tempered = NUTS.run(jax.random.key(seed), ssm), TEMPERED.run(jax.random.key(seed), ssm)
    x = result.states["x"]
    z = z_scores({**result.draws, **result.states, "cos": np.cos(x), "sin": np.sin(x)}, truth)
    assert z.max() < z_threshold(3 * len(z))
    assert abs(tempered.log_evidence - evidence) < z_threshold(3) * max(tempered.log_evidence_error, 0.01)


# ---- improper priors and densities alone: Gaussian algebra ------------------------------------------

SERIES = np.array([10.3, 11.0, 12.4, 12.1, 13.8, 15.0], np.float32)


def flat_start(y, normal=Bare):
    b = numpyro.sample("b", FLAT)
    x_0 = numpyro.sample("x_0", FLAT)

    def transition(x, y):
        x = numpyro.sample("x", normal(x + b, 0.8))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, x

    scan(transition, x_0, y)


def exact_flat(y: np.ndarray) -> dict[str, np.ndarray]:
    """The precision of (b, x_0, ..., x_T) is that of least squares."""
    steps = len(y)
    moves = np.zeros((steps, steps + 2))
    moves[:, 0], moves[:, 2:] = -1, np.eye(steps)
    moves[np.arange(steps), 1 + np.arange(steps)] = -1
    sees = np.eye(steps, steps + 2, 2)
    precision = moves.T @ moves / 0.64 + sees.T @ sees / 0.25
    mean = np.linalg.solve(precision, sees.T @ y / 0.25)
    return {"b": mean[0], "x_0": mean[1], "x": mean[2:], "variance": np.diag(np.linalg.inv(precision))[0]}


@pytest.mark.slow
@pytest.mark.parametrize("seed", KEYS)
def test_flat_priors_and_a_density_without_a_sampler_agree_with_least_squares(seed):
    ssm = ssmscan.trace(flat_start, SERIES)
    assert {site.name: site.map for site in ssm.sites if site.map} == {"x_0": "in place", "x": "in place"}
    assert ssm.check(jax.random.key(seed)).passed
    truth = exact_flat(SERIES)
    result = NUTS.run(jax.random.key(seed), ssm)
    draws = {**result.draws, **result.states, "variance": (result.draws["b"] - truth["b"]) ** 2}
    z = z_scores(draws, truth)
    assert z.max() < z_threshold(3 * len(z))


def start_known(y):
    b = numpyro.sample("b", FLAT)

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(x + b, 0.8))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, x

    scan(transition, 9.0, y)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_particles_take_a_flat_parameter(seed):
    ssm = ssmscan.trace(start_known, SERIES)
    steps = np.arange(1, len(SERIES) + 1)
    covariance = 0.64 * np.minimum(steps[:, None], steps) + 0.25 * np.eye(len(SERIES))
    weights = np.linalg.solve(covariance, steps)
    b = weights @ (SERIES - 9.0) / (weights @ steps)
    result = ssmscan.PMMH(num_samples=10_000, progress=False).run(jax.random.key(seed), ssm)
    assert z_scores(result.draws, {"b": b}).max() < z_threshold(3)
    pytest.importorskip("optax")
    found = ssmscan.MaximumLikelihood(num_steps=300, progress=False).run(jax.random.key(seed), ssm)
    assert abs(found.theta["b"] - b) < 0.1 * (weights @ steps) ** -0.5


def test_a_filter_takes_a_flat_parameter_and_others_say_why_they_do_not():
    ssm = ssmscan.trace(start_known, SERIES)
    found = ssmscan.log_likelihood(jax.random.key(0), ssm, {"b": 1.0}, num_particles=2000)
    steps = np.arange(1, len(SERIES) + 1)
    covariance = 0.64 * np.minimum(steps[:, None], steps) + 0.25 * np.eye(len(SERIES))
    expected = stats.multivariate_normal(9.0 + steps, covariance).logpdf(SERIES)
    assert abs(found - expected) < 0.5
    with pytest.raises(ssmscan.ModelError, match="'b'.*Tempered SMC"):
        TEMPERED.run(jax.random.key(0), ssm)
    flat = ssmscan.trace(flat_start, SERIES)
    states = "state.*'x_0' .*'x' .*NUTS samples"
    with pytest.raises(ssmscan.ModelError, match=states):
        ssmscan.PMMH().run(jax.random.key(0), flat)
    with pytest.raises(ssmscan.ModelError, match=states):
        ssmscan.MaximumLikelihood().run(jax.random.key(0), flat)
    with pytest.raises(ssmscan.ModelError, match=states):
        flat.simulate(jax.random.key(0), {"b": 1.0})

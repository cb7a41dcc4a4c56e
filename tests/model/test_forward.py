"""Sums over the paths of a finite chain, against sums over all paths one by one."""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from ssmscan.model.discrete.forward_backward import (
    FEW,
    Chain,
    Moves,
    forward,
    log_likelihood,
    log_likelihood_by_smoothing,
    log_sum_exp,
    plain_moves,
    sample,
    smooth,
)
from tests.truth import hmm_forward_backward, z_threshold

pytestmark = pytest.mark.slow

J, K, T = 2, 3, 5
PLAIN = plain_moves(J, K)
# Five values: 2 is reached by more moves than the others, 4 by those of the last step and no other.
UNEVEN = Moves(np.array([[0, 1, 2], [2, 2, 0]]), np.array([[0, 1, 2], [2, 3, 0], [2, 2, 1], [3, 0, 2], [-1, -1, -1]]))
BOTH = pytest.mark.parametrize("moves", [PLAIN, UNEVEN], ids=["the last draw", "a memory"])


def random_chain(*, varying: bool, moves: Moves = PLAIN, seed: int = 0) -> Chain:
    draw = np.random.default_rng(seed).normal
    S = len(moves.after)
    shapes = {"start": (J,), "first": (J, K), "constant": (S, K), "varying": (T - 1, S, K), "emission": (T, K)}
    arrays = {name: jnp.asarray(2 * draw(size=shape), float) for name, shape in shapes.items()}
    return Chain(**{**arrays, "varying": arrays["varying"] if varying else None})


def paths_of(chain: Chain, moves: Moves = PLAIN) -> tuple[np.ndarray, np.ndarray]:
    """All paths (J K^T, 1 + T) of draws and the log-weight of each."""
    start, first, constant, emission = (np.asarray(a, np.float64) for a in (*chain[:3], chain.emission))
    between = np.repeat(constant[None], T - 1, 0) + (0 if chain.varying is None else np.asarray(chain.varying))
    paths = np.array(list(itertools.product(range(J), *[range(K)] * T)))
    logs = start[paths[:, 0]] + first[paths[:, 0], paths[:, 1]] + emission[0, paths[:, 1]]
    memory = moves.first[paths[:, 0], paths[:, 1]]
    for t in range(1, T):
        logs = logs + emission[t, paths[:, t + 1]] + between[t - 1, memory, paths[:, t + 1]]
        memory = moves.after[memory, paths[:, t + 1]]
    return paths, logs


def used(paths, logs, moves: Moves) -> np.ndarray:
    """Probability that each later step makes each move, (T - 1, S, K)."""
    weights, memory = np.exp(logs - logsumexp(logs)), moves.first[paths[:, 0], paths[:, 1]]
    table = np.zeros((T - 1, *moves.after.shape))
    for t in range(1, T):
        np.add.at(table[t - 1], (memory, paths[:, t + 1]), weights)
        memory = moves.after[memory, paths[:, t + 1]]
    return table


def marginal(paths, logs, *columns) -> np.ndarray:
    shape = [J if c == 0 else K for c in columns]
    table = np.zeros(shape)
    np.add.at(table, tuple(paths[:, c] for c in columns), np.exp(logs - logsumexp(logs)))
    return table


@BOTH
@pytest.mark.parametrize("varying", [False, True])
def test_likelihood_and_smoothing_are_the_sums_over_all_paths(varying, moves):
    chain = random_chain(varying=varying, moves=moves)
    paths, logs = paths_of(chain, moves)
    filtered = jax.jit(partial(forward, moves=moves))(chain)
    np.testing.assert_allclose(filtered.log_likelihood, logsumexp(logs), rtol=1e-5)
    smoothed = jax.jit(partial(smooth, moves=moves))(chain, filtered)
    np.testing.assert_allclose(smoothed.start, marginal(paths, logs, 0), atol=1e-6)
    np.testing.assert_allclose(smoothed.steps, [marginal(paths, logs, t + 1) for t in range(T)], atol=2e-6)


@BOTH
@pytest.mark.parametrize("varying", [False, True])
def test_the_gradient_is_the_expected_number_of_uses_of_each_weight(varying, moves):
    """Of log Z in the log-weight of a move it is the posterior probability of the move."""
    chain = random_chain(varying=varying, moves=moves)
    paths, logs = paths_of(chain, moves)
    grad = jax.jit(jax.grad(partial(log_likelihood_by_smoothing, moves=moves)))(chain)
    table = used(paths, logs, moves)
    np.testing.assert_allclose(grad.constant, table.sum(0), atol=1e-5)
    np.testing.assert_allclose(grad.first, marginal(paths, logs, 0, 1), atol=1e-5)
    np.testing.assert_allclose(grad.emission, [marginal(paths, logs, t + 1) for t in range(T)], atol=1e-5)
    np.testing.assert_allclose(grad.start, marginal(paths, logs, 0), atol=1e-5)
    if varying:
        np.testing.assert_allclose(grad.varying, table, atol=1e-5)
    through_the_loop = jax.jit(jax.grad(partial(log_likelihood, moves=moves)))(chain)
    for one, other in zip(jax.tree.leaves(grad), jax.tree.leaves(through_the_loop)):
        np.testing.assert_allclose(one, other, atol=1e-5)


@BOTH
def test_forward_mode_and_second_derivatives(moves):
    chain = random_chain(varying=False, moves=moves)

    def along(likelihood, s):
        return likelihood(chain._replace(emission=s * chain.emission), moves=moves)

    both = [jax.jit(jax.hessian(partial(along, f)))(1.0) for f in (log_likelihood_by_smoothing, log_likelihood)]
    np.testing.assert_allclose(*both, rtol=1e-4)


def test_many_values_have_the_gradient_of_the_backward_pass():
    uniform = Chain(jnp.zeros(1), jnp.zeros((1, FEW + 1)), jnp.zeros((FEW + 1,) * 2), None, jnp.zeros((3, FEW + 1)))
    likelihood = partial(log_likelihood, moves=plain_moves(1, FEW + 1))
    assert "custom_jvp_call" in str(jax.make_jaxpr(likelihood)(uniform))
    np.testing.assert_allclose(likelihood(uniform), 3 * np.log(FEW + 1), rtol=1e-6)


@BOTH
@pytest.mark.parametrize("varying", [False, True])
def test_sampled_paths_have_the_marginals_and_the_pair_marginals_of_the_posterior(varying, moves):
    chain, count = random_chain(varying=varying, moves=moves), 40_000
    paths, logs = paths_of(chain, moves)
    filtered = forward(chain, moves)
    draw = jax.jit(jax.vmap(lambda key: sample(key, chain, filtered, moves)))
    start, steps = draw(jax.random.split(jax.random.key(1), count))
    drawn = np.column_stack([start, steps])
    columns = [*[(t,) for t in range(T + 1)], *[(t, t + 1) for t in range(T)], (0, T), (1, T)]
    errors = []
    for at in columns:
        exact = marginal(paths, logs, *at)
        found = marginal(drawn, np.zeros(count), *at)
        sure = exact * (1 - exact) < 1e-9
        np.testing.assert_allclose(found[sure], exact[sure], atol=1e-6)
        errors.append(((found - exact) / np.sqrt(exact * (1 - exact) / count))[~sure].ravel())
    errors = np.concatenate(errors)
    assert np.abs(errors).max() < z_threshold(len(errors))


def test_one_step_has_nothing_between():
    chain = random_chain(varying=False)
    chain = chain._replace(emission=chain.emission[:1])
    filtered = forward(chain, PLAIN)
    joint = np.asarray(chain.start[:, None] + chain.first + chain.emission[0], np.float64)
    np.testing.assert_allclose(filtered.log_likelihood, logsumexp(joint), rtol=1e-5)
    np.testing.assert_allclose(
        smooth(chain, filtered, PLAIN).start, np.exp(logsumexp(joint, 1) - logsumexp(joint)), rtol=1e-5
    )
    assert sample(jax.random.key(0), chain, filtered, PLAIN)[1].shape == (1,)


@pytest.mark.parametrize("likelihood", [log_likelihood, log_likelihood_by_smoothing])
def test_impossible_moves_have_gradient_zero_and_impossible_data_likelihood_zero(likelihood):
    chain = random_chain(varying=False)
    impossible = jnp.asarray([[True, False, False], [True, True, False], [False, True, True]])
    chain = chain._replace(constant=jnp.where(impossible, -jnp.inf, chain.constant))
    paths, logs = paths_of(chain)
    gradient = jax.jit(jax.value_and_grad(partial(likelihood, moves=PLAIN)))
    value, grad = gradient(chain)
    np.testing.assert_allclose(value, logsumexp(logs), rtol=1e-5)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grad))
    np.testing.assert_array_equal(grad.constant[impossible], 0.0)

    nothing = chain._replace(emission=chain.emission.at[2].set(-jnp.inf))
    value, grad = gradient(nothing)
    assert value == -jnp.inf
    assert not any(np.any(np.isnan(leaf)) for leaf in jax.tree.leaves(grad))


def test_a_nan_is_not_hidden():
    chain = random_chain(varying=False)
    assert np.isnan(forward(chain._replace(emission=chain.emission.at[2, 1].set(jnp.nan)), PLAIN).log_likelihood)
    assert log_sum_exp(jnp.array([-jnp.inf, 0.0]), 0) == 0.0


def test_two_thousand_steps_in_single_precision():
    rng, length = np.random.default_rng(2), 2000
    transition = rng.dirichlet(np.full(4, 0.5), size=4)
    likelihood = 3.0 * rng.normal(size=(length, 4))
    truth = hmm_forward_backward(transition[0], transition, likelihood)
    log_transition = jnp.log(jnp.asarray(transition, jnp.float32))
    chain = Chain(jnp.zeros(1), log_transition[:1], log_transition, None, jnp.asarray(likelihood, jnp.float32))
    moves = plain_moves(1, 4)
    filtered = jax.jit(partial(forward, moves=moves))(chain)
    np.testing.assert_allclose(filtered.log_likelihood, truth.log_likelihood, rtol=1e-6)
    np.testing.assert_allclose(np.exp(filtered.log_filter), truth.filtered, atol=2e-5)
    np.testing.assert_allclose(jax.jit(partial(smooth, moves=moves))(chain, filtered).steps, truth.smoothed, atol=2e-5)

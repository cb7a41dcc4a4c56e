r"""The posterior with the noise outside the loop: what gradient engines sample.

With unconstrained parameters z and base noise e of all innovations and initial states, the model is

.. math:: \pi(z, e) \propto p(\theta(z)) \, |d\theta/dz| \; \prod_i N(e_i; 0, 1) \; L(\theta, e),

a *reference* (prior of the parameters, standard normal noise) times a likelihood L that includes the observed
sites the loop does not reach, the corrections of inexact noise maps, and what a mask or a scale makes of a prior:
the reference is the law that prior draws have.  NUTS samples the product; tempering
raises L alone to a power.  A point is the pair ``Position(parameters, noise)``.

Papaspiliopoulos, Roberts, Skoeld (2007), *Statistical Science* 22(1), 59-73, on why non-centring mixes well
where data are weak; with very informative observations the states are better sampled as they are.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from ssmscan.inference.interrupts import hold_interrupts, interruptible
from ssmscan.inference.progress import compile_chunk, phase, run_chunks
from ssmscan.inference.settings import doubts_of_paths

Theta = dict[str, jax.Array]

STATES_STREAM = 2**32 - 1
"""What is folded into the key of a run to draw discrete states; the run itself uses the small numbers."""

BATCH = 64


class Position(NamedTuple):
    """A point of the noise-outside space.

    Attributes:
        parameters: site name -> unconstrained value.
        noise: site name -> standard normal base noise, (T, ...) for sites in the loop.
    """

    parameters: Theta
    noise: Theta


def log_reference(ssm: Any, position: Position) -> jax.Array:
    """Evaluate the log density of what `sample_reference` draws, normalised."""
    log_law, _ = ssm.log_law_unconstrained(position.parameters)
    leaves = jax.tree.leaves(position.noise)
    return log_law + sum((norm.logpdf(leaf).sum() for leaf in leaves), jnp.zeros_like(log_law))


def log_likelihood(ssm: Any, position: Position) -> jax.Array:
    """Evaluate log L, everything that is not the reference."""
    _, reweighting = ssm.log_law_unconstrained(position.parameters)
    return ssm.log_likelihood_given_noise(ssm.constrain(position.parameters), position.noise) + reweighting


def log_posterior(ssm: Any, position: Position) -> jax.Array:
    """Evaluate the unnormalised log density of the posterior."""
    return log_reference(ssm, position) + log_likelihood(ssm, position)


def sample_noise(key: jax.Array, ssm: Any) -> Theta:
    """Draw the base noise of one whole series."""
    specs = ssm.smooth_noise
    keys = jax.random.split(key, max(len(specs), 1))
    return {name: jax.random.normal(k, spec.shape) for k, (name, spec) in zip(keys, specs.items())}


def num_coordinates(ssm: Any) -> int:
    """Count the coordinates of a point; none are left where a model has no parameters and its states are summed out."""
    shapes = jax.eval_shape(lambda: sample_reference(jax.random.key(0), ssm))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def sample_reference(key: jax.Array, ssm: Any) -> Position:
    """Draw from the prior of z and the noise."""
    key_parameters, key_noise = jax.random.split(key)
    return Position(ssm.unconstrain(ssm.sample_prior(key_parameters)), sample_noise(key_noise, ssm))


class Paths(NamedTuple):
    """State paths of some draws.

    Attributes:
        states: initial sites, innovations and deterministics of the loop, (chains, paths, ...).
        draws: (paths,) the draws they belong to.
        probabilities: discrete site that is summed out -> (T, *shape, values), or (*shape, values) for an
            initial site: the posterior probability of each of its values, averaged over these draws.
        compile_seconds: time spent tracing and compiling.
        seconds: time spent making them.
        interrupted: whether Control-C came before all were made.
        failure: what else ended it, empty if nothing did.
    """

    states: dict[str, np.ndarray]
    draws: np.ndarray
    probabilities: dict[str, np.ndarray]
    compile_seconds: float = 0.0
    seconds: float = 0.0
    interrupted: bool = False
    failure: str = ""

    def doubts(self, wanted: int) -> tuple[str, ...]:
        """Return what to say of paths that were wanted and not made."""
        return doubts_of_paths(
            len(self.draws),
            wanted,
            interrupted=self.interrupted,
            failure=self.failure,
            advice="Use fewer of them, num_paths.",
        )


class BatchOfPaths(NamedTuple):
    """States of the draws of a batch (b, ...), and their probabilities summed over the `real` draws in it."""

    states: dict[str, jax.Array]
    probabilities: dict[str, jax.Array]
    real: jax.Array


@dataclass(frozen=True)
class PathsStep:
    """The paths of one batch; see `ssmscan.inference.progress.Step`.

    The operand is (ssm, keys, theta, noise, weights), all but the model (batches, b, ...): one batch at a time, for
    all at once would hold every carry of every draw.  The state is the number of the batch.
    """

    def __call__(self, operand: tuple, number: jax.Array) -> tuple[jax.Array, BatchOfPaths]:
        """Make the paths of one batch."""
        ssm, *batches = operand
        keys, theta, noise, weights = jax.tree.map(lambda leaf: leaf[number], batches)
        found = jax.vmap(lambda key, *pair: ssm.posterior_states(*pair, key))(keys, theta, noise)
        sums = jax.tree.map(lambda p: jnp.tensordot(weights, p, 1), found.probabilities)
        return number + 1, BatchOfPaths(found.states, sums, weights.sum())


def state_paths(
    key: jax.Array, ssm: Any, draws: Any, noise: Any, kept: np.ndarray, *, num_chains: int, progress: bool = False
) -> Paths:
    """Rebuild the state paths of some draws; discrete states that are summed out are drawn.

    The draws are worth more than the paths: Control-C ends it with those made by then, and a failure, such as too
    little memory, without any.

    Args:
        key: typed PRNG key of the discrete states.
        ssm: the model.
        draws: parameters, (chains, draws, ...).
        noise: base noise, (chains, draws, ...).
        kept: (paths,) the draws wanted.
        num_chains: the number of chains, which a model without parameters and noise does not show.
        progress: whether to show what is under way.
    """
    with hold_interrupts():
        batches = Batches(num_chains, len(kept))
        step, first, began = PathsStep(), jnp.zeros((), jnp.int32), time.perf_counter()
        inputs = jax.tree.map(lambda leaf: batches.split(np.asarray(leaf)[:, kept]), (draws, noise))
        weights = jnp.asarray(batches.real, jnp.result_type(float))
        operand = (ssm, jax.random.split(key, weights.shape), *inputs, weights)
        try:
            with phase("state paths: compiling", progress=progress), interruptible():
                if not len(kept):
                    shapes = jax.eval_shape(step, operand, first)[1].states
                    states = {name: np.zeros((num_chains, 0, *s.shape[1:]), s.dtype) for name, s in shapes.items()}
                    return Paths(states, kept, {}, time.perf_counter() - began)
                chunk = compile_chunk(step, operand, first)
        except KeyboardInterrupt:
            return Paths({}, kept[:0], {}, time.perf_counter() - began, interrupted=True)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}".rstrip(".")
            return Paths({}, kept[:0], {}, time.perf_counter() - began, failure=failure)
        run = run_chunks(chunk, operand, first, batches.number, label="state paths", progress=progress, leave=False)
        states, total = run.outputs.states, run.outputs.real.sum()
        sums = run.outputs.probabilities if run.done else {}
        return Paths(
            {name: batches.join(values) for name, values in states.items()},
            kept[: batches.draws_in(run.done)],
            {name: values.sum(0) / total for name, values in sums.items()},
            chunk.compile_seconds,
            run.seconds,
            run.interrupted,
        )


@dataclass(frozen=True)
class Batches:
    """Draws (chains, draws, ...) cut into batches (batches, b, ...) of whole draws of all chains, the last filled up.

    Draw follows draw, so that whatever number of batches is made holds the first draws of every chain.
    """

    num_chains: int
    num_draws: int

    @property
    def draws_each(self) -> int:
        """Draws of each chain in a batch."""
        return max(min(BATCH // self.num_chains, self.num_draws), 1)

    @property
    def number(self) -> int:
        """Number of batches."""
        return max(-(-self.num_draws // self.draws_each), 1)

    @property
    def real(self) -> np.ndarray:
        """Which elements of the batches are draws, (batches, b)."""
        shape = self.number, self.draws_each * self.num_chains
        return np.arange(shape[0] * shape[1]).reshape(shape) < self.num_draws * self.num_chains

    def draws_in(self, number: int) -> int:
        """Return how many draws of each chain that many batches hold."""
        return min(number * self.draws_each, self.num_draws)

    def split(self, leaf: np.ndarray) -> jax.Array:
        """Cut draws into batches, which are filled up with the last draw, or zeros where there is none."""
        shape = self.number * self.draws_each, self.num_chains, *leaf.shape[2:]
        filled = np.zeros(shape, leaf.dtype)
        if self.num_draws:
            filled[:] = np.swapaxes(leaf, 0, 1)[np.minimum(np.arange(shape[0]), self.num_draws - 1)]
        return jnp.asarray(filled.reshape(self.number, self.draws_each * self.num_chains, *leaf.shape[2:]))

    def join(self, leaf: np.ndarray) -> np.ndarray:
        """Join the first so many batches into draws again."""
        draws = leaf.reshape(len(leaf) * self.draws_each, self.num_chains, *leaf.shape[2:])
        return np.swapaxes(draws[: self.draws_in(len(leaf))], 0, 1)

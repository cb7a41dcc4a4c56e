r"""Is a sweep of particle Gibbs exact?  From exact draws it must stay exact, whatever N.

Draw theta and states from the prior and data from the states: (theta, states) is then an exact draw of *their*
posterior (Geweke 2004, *JASA* 99, section 3).  Make K sweeps with N particles on those data, with kernels that do not
adapt: any function of (theta, states, data) has the same expectation before and after.  Nothing else is needed, for the
state of the chain is a point of the posterior; differences are paired.

Sweeps with one thing wrong must fail the same test.  `python -m tests.inference.exact_gibbs` prints the table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.inference import gibbs_sweep
from ssmscan.inference.gibbs_kernels import BlackJAXKernel, NUTSKernel, ParameterKernel
from ssmscan.inference.gibbs_sweep import Chain, Sweep, latent
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.state_values import log_joint
from ssmscan.particles.conditional import ConditionalPath, ConditionalSMC
from ssmscan.particles.draws import as_key
from ssmscan.particles.filter import ParticleFilter
from tests.inference.exactness import replaced

STEP_SIZE, SWEEPS = 0.6, 5
NUM_STEPS, NOISE = 6, 0.5
"""Noise of the data, with which parameters move both with states and with noise held."""


def linear(y):
    """x_0 ~ N(1, 1), x_t - 1 = 0.8 (x_{t-1} - 1) + theta e_t, y_t = x_t + 0.5 v_t; theta is a scale."""
    theta = numpyro.sample("theta", dist.LogNormal(0.0, 0.75))
    x_0 = numpyro.sample("x_0", dist.Normal(1.0, 1.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(1.0 + 0.8 * (x - 1.0), theta))
        numpyro.sample("y", dist.Normal(x, NOISE), obs=y)
        return x, None

    scan(transition, x_0, y)


def linear_functions(theta: dict, states: dict, y: jax.Array) -> dict[str, jax.Array]:
    """Return functions of a draw of the linear model, whose parameter is a scale."""
    q, x = theta["theta"], states["x"]
    before = jnp.concatenate([states["x_0"][None], x[:-1]])
    return {
        "theta": q,
        "log theta": jnp.log(q),
        "theta |y|^2": q * jnp.sum(y**2),
        "theta x_T": q * x[-1],
        "log |noise|^2": jnp.log(jnp.sum(((x - 0.2 - 0.8 * before) / q) ** 2)),
        "(y_T - x_T)^2": (y[-1] - x[-1]) ** 2,
    }


def regimes(y):
    """Three regimes that stay with probability theta; means -1, 0, 1 and an unknown sd."""
    stay = numpyro.sample("stay", dist.Beta(4.0, 2.0))
    sd = numpyro.sample("sd", dist.LogNormal(-0.5, 0.5))
    rows = jnp.full((3, 3), 0.5) * (1.0 - stay) + jnp.eye(3) * (1.5 * stay - 0.5)
    z_0 = numpyro.sample("z_0", dist.Categorical(probs=jnp.full(3, 1 / 3)))

    def transition(z, y):
        z = numpyro.sample("z", dist.Categorical(probs=rows[z]))
        numpyro.sample("y", dist.Normal(z - 1.0, sd), obs=y)
        return z, None

    scan(transition, z_0, y)


def regime_functions(theta: dict, states: dict, y: jax.Array) -> dict[str, jax.Array]:
    """Return functions of a draw of the model with regimes."""
    path = jnp.concatenate([states["z_0"][None], states["z"]])
    return {
        "stay": theta["stay"],
        "log sd": jnp.log(theta["sd"]),
        "moves": jnp.mean(path[1:] != path[:-1]),
        "stay moves": theta["stay"] * jnp.mean(path[1:] != path[:-1]),
        "z_0 = z_1": 1.0 * (path[0] == path[1]),
        "(y_T - z_T)^2": (y[-1] - path[-1] + 1.0) ** 2,
    }


@dataclass(frozen=True)
class PlainFilter:
    """Draws the path from a filter that does not know the reference: not conditional SMC."""

    num_particles: int

    def run(self, key: jax.Array, ssm: StateSpaceModel, theta: dict, path: dict) -> ConditionalPath:
        """Forget the path."""
        found = ParticleFilter(self.num_particles, summaries=()).sample_path(key, ssm, theta)
        right = ConditionalSMC(self.num_particles).run(key, ssm, theta, path)
        return right._replace(states={**right.states, **found.states})


@contextmanager
def states_left_behind() -> Iterator[None]:
    """Move theta with the noise held, and leave the states where they were."""
    thetas: list[dict] = []
    noise_of, states_of = gibbs_sweep.noise_from_states, StateSpaceModel.states_from_noise

    def remember(ssm: StateSpaceModel, theta: dict, states: dict) -> dict:
        thetas.append(theta)
        return noise_of(ssm, theta, states)

    def forget(ssm: StateSpaceModel, theta: dict, noise: dict) -> dict:
        return states_of(ssm, thetas[-1], noise)

    with (
        replaced(gibbs_sweep, "noise_from_states", remember),
        replaced(StateSpaceModel, "states_from_noise", forget),
    ):
        yield


def without_jacobian() -> Any:
    """Use the prior density of theta where that of z is due."""

    def wrong(ssm: StateSpaceModel, unit: dict, states: dict) -> Callable:
        def density(u: dict) -> jax.Array:
            theta = ssm.constrain(gibbs_sweep.in_units(u, unit))
            return ssm.log_prior(theta) + log_joint(ssm, theta, states)

        return density

    return replaced(gibbs_sweep, "given_states", wrong)


class Case(NamedTuple):
    """A sweep under test: the model, its functions, how states and parameters are moved, and what is planted."""

    model: Callable
    functions: Callable
    conditional: Any
    interweave: bool = True
    kernel: ParameterKernel = NUTSKernel(max_tree_depth=3)
    plant: Callable[[], Any] = nullcontext
    right: bool = True


def langevin(log_density: Callable, step_size: jax.Array, inverse_mass: jax.Array) -> Any:
    """Build BlackJAX's MALA."""
    import blackjax

    return blackjax.mala(log_density, step_size)


MALA = BlackJAXKernel(langevin)
LINEAR, REGIMES = (linear, linear_functions), (regimes, regime_functions)
CASES = {
    **{f"right, N = {n}": Case(*LINEAR, ConditionalSMC(n)) for n in (2, 4, 8)},
    "right, states held alone": Case(*LINEAR, ConditionalSMC(4), interweave=False),
    "right, no ancestor sampling": Case(*LINEAR, ConditionalSMC(4, backward=ssmscan.Ancestral())),
    "right, BlackJAX": Case(*LINEAR, ConditionalSMC(4), kernel=MALA),
    "right, looks ahead": Case(*LINEAR, ConditionalSMC(4, proposal=ssmscan.LookAhead())),
    "right, three regimes": Case(*REGIMES, ConditionalSMC(3), interweave=False),
    "path of a plain filter": Case(*LINEAR, PlainFilter(4), right=False),
    "path of a plain filter, regimes": Case(*REGIMES, PlainFilter(3), interweave=False, right=False),
    "states left behind": Case(*LINEAR, ConditionalSMC(2), plant=states_left_behind, right=False),
    "missing Jacobian": Case(*LINEAR, ConditionalSMC(4), plant=without_jacobian, right=False),
}


@partial(jax.jit, static_argnames=("name", "num_replicates"))
def differences(key: jax.Array, ssm: StateSpaceModel, *, name: str, num_replicates: int) -> dict[str, jax.Array]:
    """Return after minus before for each function, (num_replicates,)."""
    case = CASES[name]
    sweep = Sweep(case.conditional, case.kernel, case.interweave, 0)

    def one(key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(key, 3)
        theta = ssm.sample_prior(keys[0])
        drawn = ssm.simulate(keys[1], theta)
        y = drawn["y"]
        data = jax.tree.map(lambda leaf: y if leaf.shape == y.shape else leaf, ssm)
        z = data.unconstrain(theta)
        unit = jax.tree.map(jnp.ones_like, z)
        own = case.kernel.begin(keys[2], z, 0)
        own = own._replace(scales=own.scales._replace(step_size=jnp.full((), STEP_SIZE)))
        zero, known = jnp.zeros((), jnp.int32), (own,) * (1 + case.interweave)
        chain = Chain(keys[2], z, latent(data, drawn), known, zero, jnp.zeros(NUM_STEPS))

        def step(chain: Chain, _: None) -> tuple[Chain, None]:
            return sweep.advance(data, unit, chain)[0], None

        after, _ = jax.lax.scan(step, chain, None, length=SWEEPS)
        found = case.functions(data.constrain(after.u), after.states, y)
        return jax.tree.map(jnp.subtract, found, case.functions(theta, drawn, y))

    with case.plant():
        return jax.lax.map(one, jax.random.split(as_key(jax.random.key_data(key)), num_replicates))


def z_scores(seed: int, name: str, num_replicates: int) -> dict[str, float]:
    """Return the z-score of each paired difference under one sweep."""
    ssm = ssmscan.trace(CASES[name].model, np.zeros(NUM_STEPS))
    found = differences(jax.random.key(seed), ssm, name=name, num_replicates=num_replicates)
    found = {label: np.asarray(x, np.float64) for label, x in found.items()}
    return {k: float(x.mean() / (x.std(ddof=1) / np.sqrt(num_replicates))) for k, x in found.items()}


def main(num_replicates: int = 20_000, names: tuple[str, ...] = ()) -> None:
    """Print the table."""
    print(f"T = {NUM_STEPS}, {SWEEPS} sweeps, {num_replicates} replicates; z-scores of keys 0, 1, 2")
    for name in names or CASES:
        for seed in range(3):
            row = z_scores(seed, name, num_replicates)
            print(f"{name:32}" + "".join(f"  {label} {value:7.2f}" for label, value in row.items()), flush=True)


if __name__ == "__main__":
    main(names=tuple(sys.argv[1:]))

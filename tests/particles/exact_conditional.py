"""Conditional SMC from exact draws: it must leave the law of (states, data) as it is.

    python -m tests.particles.exact_conditional [--keys 0 1 2] [--replicates 20000]

States and data are simulated together, so that the states are an exact draw given the data whatever these are.  After
some updates the joint law must be the same.  Of every statistic (first and second moments of neighbours and of states
with data; frequencies of values and of pairs of neighbours) the mean over replicates of its change is compared with
zero.  Broken kernels must fail.
"""

import argparse
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.particles import conditional_step
from ssmscan.particles.proposals import Bootstrap
from tests.truth import z_threshold

LENGTH, UPDATES, UPDATES_OF_BROKEN = 5, 3, 10


def linear(y):
    """Correlated states, precise data: neighbours tell each other much."""
    x0 = numpyro.sample("x0", dist.Normal(0.0, 1.0))

    def step(x, y):
        x = numpyro.sample("x", dist.Normal(0.9 * x, 0.6))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, None

    scan(step, x0, y)


def hidden_markov(y):
    """Three states, unevenly visited."""
    rows = jnp.array([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.1, 0.3, 0.6]])
    x0 = numpyro.sample("x0", dist.Categorical(jnp.array([0.5, 0.3, 0.2])))

    def step(x, y):
        x = numpyro.sample("x", dist.Categorical(rows[x]))
        numpyro.sample("y", dist.Normal(jnp.array([-1.0, 0.3, 1.5])[x], 0.7), obs=y)
        return x, None

    scan(step, x0, y)


def accumulated(y):
    """A level that accumulates what is drawn: no other parent leads to the same carry."""

    def step(level, y):
        move = numpyro.sample("x", dist.Normal(0.0, 0.6))
        level = level + move
        numpyro.sample("y", dist.Normal(level, 0.5), obs=y)
        return level, None

    scan(step, 0.3, y)


MODELS = {"linear": linear, "hidden Markov": hidden_markov, "accumulated": accumulated}
BACKWARD = {
    "none": ssmscan.Ancestral(),
    "ancestor": ssmscan.AncestorSampling(),
    "backward": ssmscan.BackwardSampling(),
}
SCHEMES = {s.__name__: s for s in (ssmscan.multinomial, ssmscan.systematic, ssmscan.stratified, ssmscan.killing)}


def design():
    """The cells: model, number of particles, scheme, backward, proposal."""
    cells = []
    for i, scheme in enumerate(SCHEMES):
        for j, backward in enumerate(BACKWARD):
            for k, proposal in enumerate(("bootstrap", "look-ahead")):
                cells.append(("linear", (2, 4)[(i + j + k) % 2], scheme, backward, proposal))
            cells.append(("hidden Markov", (2, 4)[(i + j + 1) % 2], scheme, backward, "bootstrap"))
    cells += [("accumulated", 3, "systematic", backward, "bootstrap") for backward in BACKWARD]
    return [*cells, ("accumulated", 3, "stratified", "ancestor", "look-ahead")]


PROPOSALS = {"bootstrap": Bootstrap(), "look-ahead": ssmscan.LookAhead(defence=0.2)}


# ---- broken kernels --------------------------------------------------------------------------------


def _without_slot(scheme):
    """Ordinary ancestors, the first of which is overwritten."""

    def broken(key, weights, n, pinned):
        return scheme(key, weights, n).at[0].set(pinned), jnp.int32(0)

    def ordinary(key, weights, n):
        return scheme(key, weights, n)

    ordinary.conditional = broken
    return ordinary


def _with_threshold(scheme):
    """Resampling only where the effective sample size is small, the reference keeping its place."""

    def broken(key, weights, n, pinned):
        needed = 1 / jnp.sum(weights**2) < 0.7 * n
        ancestors, slot = scheme.conditional(key, weights, n, pinned)
        keep = jnp.arange(n, dtype=jnp.int32)
        return jnp.where(needed, ancestors, keep), jnp.where(needed, slot, pinned)

    def ordinary(key, weights, n):
        return scheme(key, weights, n)

    ordinary.conditional = broken
    return ordinary


@dataclasses.dataclass(frozen=True)
class LostStart(Bootstrap):
    """The start of the reference is drawn anew."""

    def begin_given(self, key, dynamics, n, values, slot):
        return self.begin(key, dynamics, n)


def not_redrawn(settings, key, dynamics, xs, reference):
    """The last index is the reference's own unless it has less than half the weight."""
    original = jax.random.categorical

    def most_likely(key, log_weights, *rest, **options):
        return jnp.argmax(log_weights) if log_weights.shape == (settings.num_particles,) else original(key, log_weights)

    jax.random.categorical = most_likely
    try:
        return conditional_step.update_path(settings, key, dynamics, xs, reference)
    finally:
        jax.random.categorical = original


def without_carried_weight(settings, key, dynamics, xs, reference):
    """Parents weighed by the density of what follows alone."""
    original = conditional_step.log_parents

    def unweighted(dynamics, carry, log_weights, *rest):
        return original(dynamics, carry, jnp.zeros_like(log_weights), *rest)

    conditional_step.log_parents = unweighted
    try:
        return conditional_step.update_path(settings, key, dynamics, xs, reference)
    finally:
        conditional_step.log_parents = original


BROKEN = {
    "a threshold": ("linear", 4, _with_threshold(ssmscan.multinomial), BACKWARD["none"], Bootstrap(), None),
    "slot overwritten": ("hidden Markov", 2, _without_slot(ssmscan.systematic), BACKWARD["none"], Bootstrap(), None),
    "start lost": ("linear", 4, ssmscan.multinomial, BACKWARD["none"], LostStart(), None),
    "index not redrawn": ("linear", 4, ssmscan.multinomial, BACKWARD["none"], Bootstrap(), not_redrawn),
    "no carried weight": (
        *("linear", 4, ssmscan.multinomial, BACKWARD["ancestor"], Bootstrap()),
        without_carried_weight,
    ),
    "no carried weight, backward": (
        *("linear", 4, ssmscan.multinomial, BACKWARD["backward"], Bootstrap()),
        without_carried_weight,
    ),
}


# ---- the test --------------------------------------------------------------------------------


def statistics(name, states, y):
    """The statistics of one path with its data."""
    x = states["x"] if "x0" not in states else jnp.concatenate([states["x0"][None], states["x"]])
    if name == "hidden Markov":
        hot = jax.nn.one_hot(x, 3)
        pairs = jnp.einsum("ti,tj->tij", hot[:-1], hot[1:])
        return jnp.concatenate([hot.ravel(), pairs.ravel(), (hot[1:] * y[:, None]).ravel()])
    x = jnp.cumsum(x) if name == "accumulated" else x
    return jnp.concatenate([x, x * x, x[1:] * x[:-1], x[-LENGTH:] * y, x[-LENGTH:] ** 2 * y])


@partial(jax.jit, static_argnames=("name", "settings", "update", "updates", "replicates"))
def changes(key, ssm, *, name, settings, update, updates, replicates):
    """The change of every statistic by the updates, (replicates, statistics)."""

    def one(key):
        key_draw, key_update = jax.random.split(key)
        drawn = ssm.simulate(key_draw, {})
        own = ssm.over([drawn["y"]])
        path = {site: drawn[site] for site in ("x0", "x") if site in drawn}

        def again(path, key):
            if update is None:
                return {site: settings.run(key, own, {}, path).states[site] for site in path}, None
            dynamics = own.at({})
            reference = conditional_step.Reference({n: path[n] for n in path if n == "x0"}, {"x": path["x"]})
            key = ssmscan.particles.draws.as_key(key)
            return update(settings, key, dynamics, (dynamics.xs, dynamics.xs), reference).values, None

        after, _ = lax.scan(again, path, jax.random.split(key_update, updates))
        return statistics(name, after, drawn["y"]) - statistics(name, path, drawn["y"])

    return lax.map(one, jax.random.split(key, replicates), batch_size=500)


def z_scores(key, name, num_particles, scheme, backward, proposal, update=None, *, replicates, updates=UPDATES):
    """The z of the mean change of every statistic that changes."""
    ssm = ssmscan.trace(MODELS[name], jnp.zeros(LENGTH))
    settings = ssmscan.ConditionalSMC(num_particles, resampling=scheme, backward=backward, proposal=proposal)
    options = {"name": name, "settings": settings, "update": update, "updates": updates, "replicates": replicates}
    found = np.asarray(changes(key, ssm, **options), np.float64)
    moving = found.std(axis=0) > 0
    found = found[:, moving]
    return found.mean(axis=0) / (found.std(axis=0) / np.sqrt(replicates))


def main():
    """Print the largest z of every cell, and of every broken kernel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--replicates", type=int, default=20_000)
    options = parser.parse_args()
    cells = design()
    print(f"{len(cells)} cells, {options.replicates} replicates, {UPDATES} updates each")
    worst, count = dict.fromkeys(options.keys, 0.0), 0
    for name, n, scheme, backward, proposal in cells:
        row = []
        for seed in options.keys:
            z = z_scores(
                jax.random.key(seed),
                *(name, n, SCHEMES[scheme], BACKWARD[backward], PROPOSALS[proposal]),
                replicates=options.replicates,
            )
            row.append(np.abs(z).max())
            worst[seed] = max(worst[seed], row[-1])
        count += len(z)
        print(f"{name:14s} N = {n} {scheme:12s} {backward:9s} {proposal:11s}", *(f"{x:5.1f}" for x in row), flush=True)
    print(f"largest |z| {max(worst.values()):.2f}, threshold {z_threshold(count * len(options.keys)):.2f} for all")
    for label, cell in BROKEN.items():
        z = z_scores(jax.random.key(0), *cell, replicates=options.replicates, updates=UPDATES_OF_BROKEN)
        print(f"broken: {label:30s} {np.abs(z).max():6.1f}  (threshold {z_threshold(len(z)):.2f})", flush=True)


if __name__ == "__main__":
    main()

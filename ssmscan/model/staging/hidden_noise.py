"""Refuse randomness that no site announces.

A draw made with `jax.random`, at a site hidden by `handlers.block`, or from `numpyro.prng_key()` has no density that
inference could weigh, and one value for all particles and all steps of a chain.  Where it reaches no density it
does no harm: a key that only feeds `numpyro.sample(..., rng_key=key)` is never used, since values come from engines.

Let a leaf of the carry be *noisy* if the start or a step makes it from a hidden draw, or from a noisy leaf, closed
over steps.  A site is refused whose log-density depends on a hidden draw or on a noisy leaf.  Numbers drawn outside
the loop from a key of the model's own (random features, say) are constants and no draws.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax

from ssmscan.errors import ModelError
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.staging.functions import by_value
from ssmscan.model.staging.user_model import UserModel

_DRAWS = {"random_bits", "threefry2x32", "random_gamma", "rng_bit_generator"}


def refuse_hidden_noise(user_model: UserModel, value: Staged) -> None:
    """Refuse hidden draws that reach a density.

    Args:
        user_model: the model.
        value: `functions.by_value` of it.

    Raises:
        ModelError: there are such; the message names the first site that they reach.
    """
    if _DRAWS & value.select("log_prob", "carry", "y").late_primitives():
        for name in _noisy_sites(value, keyed=False):
            raise ModelError(
                f"the transition draws random numbers with jax.random, which reach the density of site '{name}'; they "
                "would be the same for every particle and invisible to inference. Draw them with numpyro.sample."
            )
    if user_model.plan.keyed:
        for name in _noisy_sites(by_value(user_model, keyed=True), keyed=True):
            raise ModelError(
                f"the density of site '{name}' depends on random numbers that inference does not see: they are drawn "
                "with numpyro.prng_key(), or at a site that handlers.block hides. Draw them with numpyro.sample in "
                "sight of inference; for numbers that stay fixed use a key of your own, such as jax.random.key(0)."
            )


def _noisy_sites(value: Staged, *, keyed: bool) -> Iterator[str]:
    """Return the names of the sites that hidden draws reach.

    Args:
        value: densities and steps of the model.
        keyed: whether the hidden draws are what depends on the argument key, or what `jax.random` draws in the loop.
    """

    def flow(entry: str) -> tuple[list[set], list[bool]]:
        pairs = [set(p) for p in jax.tree.leaves(value.reaches(entry), is_leaf=lambda p: isinstance(p, set))]
        if keyed:
            return pairs, [any(argument == "key" for argument, _ in p) for p in pairs]
        return pairs, [bool(_DRAWS & primitives) for primitives in value.late_primitives_by_leaf(entry)]

    noisy = {("x", k) for k, hit in enumerate(flow("xs")[1]) if hit} | {
        ("carry", k) for k, hit in enumerate(flow("start")[1]) if hit
    }
    pairs, hits = flow("carry")
    while True:
        grown = noisy | {("carry", k) for k, p in enumerate(pairs) if hits[k] or p & noisy}
        if grown == noisy:
            break
        noisy = grown
    noisy |= {("last", k) for argument, k in noisy if argument == "carry"}
    noisy |= {("ys", k) for k, (p, hit) in enumerate(zip(*flow("y"))) if hit or p & noisy}
    for entry in ("log_prob", "outside_log_prob"):
        names, (pairs, hits) = list(value.reaches(entry)), flow(entry)
        yield from (name for name, p, hit in zip(names, pairs, hits) if hit or p & noisy)

"""Which discrete states can be summed out, decided from the data flow of one step.

Gradient engines see a model as a smooth function of parameters and noise.  A discrete draw is no such
function; where it has finitely many values it can be summed instead.  Write d_t for the joint value of all
discrete draws of a step, K values, and c for the leaves of the carry, everything continuous being a
function of its noise (`conditional.step_at_draws`).  Then

    touched leaf    c'_k depends on some d_t, or on a touched leaf (closed over steps), or its start on a
                    discrete initial site
    summable        no touched leaf depends on a touched leaf: each is a function of the draws of one step,
                    c_t(k), of inputs, noise and leaves that the draws never touch

and the sum over all K^T paths is a forward pass over K values (`forward_backward`), in which the densities of step
t are functions of (d_{t-1}, d_t).  A regime that moves a continuous state, and a counter of draws, are
not summable: their carry remembers all earlier draws.

Elements of a plate that do not interact have a pass each (`element_chains`).  Beyond `LIMIT` joint values particles
are the better engine: a forward pass costs T K^2.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import jax

from ssmscan.model.discrete.conditional import start_at_draws, step_at_draws
from ssmscan.model.discrete.element_chains import ElementChains, split
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.source_lines import Mixing
from ssmscan.model.noise.support import num_joint
from ssmscan.model.staging.discovery import TracedSite
from ssmscan.model.staging.user_model import UserModel

Sites = tuple[TracedSite, ...]
LIMIT = 64


class Reach(NamedTuple):
    """What a result of one step depends on.

    Attributes:
        draws: on the discrete draws of the step.
        past: on the discrete draws before it, through touched leaves of the carry.
        time: on anything that differs between steps at given draws.
    """

    draws: bool
    past: bool
    time: bool


class PostLoopDensities(NamedTuple):
    """Observations after the loop.

    Attributes:
        start: outside -> "log_prob" by site, what weighs the start.
        step: outside, t, y -> "log_prob" by site, what weighs a step.
        whole: outside, ys, last -> "outside_log_prob" by site, what is not pointwise in time.
    """

    start: Staged
    step: Staged
    whole: Staged


class Summed(NamedTuple):
    """How the discrete draws of a model are summed out.

    Attributes:
        sites: discrete innovations.
        initial: discrete initial sites.
        start, step: see `conditional`.
        elements: the same for one element, where elements do not interact; else None.
        path: untouched leaves of the carry that a density or a touched leaf needs, by position.
        touched: leaves that the draws reach and a density needs, with what they depend on.
        terms: log-densities of the step with what they depend on.
    """

    sites: tuple[TracedSite, ...]
    initial: tuple[TracedSite, ...]
    start: Staged
    step: Staged
    elements: ElementChains | None
    path: tuple[int, ...]
    touched: dict[int, Reach]
    terms: dict[str, Reach]

    def describe(self) -> str:
        """Return a clause that says what is summed out."""
        elements = self.elements
        sites = self.sites if elements is None else elements.rows_of(self.sites)
        each = "" if elements is None else f" for each of {elements.size} elements"
        names = ", ".join(f"'{site.name}'" for site in (*self.initial, *self.sites))
        return f"{names}, {num_joint(sites)} values a step{each}"


def decide(
    user_model: UserModel,
    parameters: Collection[str],
    initial: Collection[str],
    observed: Collection[str],
    after: PostLoopDensities,
) -> Summed | str:
    """Find out whether the draws without a smooth map can be summed out.

    Args:
        user_model: the model.
        parameters: names of the parameters.
        initial: names of the initial-state sites.
        observed: names of the observations of the start.
        after: observations after the loop.

    Returns:
        How, or the reason why not: a clause that names the site.
    """
    starts = tuple(site for name, site in user_model.outside.items() if name in initial and site.smooth is None)
    sites = tuple(site for site in user_model.innovations.values() if site.smooth is None)
    for site in (*starts, *sites):
        if not site.discrete:
            return (
                f"'{site.name}' ({site.family}) cannot be moved as it is either, as single values of it have a "
                "probability, or NumPyro has no bijection to its support"
            )
        if not site.num_values:
            return f"'{site.name}' ({site.family}) has no finite list of values that is known at trace"
    start = start_at_draws(user_model, parameters, initial, observed, after.start, starts)
    step = step_at_draws(user_model, parameters, after.step, sites)
    return _follow(user_model, starts, sites, start, step, after.whole)


def _follow(
    user_model: UserModel, starts: Sites, sites: Sites, start: Staged, step: Staged, post_loop: Staged
) -> Summed | str:
    """Follow the draws through the carry."""
    leaves = step.reaches("leaves")
    touched = {k for k, pairs in start.reaches("leaves").items() if any(argument == "draws" for argument, _ in pairs)}
    touched = _closed_over_steps(leaves, touched)
    for leaf, pairs in leaves.items():
        source = sorted(k for argument, k in pairs if argument == "carry" and k in touched)
        if leaf in touched and source:
            return _refusal_of_memory(user_model, (*starts, *sites), leaf, source[0], step, touched)
    for site, pairs in post_loop.reaches("outside_log_prob").items():
        outputs = step.reaches("ys")
        read = [outputs[k] for argument, k in pairs if argument == "ys"]
        if any(argument == "last" and k in touched for argument, k in pairs) or any(
            _depends_on_draws(p, touched) for p in read
        ):
            return (
                f"'{site}', observed after the loop, joins steps and reads what the draws of "
                f"{_listed((*starts, *sites))} reach; observe inside the transition to have it summed"
            )
    moving = {k for k in touched if _varies_in_time(leaves[k], touched, frozenset())}
    reach = {k: _reach(leaves[k], touched, moving) for k in touched}
    terms = {name: _reach(pairs, touched, moving) for name, pairs in step.reaches("terms").items()}
    needed = [*step.reaches("terms").values(), *(leaves[k] for k in touched)]
    if post_loop.jaxpr.outvars:
        needed += [*step.reaches("ys").values(), {("carry", k) for k in leaves}]
    path = _leaves_read(needed) - touched
    while (more := path | (_leaves_read(leaves[k] for k in path) - touched)) != path:
        path = more
    elements = split(user_model, starts, sites, touched, start, step)
    for group, where in ((starts, "of the start"), (sites, "of a step")):
        count = num_joint(elements.rows_of(group) if isinstance(elements, ElementChains) else group)
        if count > LIMIT:
            return _refusal_of_number(group, count, where, elements)
    if isinstance(elements, ElementChains):
        terms = {name: _reach(pairs, touched, moving) for name, pairs in elements.step.reaches("terms").items()}
    return Summed(
        sites,
        starts,
        start,
        step,
        elements if isinstance(elements, ElementChains) else None,
        tuple(sorted(path)),
        dict(sorted(reach.items())),
        terms,
    )


def _refusal_of_number(sites: Sites, count: int, where: str, elements: ElementChains | Mixing | None) -> str:
    joined = f"; their elements cannot be summed one by one, as {elements} joins them" * isinstance(elements, Mixing)
    each = f" for each of {elements.size} elements" if isinstance(elements, ElementChains) else ""
    return f"{_listed(sites)} have {count} joint values {where}{each}, and up to {LIMIT} are summed out{joined}"


def _closed_over_steps(leaves: dict[int, set], touched: set[int]) -> set[int]:
    """Return the leaves that draws reach after any number of steps, from those that they reach at the start."""
    while (grown := touched | {k for k, pairs in leaves.items() if _depends_on_draws(pairs, touched)}) != touched:
        touched = grown
    return touched


def _depends_on_draws(pairs: Iterable, touched: set[int]) -> bool:
    return any(argument == "draws" or (argument == "carry" and leaf in touched) for argument, leaf in pairs)


def _leaves_read(results: Iterable[Iterable]) -> set[int]:
    """Return the leaves of the carry that some results depend on."""
    return {leaf for pairs in results for argument, leaf in pairs if argument == "carry"}


def _varies_in_time(pairs: Iterable, touched: set[int], moving: Iterable[int]) -> bool:
    return any(a in ("x", "noise") or (a == "carry" and (k not in touched or k in moving)) for a, k in pairs)


def _reach(pairs: set, touched: set[int], moving: set[int]) -> Reach:
    draws = any(argument == "draws" for argument, _ in pairs)
    past = any(argument == "carry" and leaf in touched for argument, leaf in pairs)
    return Reach(draws, past, _varies_in_time(pairs, touched, moving))


def _refusal_of_memory(
    user_model: UserModel, sites: Sites, leaf: int, source: int, step: Staged, touched: set[int]
) -> str:
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(user_model.plan.carry)]
    values = step.reaches("values")
    through = [
        n for n, s in user_model.innovations.items() if s.smooth is not None and _depends_on_draws(values[n], touched)
    ]
    moved = f", through {', '.join(map(repr, through))}" if through else ""
    return (
        f"{_listed(sites)} cannot be summed out: carry{paths[leaf]} after a step is computed from carry{paths[source]} "
        f"before it, which their draws reach{moved}, so that the carry remembers the draws of all earlier steps and "
        "not of one"
    )


def _listed(sites: Iterable[TracedSite]) -> str:
    return ", ".join(f"'{site.name}' ({site.family})" for site in sites)

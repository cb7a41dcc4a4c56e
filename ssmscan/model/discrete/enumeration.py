"""Which discrete states can be summed out, decided from the data flow of one step.

Gradient engines see a model as a smooth function of parameters and noise.  A discrete draw is no such
function; where it has finitely many values it can be summed instead.  Write d_t for the joint value of all
discrete draws of a step, K values, and c for the leaves of the carry, everything continuous being a
function of its noise (`conditional.step_at_draws`).  Then

    touched leaf    c'_k depends on some d_t, or on a touched leaf (closed over steps), or its start on a
                    discrete initial site
    remembered      touched, and read by a density, at once or later
    memory          m_t, the joint value of the remembered leaves as far as draws decide it, S values (`memory`): the
                    draws d_t where no remembered leaf depends on another, the last two in a chain of second order,
                    regime and duration in a semi-Markov chain

and the sum over all K^T paths is a forward pass over S values (`forward_backward`), in which the densities of step
t are functions of (m_{t-1}, d_t), of inputs, noise and leaves that the draws never touch.  A regime that moves a
continuous state, and a counter without a bound, are not summable: their memory has more values at each step.

Elements of a plate that do not interact have a pass each (`element_chains`).  Beyond `LIMIT` joint values particles
are the better engine: a forward pass costs T S K.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import jax

from ssmscan.model.discrete.carried_elements import Endless
from ssmscan.model.discrete.conditional import start_at_draws, step_at_draws
from ssmscan.model.discrete.element_chains import ElementChains, split
from ssmscan.model.discrete.memory import Memory, TooMany, of_last_draws, search
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
        memory: what the carry remembers of the draws, of one element where these do not interact.
        path: untouched leaves of the carry that a density or a touched leaf needs, by position.
        touched: leaves that the draws reach and a density needs, with what they depend on.
        terms: log-densities of the step with what they depend on.
    """

    sites: tuple[TracedSite, ...]
    initial: tuple[TracedSite, ...]
    start: Staged
    step: Staged
    elements: ElementChains | None
    memory: Memory
    path: tuple[int, ...]
    touched: dict[int, Reach]
    terms: dict[str, Reach]

    def of_one(self, sites: Sites) -> Sites:
        """Return sites as one chain has them."""
        return sites if self.elements is None else self.elements.rows_of(sites)

    def describe(self) -> str:
        """Return a clause that says what is summed out."""
        elements, sites = self.elements, self.of_one(self.sites)
        each = "" if elements is None else f" for each of {elements.size} elements"
        names = ", ".join(f"'{site.name}'" for site in (*self.initial, *self.sites))
        memory = "" if self.memory.plain else f", {self.memory.largest} of what the carry remembers of them"
        return f"{names}, {num_joint(sites)} values a step{memory}{each}"


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
    leaves, densities = step.reaches("leaves"), step.reaches("terms")
    touched = {k for k, pairs in start.reaches("leaves").items() if any(argument == "draws" for argument, _ in pairs)}
    touched = _closed_over_steps(leaves, touched)
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
    needed = [*densities.values(), *(leaves[k] for k in _read_later(leaves, densities.values(), touched))]
    remembered = _leaves_read(needed) & touched
    elements = split(user_model, starts, sites, remembered, start, step)
    moving = _moving(leaves, touched, set())

    def chain(elements: ElementChains | None) -> tuple[dict[str, Reach], Memory | Endless | TooMany]:
        one = step if elements is None else elements.step
        terms = {name: _reach(pairs, touched, moving) for name, pairs in one.reaches("terms").items()}
        rows = (starts, sites) if elements is None else (elements.rows_of(starts), elements.rows_of(sites))
        if not any(a == "carry" and source in remembered for k in remembered for a, source in leaves[k]):
            return terms, of_last_draws(*map(num_joint, rows))
        both = [name for name, r in terms.items() if r.past and r.time]
        first = start if elements is None else elements.start
        return terms, search(user_model, *rows, remembered, first, one, (start, step), both, LIMIT)

    for group, where in ((starts, "of the start"), (sites, "of a step")):
        count = num_joint(elements.rows_of(group) if isinstance(elements, ElementChains) else group)
        if count > LIMIT:
            return _refusal_of_number(group, f"{count} joint values {where}", elements)
    chains = elements if isinstance(elements, ElementChains) else None
    terms, memory = chain(chains)
    if chains is not None and not isinstance(memory, Memory) and max(map(num_joint, (starts, sites))) <= LIMIT:
        together = chain(None)
        if isinstance(together[1], Memory):
            chains, (terms, memory) = None, together
    if isinstance(memory, Memory) and memory.mixed:
        # What no draw touches in a leaf is taken from the path of the whole leaf, which has every element.
        chains, moving = None, _moving(leaves, touched, memory.mixed)
        terms, memory = chain(None)
    if isinstance(memory, Endless):
        return _refusal_of_memory(user_model, (*starts, *sites), memory, step, touched)
    if isinstance(memory, TooMany):
        count = f"{'more than ' * memory.more}{memory.count} joint values in what the carry remembers of them"
        return _refusal_of_number((*starts, *sites), count, elements)
    if post_loop.jaxpr.outvars:
        needed += [*step.reaches("ys").values(), {("carry", k) for k in leaves}]
    path = (_leaves_read(needed) - touched) | memory.mixed
    while (more := path | (_leaves_read(leaves[k] for k in path) - touched)) != path:
        path = more
    reach = {k: _reach(leaves[k], touched, moving) for k in sorted(remembered)}
    reach |= {k: reach[k]._replace(time=True) for k in memory.mixed}
    return Summed(sites, starts, start, step, chains, memory, tuple(sorted(path)), reach, terms)


def _read_later(leaves: dict[int, set], results: Iterable[set], touched: set[int]) -> set[int]:
    """Return the touched leaves that some results depend on, at once or after more steps."""
    found = _leaves_read(results) & touched
    while (grown := found | (_leaves_read(leaves[k] for k in found) & touched)) != found:
        found = grown
    return found


def _moving(leaves: dict[int, set], touched: set[int], found: set[int]) -> set[int]:
    """Return the touched leaves that differ between steps at given draws, from some that do."""
    while (grown := found | {k for k in touched if _varies_in_time(leaves[k], touched, found)}) != found:
        found = grown
    return found


def _refusal_of_number(sites: Sites, count: str, elements: ElementChains | Mixing | None) -> str:
    joined = f"; their elements cannot be summed one by one, as {elements} joins them" * isinstance(elements, Mixing)
    each = f" for each of {elements.size} elements" if isinstance(elements, ElementChains) else ""
    return f"{_listed(sites)} have {count}{each}, and up to {LIMIT} are summed out{joined}"


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


def _refusal_of_memory(user_model: UserModel, sites: Sites, endless: Endless, step: Staged, touched: set[int]) -> str:
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(user_model.plan.carry)]
    values = step.reaches("values")
    through = [
        n for n, s in user_model.innovations.items() if s.smooth is not None and _depends_on_draws(values[n], touched)
    ]
    moved = f", through {', '.join(map(repr, through))}" if through else ""
    return (
        f"{_listed(sites)} cannot be summed out: carry{paths[endless.leaf]} after a step is computed from "
        f"carry{paths[endless.source]} before it, which their draws reach{moved}, and from {_joined(endless.reached)}, "
        "so that the carry remembers the draws of all earlier steps; what it remembers is summed out where draws and "
        f"constants alone decide it, in up to {LIMIT} joint values"
    )


def _joined(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _listed(sites: Iterable[TracedSite]) -> str:
    return ", ".join(f"'{site.name}' ({site.family})" for site in sites)

"""Which sites before a loop are its noise: one row a step, independent given the parameters.

A latent site is moved into the loop if

    one of its axes has as many rows as the loop has steps, and they are independent of each other (`noise.rows`);
    row t reaches the loop as an input of step t, through arithmetic that leaves the rows apart (`jaxprs.stepping`);
    nothing else that comes before the results of the loop depends on it.

Code after the loop may read it, as it reads outputs of the loop.  The loop is the one of
`numpyro.contrib.control_flow.scan` that the engines step through, with the arithmetic that leads to it; without one
that the rows reach, the arithmetic itself, `jax.lax.scan` or `cumsum`.  What cannot be moved stays a parameter, and
the table says why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from numpyro.contrib.control_flow import scan

from ssmscan.model.handlers.moving import MoveRows, RowAxis, Rows
from ssmscan.model.jaxprs import stepping
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.staging import roles
from ssmscan.model.staging.discovery import Plan
from ssmscan.model.staging.row_search import ArithmeticModel, RowSearch, meet, stage_outside

PyTree = Any


class Moved(NamedTuple):
    """A model with rows moved into its loop.

    Attributes:
        call: the model as a function of its array arguments.
        axes: the sites that are moved.
    """

    call: Callable[[list], Any]
    axes: Mapping[str, RowAxis]


def find_rows(model: ArithmeticModel, declared: Collection[str]) -> tuple[Moved | None, dict[str, str]]:
    """Find the sites that can be moved.

    Args:
        model: the model.
        declared: names declared parameters.

    Returns:
        The model with their rows in its loop, None if there are none; and by site whose rows stay outside, why.
    """
    plan, notes, direct = model.plan, dict[str, str](), dict[str, str]()
    if plan is not None and (plan.horizons or not any(s.latent and s.shape for s in plan.outside)):
        return None, notes
    for tried in (model, model._replace(plan=None)):
        if tried.plan is None and plan is not None and any(s.latent or s.gaps for s in plan.inside):
            break
        if tried.plan is not None:
            if not _fits(tried.plan):
                continue
            assert tried.value is not None
            direct = roles.read_directly(tried.value, tried.plan)
            tried = tried._replace(direct=direct)
        sites = meet(tried)
        staged, table = stage_outside(tried, sites)
        for length in _lengths(staged) if tried.plan is None else [tried.plan.length]:
            # What the transition reads by its number may be an input of the loop as arithmetic; all else has been said.
            fixed = {*declared, *(notes.keys() - direct.keys())}
            rows, why = RowSearch(tried, sites, staged, table, length).run(fixed)
            notes |= why
            if rows is not None:
                return Moved(_moving(tried.call, rows), rows.axes), notes
    return None, notes


def _lengths(staged: Staged) -> list[int]:
    """Return how many steps a loop of arithmetic may have; the first iteration of one may come before them."""
    return list(dict.fromkeys(n - before for n in stepping.lengths(staged) for before in (0, 1) if n > before))


def _fits(plan: Plan) -> bool:
    """Return whether a latent site outside the loop has as many rows as the loop has steps, or one before them."""
    return any({plan.length, plan.length + 1} & set(site.shape) for site in plan.outside if site.latent)


def without_noise(model: ArithmeticModel, *, cumulative: bool) -> Callable[[list], Any] | None:
    """Put a loop that does nothing behind a model whose loops only compute.

    Args:
        model: the model.
        cumulative: whether `cumsum` is a loop too, and not `jax.lax.scan` alone; its steps are those of the first.

    Returns:
        The model as a function of its array arguments; None if it has no such loop.
    """
    staged, _ = stage_outside(model, meet(model))
    lengths = stepping.lengths(staged) if cumulative else stepping.lengths(staged, kinds=("scan",))
    if not lengths:
        return None

    def call(data: list) -> Any:
        returned = model.call(data)
        scan(lambda carry, _: (carry, None), None, None, length=lengths[0])
        return returned

    return call


def _moving(call: Callable[[list], Any], rows: Rows) -> Callable[[list], Any]:
    def moved(data: list) -> Any:
        with MoveRows(rows, data):
            return call(data)

    return moved

"""A traced model without its data: staged functions, interned so that equal programs are one object.

Two traces of the same code over other data, closures made again, or the same model under another
`handlers.condition` print the same jaxprs; they get the same `Program`, and JAX's compilation cache,
which sees the program as a static argument, serves them all.  The key of the table is everything
that the engines could tell apart: all fields of the program, staged functions by their text, and the flags of
JAX that change meaning.  The model object is not part of it.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from ssmscan.errors import ModelError
from ssmscan.model.discrete import enumeration
from ssmscan.model.handlers.missing import Gaps
from ssmscan.model.handlers.moving import start_name
from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.digest import digest, mentions
from ssmscan.model.sites import Role
from ssmscan.model.staging import functions, left_out
from ssmscan.model.staging.discovery import NoLoop, discover
from ssmscan.model.staging.post_loop import LAST_CARRY
from ssmscan.model.staging.repeatable import refuse_changing
from ssmscan.model.staging.rows import ArithmeticModel, find_rows, without_noise
from ssmscan.model.staging.user_model import UserModel
from ssmscan.model.statespace.discrete_sum import DiscreteSum
from ssmscan.model.statespace.element_functions import ElementFunctions
from ssmscan.model.statespace.elements import find_elements
from ssmscan.model.statespace.loop_functions import LoopFunctions, stage_loop
from ssmscan.model.statespace.marginal import Marginal, NothingIntegrated, Refused
from ssmscan.model.statespace.one_particle import latent_sites

_TABLE: OrderedDict[str, Program] = OrderedDict()
_TABLE_SIZE = 256


@dataclass(frozen=True, eq=False, kw_only=True)
class Program(LoopFunctions):
    """The functions of a loop, and what engines do with them; compared by identity.

    Attributes:
        marginal: what gradient engines integrate out.
        elements: staged functions of one element of a panel, or why there is none, see `elements`.
    """

    marginal: Marginal
    elements: ElementFunctions | str

    def key(self) -> str:
        """Print everything that two programs must share to be one."""
        flags = tuple(getattr(jax.config, name) for name in ("jax_enable_x64", "jax_default_matmul_precision"))
        return "\n".join([repr(flags), *_printed(self, {})])

    def digest(self, arrays: Sequence[str]) -> str:
        """Return a hash of what a filter runs, the same in every process that has the same versions.

        Args:
            arrays: for each array that the model reads, what tells it from others.
        """
        whole = (self.value, self.particles.start, self.particles.step, self.post_loop.step, self.post_loop.rest)
        return " ".join(digest(staged.jaxpr, [arrays[i] for i in staged.shared]) for staged in whole)

    def digests_without_length(self) -> list[str]:
        """Return hashes of what one particle runs that no other length of the loop changes; empty where one does."""
        near = range(self.plan.length - 1, self.plan.length + 2)
        whole = (self.particles.start, self.particles.step, self.post_loop.step)
        return ["" if mentions(staged.jaxpr, near) else digest(staged.jaxpr) for staged in whole]


def _printed(value: Any, known: dict[int, int]) -> Iterator[str]:
    """Print a value: a staged function by its text, records and containers field by field, the rest by repr.

    A selection is decided by what it was selected of.

    Args:
        value: a field of a program, or what it holds.
        known: by identity, the number of a staged function that has been printed.
    """
    if isinstance(value, Staged):
        if id(value) in known:
            yield f"as {known[id(value)]}"
            return
        known[id(value)] = len(known)
        if value.selected is None:
            yield value.text()
        else:
            whole, kept = value.selected
            yield f"{kept} as {value.out_tree} of"
            yield from _printed(whole, known)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value).__name__
        for field in dataclasses.fields(value):
            yield field.name
            yield from _printed(getattr(value, field.name), known)
    elif isinstance(value, set | frozenset):
        yield repr(sorted(map(repr, value)))
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield repr(key)
            yield from _printed(entry, known)
    elif isinstance(value, tuple | list):
        yield f"{type(value).__name__} {len(value)}"
        for entry in value:
            yield from _printed(entry, known)
    else:
        yield repr(value)


def build(
    call: Callable[[list], Any], arrays: list, parameters: tuple, initial: tuple, gaps: frozenset[str] = frozenset()
) -> tuple[Program, list]:
    """Stage a model.

    Args:
        call: the model as a function of its array arguments.
        arrays: those arguments.
        parameters: names declared parameters.
        initial: names declared initial states.
        gaps: names of the observed sites whose NaNs are missing elements.

    Returns:
        The interned program and its shared arrays: the arguments first, then lifted constants.
    """

    def moving(model: ArithmeticModel) -> tuple[tuple[Program, list] | None, dict[str, str]]:
        """Stage a model with rows of sites in its loop; return why they stay outside."""
        moved, notes = find_rows(model, parameters)
        if moved is None:
            return None, notes
        try:
            user_model, value = stage_by_value(moved.call, arrays, gaps)
            user_model = user_model._replace(rows=moved.axes)
            program = stage_program(user_model, parameters, initial, value)
        except ModelError as error:
            why = f"without it in the loop, {error}".partition(". ")[0]
        else:
            if not (why := _against(program)):
                return (program, user_model.table), notes
        return None, notes | dict.fromkeys(moved.axes, why)

    try:
        user_model, value = stage_by_value(call, arrays, gaps)
    except NoLoop:
        model = ArithmeticModel(call, arrays, None)
        built, notes = moving(model)
        if built is None:
            beside = without_noise(model, cumulative=bool(notes))
            if beside is None:
                raise
            user_model, value = stage_by_value(beside, arrays, gaps)
    else:
        model = ArithmeticModel(call, arrays, user_model.plan, value)
        built, notes = moving(model)
    if built is not None:
        return built
    user_model = user_model._replace(notes=notes)
    return stage_program(user_model, parameters, initial, value), user_model.table


def _against(program: Program) -> str:
    """Return why the rows that were moved into the loop of a program are better left outside; empty if they are not."""
    if mixing := program.post_loop.mixing:
        found = next(iter(mixing.values()))
        what = found.primitive if found == LAST_CARRY else f"{found}"
        return f"{what} after the loop joins what follows from different rows"
    starts = {start_name(name): name for name in program.rows}
    acting = [starts[name] for name in program.parameters if name in starts]
    return f"row 0 of '{acting[0]}' acts on every step" if acting else ""


def stage_program(
    user_model: UserModel,
    parameters: tuple[str, ...],
    initial: tuple[str, ...],
    value: Staged,
    joint: Staged | None = None,
) -> Program:
    """Stage one loop of a model and intern the program; arguments as in `stage_loop`."""
    loop = stage_loop(user_model, parameters, initial, value, joint)
    marginal = _choose_marginal(user_model, loop)
    elements = find_elements(user_model, loop)
    refuse_changing(user_model, value)
    fields = {field.name: getattr(loop, field.name) for field in dataclasses.fields(loop)}
    return intern(Program(**fields, marginal=marginal, elements=elements))


def _choose_marginal(user_model: UserModel, loop: LoopFunctions) -> Marginal:
    """Decide what gradient engines integrate out."""
    if loop.smooth is not None:
        return NothingIntegrated(loop, loop.smooth)
    after = enumeration.PostLoopDensities(loop.densities.start_rows, loop.post_loop.step, loop.densities.mixing)
    names = loop.parameters, loop.initial, loop.names(Role.START_OBSERVATION)
    decision = enumeration.decide(user_model, *names, after)
    maps = {name: site.smooth for name, site in latent_sites(user_model, loop.parameters).items()}
    if isinstance(decision, str):
        sites = {site.name: site for site in loop.sites}
        return Refused(tuple(sites[name] for name, smooth in maps.items() if smooth is None), decision)
    return DiscreteSum(loop, decision, {name: smooth.spec for name, smooth in maps.items() if smooth is not None})


def stage_by_value(
    call: Callable[[list], Any], arrays: list, gaps: frozenset[str], main: int | None = None
) -> tuple[UserModel, Staged]:
    """Meet a model and stage it by value; arguments as in `build`, main as in `discover`."""
    alone, (user_model, value) = main is None, _discover_and_stage(call, arrays, gaps, main)
    for earlier in user_model.plan.noise_free:
        found = _discover_and_stage(call, arrays, gaps, earlier)
        if left_out.forecasts(found[1], found[0].plan):
            user_model, value, main = *found, earlier
            break
    shapes = user_model.data_shapes()
    needed, after = (
        left_out.needed_missing(value, user_model.plan),
        left_out.drawn_after(value, user_model.plan, alone=alone),
    )
    if needed is not None or after:
        # What nothing reads is integrated out, and not drawn.
        less = user_model.gaps if needed is None else Gaps(gaps, needed)
        user_model = user_model._replace(plan=discover(call, shapes, less, main, after), gaps=less)
        value = functions.by_value(user_model)
    return user_model, value


def _discover_and_stage(
    call: Callable[[list], Any], arrays: list, gaps: frozenset[str], main: int | None
) -> tuple[UserModel, Staged]:
    """Meet a model and stage it by value; arguments as in `stage_by_value`."""
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays]
    user_model = UserModel(call, discover(call, shapes, Gaps(gaps), main), list(arrays), len(arrays), Gaps(gaps))
    return user_model, functions.by_value(user_model)


def intern(program: Program) -> Program:
    """Return the program of the table that is equal to this one, and remember it."""
    key = program.key()
    program = _TABLE.setdefault(key, program)
    _TABLE.move_to_end(key)
    if len(_TABLE) > _TABLE_SIZE:
        _TABLE.popitem(last=False)
    return program

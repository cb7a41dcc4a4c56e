"""Jaxprs as data: which inputs reach which outputs, and evaluation in two halves.

A model is staged once into jaxprs.  Two questions are then asked of each.

*Reach.*  Which inputs does an output depend on?  Dead-code elimination with one output kept at a
time answers it (`dce_jaxpr` follows loops and branches; where it is unsure it keeps the input, so
the answer errs towards "depends").  Roles of sites follow from it.

*Partial evaluation.*  Split the equations into those that need only the inputs known early (data,
parameters) and the rest.  The first half runs once per parameter value, the second once per particle
and step, so whatever in a transition does not depend on the state (a Cholesky factor, a matrix
exponential) leaves the loop without the user moving it.  Jones, Gomard and Sestoft (1993), *Partial
Evaluation and Automatic Program Generation*, chapter 4: this is the online scheme at the level of
primitives, without specialisation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
from jax.extend import core as jex
from jax.extend import source_info_util
from jax.interpreters import partial_eval as pe

from ssmscan.model.jaxprs.digest import text
from ssmscan.model.jaxprs.simplify import producers, simplified, written_out

PyTree = Any
Reached = tuple[str, int]
"""Name of an argument and number of a leaf of it."""

_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat_call"}


class Staged:
    """A function of data and of named arguments, stored as one flat jaxpr whose inputs include what it closed over.

    Calling it is `bind` followed by the rest; see `bind` for the two-stage use.  An argument that the results do not
    depend on need not be given.

    Attributes:
        jaxpr: flat jaxpr; inputs are shared arrays first, then the leaves of the arguments.
        shared: for each shared input, its position in the caller's list of arrays.
        in_trees: structure of each argument, by name.
        out_tree: structure of the result, a dict at the top level.
        late: names of the arguments that change inside the loop.
        needed: names of the arguments that the results depend on.
        selected: where it is a selection, the function it was selected of and the numbers of the results kept.
        written: as it was first traced, if `stage` was to keep it; for `repeatable`, which drops it.
    """

    selected: tuple[Staged, tuple[int, ...]] | None = None
    written: Any = None

    def __init__(
        self, jaxpr: Any, shared: tuple[int, ...], in_trees: dict[str, PyTree], out_tree: PyTree, late: frozenset[str]
    ):
        self.jaxpr, self.shared, self.in_trees, self.out_tree, self.late = jaxpr, shared, in_trees, out_tree, late
        self._inputs: dict[str, Sequence[Any]] = {}
        first = len(shared)
        for name, tree in in_trees.items():
            self._inputs[name] = jaxpr.invars[first : first + tree.num_leaves]
            first += tree.num_leaves
        unknown = {v for name in late for v in self._inputs[name]}
        read = {v for v in jaxpr.outvars if not isinstance(v, jex.Literal)}
        self.early_eqns, self.late_eqns = [], []
        for eqn in jaxpr.eqns:
            variables = [v for v in eqn.invars if not isinstance(v, jex.Literal)]
            read.update(variables)
            if unknown.isdisjoint(variables):
                self.early_eqns.append(eqn)
            else:
                unknown.update(eqn.outvars)
                self.late_eqns.append(eqn)
        self.needed = frozenset(name for name, variables in self._inputs.items() if not read.isdisjoint(variables))

    def select(self, *names: str, **entries: Iterable[Any]) -> Staged:
        """Keep some entries of the result and only the equations they need.

        Args:
            names: entries kept whole.
            entries: for an entry that is a dict, the keys to keep of it.
        """
        positions = jax.tree.unflatten(self.out_tree, range(self.out_tree.num_leaves))
        kept = {name: positions[name] for name in names}
        kept |= {name: {key: positions[name][key] for key in keys} for name, keys in entries.items()}
        return self._only(*jax.tree.flatten(kept))

    def _only(self, wanted: list[int], out_tree: PyTree) -> Staged:
        order = sorted(set(wanted))
        jaxpr, shared = _without_unused(self.jaxpr, self.shared, [i in order for i in range(self.out_tree.num_leaves)])
        outputs = [jaxpr.outvars[order.index(i)] for i in wanted]
        selection = Staged(with_outputs(jaxpr, outputs), shared, self.in_trees, out_tree, self.late)
        selection.selected = self, tuple(wanted)
        return selection

    def reaches(self, name: str) -> PyTree:
        """Find, for each leaf of an entry of the result, the leaves of arguments it depends on.

        Returns:
            A tree like the entry, with sets of pairs (name of an argument, number of its leaf); shared inputs are left
            out.
        """
        positions = jax.tree.unflatten(self.out_tree, range(self.out_tree.num_leaves))[name]
        leaves = [(argument, k) for argument, variables in self._inputs.items() for k in range(len(variables))]

        def leaf(i: int) -> set[Reached]:
            flags = [j == i for j in range(self.out_tree.num_leaves)]
            _, used = pe.dce_jaxpr(self.jaxpr, flags, instantiate=False)
            return {leaf for leaf, flag in zip(leaves, used[len(self.shared) :]) if flag}

        return jax.tree.map(leaf, positions)

    def reaching(self, equations: Iterable[int]) -> set[Reached]:
        """Find the leaves of arguments that some equations, by their numbers, depend on."""
        read = [v for number in equations for v in self.jaxpr.eqns[number].invars if not isinstance(v, jex.Literal)]
        _, used = pe.dce_jaxpr(with_outputs(self.jaxpr, read), [True] * len(read), instantiate=False)
        leaves = [(argument, k) for argument, variables in self._inputs.items() for k in range(len(variables))]
        return {leaf for leaf, flag in zip(leaves, used[len(self.shared) :]) if flag}

    def late_primitives(self) -> set[str]:
        """Return the names of the primitives that run inside the loop, inner jaxprs included."""
        return set(_primitive_names(self.late_eqns))

    def argument(self, name: str) -> PyTree:
        """Return the shapes and dtypes of an argument."""
        shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in self._inputs[name]]
        return jax.tree.unflatten(self.in_trees[name], shapes)

    def names(self, entry: str) -> list[str]:
        """Return the keys of an entry of the result that is a dict."""
        return list(jax.tree.unflatten(self.out_tree, range(self.out_tree.num_leaves))[entry])

    def late_primitives_by_leaf(self, name: str) -> list[set[str]]:
        """Return, for each leaf of an entry of the result, the primitives that compute it inside the loop."""
        positions = jax.tree.unflatten(self.out_tree, range(self.out_tree.num_leaves))[name]
        one = jax.tree.structure(0)
        return [self._only([i], one).late_primitives() for i in jax.tree.leaves(positions)]

    def bind(self, arrays: Sequence[jax.Array], *, unroll: bool = False, **early: PyTree) -> Callable[..., PyTree]:
        """Evaluate all that the early arguments determine; return the function of the late ones, by name.

        Args:
            arrays: the caller's shared arrays, indexed by `shared`.
            unroll: write sums of few terms out: for what runs on a cloud, and is not to be read as a jaxpr again.
            early: the arguments that are not late, each with the structure it was staged with.

        Raises:
            TypeError: an argument that is needed is missing, or one is unknown or has another structure.
        """
        env = dict(zip(self.jaxpr.invars, [arrays[i] for i in self.shared]))
        env |= self._values(early, self.in_trees.keys() - self.late)
        evaluate(self.early_eqns, env)

        def rest(**late: PyTree) -> PyTree:
            inner = env | self._values(late, self.late)
            evaluate(self.late_eqns, inner, rewrite=written_out if unroll else None)
            return jax.tree.unflatten(self.out_tree, [_read(inner, v) for v in self.jaxpr.outvars])

        return rest

    def __call__(self, arrays: Sequence[jax.Array], **arguments: PyTree) -> PyTree:
        """Evaluate the whole function at once."""
        late = {name: value for name, value in arguments.items() if name in self.late}
        return self.bind(arrays, **{n: v for n, v in arguments.items() if n not in late})(**late)

    def _values(self, arguments: Mapping[str, PyTree], names: Collection[str]) -> dict:
        """Return the values of the inputs of some arguments."""
        if missing := self.needed & set(names) - arguments.keys():
            raise TypeError(f"the staged function needs {_listed(missing)}, and was given {_listed(arguments)}.")
        values: dict = {}
        for name, argument in arguments.items():
            if name not in names:
                raise TypeError(f"the staged function was given {name}, where it takes {_listed(names)}.")
            flat, tree = jax.tree.flatten(argument)
            if tree != self.in_trees[name]:
                raise TypeError(f"argument {name} has structure {tree}, expected {self.in_trees[name]}.")
            values.update(zip(self._inputs[name], flat))
        return values

    def text(self) -> str:
        """Print the program without anything that differs between two traces of the same code."""
        return f"{text(self.jaxpr)}|{self.shared}|{self.in_trees}|{sorted(self.late)}|{self.out_tree}"


def stage(
    fn: Callable[..., dict],
    arguments: Mapping[str, PyTree],
    table: list,
    *,
    data: int,
    late: Collection[str],
    keep: bool = False,
) -> Staged:
    """Trace `fn` and store it.

    Args:
        fn: function of a list of data and of the named arguments, returning a dict.
        arguments: a pytree of shapes (`jax.ShapeDtypeStruct`) for each argument, by name.
        table: shared arrays; constants that `fn` closes over are appended (by identity).
        data: number of entries of `table` that are passed to `fn` as its first argument, a list.
        late: names of the arguments that are known only inside the loop.
        keep: whether to keep what was first traced.
    """
    data_shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in table[:data]]
    written, out_shapes = _write(fn, arguments, table[:data])
    leaves, in_trees = [], {}
    for name, argument in arguments.items():
        flat, in_trees[name] = jax.tree.flatten(argument)
        leaves += flat
    # Twice: inlining a nested call can bring to light constants that the call held.
    inlined = jax.make_jaxpr(_runner(written, inline=True))(*written.consts, *data_shapes, *leaves)
    lifted = [_intern(table, const) for const in (*written.consts, *inlined.consts)]
    shared = [*lifted[len(written.consts) :], *lifted[: len(written.consts)], *range(data)]
    shapes = [jax.ShapeDtypeStruct(table[i].shape, table[i].dtype) for i in shared] + leaves
    flat = jax.make_jaxpr(_runner(inlined, simplify=True))(*shapes)
    jaxpr, used = _without_unused(flat.jaxpr, tuple(shared), [True] * len(flat.jaxpr.outvars))
    staged = Staged(jaxpr, used, in_trees, jax.tree.structure(out_shapes), frozenset(late))
    staged.written = written if keep else None
    return staged


def write(fn: Callable[..., dict], arguments: Mapping[str, PyTree], *, data: Sequence) -> Any:
    """Trace `fn` and nothing more: the closed jaxpr; arguments as in `stage`, data the arrays."""
    return _write(fn, arguments, data)[0]


def _write(fn: Callable[..., dict], arguments: Mapping[str, PyTree], data: Sequence) -> tuple[Any, PyTree]:
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in data]

    def positional(data: list, *values: PyTree) -> dict:
        return fn(data, **dict(zip(arguments, values)))

    return jax.make_jaxpr(positional, return_shape=True)(shapes, *arguments.values())


def _runner(closed, *, inline: bool = False, simplify: bool = False) -> Callable[..., list]:
    """Return a function of (constants, inputs) that evaluates a closed jaxpr."""
    rewrite = partial(simplified, produced=producers(closed.jaxpr.eqns)) if simplify else None

    def run(*values):
        env = dict(zip([*closed.jaxpr.constvars, *closed.jaxpr.invars], values))
        evaluate(closed.jaxpr.eqns, env, inline=inline, rewrite=rewrite)
        return [_read(env, v) for v in closed.jaxpr.outvars]

    return run


def evaluate(
    eqns: Iterable,
    env: dict,
    *,
    inline: bool = False,
    caller: Any = None,
    rewrite: Callable[[Any, Callable], Any] | None = None,
) -> None:
    """Evaluate equations in an environment of variables, writing their results into it.

    What is staged from here keeps the lines that it was written on.

    Args:
        eqns: equations in order.
        env: value of every variable that they read and do not write.
        inline: evaluate nested `jit` calls equation by equation, so that they can be split.
        caller: traceback of the call that is inlined. JAX keeps the jaxpr of a call from its first use, whose lines
            are not those of this one.
        rewrite: gives the value of an equation, from it and from a function that reads variables, in a better way, or
            None where it knows none.
    """
    read = partial(_read, env)
    for eqn in eqns:
        values = [read(v) for v in eqn.invars]
        traceback = caller or eqn.source_info.traceback
        if inline and eqn.primitive.name in _CALLS:
            inner = eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]
            jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "jaxpr") else (inner, [])
            scope = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values]))
            evaluate(jaxpr.eqns, scope, inline=True, caller=traceback)
            results = [_read(scope, v) for v in jaxpr.outvars]
        else:
            with source_info_util.user_context(traceback):
                results = rewrite(eqn, read) if rewrite else None
                if results is None:
                    results = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
            results = results if eqn.primitive.multiple_results else [results]
        env.update(zip(eqn.outvars, results))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _read(env: dict, variable):
    return variable.val if isinstance(variable, jex.Literal) else env[variable]


def _without_unused(jaxpr, shared: tuple[int, ...], outputs: list[bool]):
    """Drop outputs, the equations and shared inputs they alone needed; arguments stay.

    A model that closes over its data and one that takes them as arguments thus stage to the same text.
    """
    keep = [False] * len(shared) + [True] * (len(jaxpr.invars) - len(shared))
    jaxpr, used = pe.dce_jaxpr(jaxpr, outputs, instantiate=keep)
    return jaxpr, tuple(i for i, flag in zip(shared, used) if flag)


def with_outputs(jaxpr, outputs: list):
    """Return a jaxpr with other variables as its results."""
    names = jaxpr.debug_info._replace(result_paths=None) if jaxpr.debug_info is not None else None
    return jaxpr.replace(outvars=outputs, debug_info=names)


def _intern(table: list, array) -> int:
    for i, known in enumerate(table):
        if known is array:
            return i
    table.append(array)
    return len(table) - 1


def _primitive_names(eqns: Iterable) -> Iterable[str]:
    for eqn in eqns:
        yield eqn.primitive.name
        for inner in jex.jaxprs_in_params(eqn.params):
            yield from _primitive_names(inner.eqns)

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

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex
from jax.extend import source_info_util
from jax.interpreters import partial_eval as pe

from ssmscan.model.jaxprs.simplify import producers, simplified, written_out

PyTree = Any
# Stands for an argument that the selected results do not depend on.
UNUSED = object()
_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat_call"}


class Staged:
    """A function of pytrees, stored as one flat jaxpr whose inputs include what it closed over.

    Calling it is `bind` followed by the rest; see `bind` for the two-stage use.

    Attributes:
        jaxpr: flat jaxpr; inputs are shared arrays first, then the leaves of the arguments.
        shared: for each shared input, its position in the caller's list of arrays.
        in_trees: structure of each argument.
        out_tree: structure of the result, a dict at the top level.
        written: as it was first traced, if `stage` was to keep it; for `repeatable`, which drops it.
    """

    written: Any = None

    def __init__(self, jaxpr, shared: tuple[int, ...], in_trees: tuple, out_tree: PyTree, late: int):
        self.jaxpr, self.shared, self.in_trees, self.out_tree = jaxpr, shared, in_trees, out_tree
        self.late = late
        self.offsets = [len(shared)]
        for tree in in_trees:
            self.offsets.append(self.offsets[-1] + tree.num_leaves)
        unknown = set(jaxpr.invars[self.offsets[late] :])
        self.early_eqns, self.late_eqns = [], []
        for eqn in jaxpr.eqns:
            if any(v in unknown for v in eqn.invars if not isinstance(v, jex.Literal)):
                unknown.update(eqn.outvars)
                self.late_eqns.append(eqn)
            else:
                self.early_eqns.append(eqn)

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
        return Staged(_with_outputs(jaxpr, outputs), shared, self.in_trees, out_tree, self.late)

    def reaches(self, name: str) -> PyTree:
        """Find, for each leaf of an entry of the result, the leaves of arguments it depends on.

        Returns:
            A tree like the entry, with sets of pairs (argument number, leaf number); shared inputs
            are left out.
        """
        positions = jax.tree.unflatten(self.out_tree, range(self.out_tree.num_leaves))[name]

        def leaf(i: int) -> set[tuple[int, int]]:
            flags = [j == i for j in range(self.out_tree.num_leaves)]
            _, used = pe.dce_jaxpr(self.jaxpr, flags, instantiate=False)
            pairs = set()
            for argument, (lo, hi) in enumerate(zip(self.offsets, self.offsets[1:])):
                pairs |= {(argument, k) for k in range(hi - lo) if used[lo + k]}
            return pairs

        return jax.tree.map(leaf, positions)

    def late_primitives(self) -> set[str]:
        """Return the names of the primitives that run inside the loop, inner jaxprs included."""
        return set(_primitive_names(self.late_eqns))

    def argument(self, number: int) -> PyTree:
        """Return the shapes and dtypes of an argument."""
        variables = self.jaxpr.invars[self.offsets[number] : self.offsets[number + 1]]
        return jax.tree.unflatten(
            self.in_trees[number], [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in variables]
        )

    def names(self, entry: str) -> list[str]:
        """Return the keys of an entry of the result that is a dict."""
        return list(jax.tree.unflatten(self.out_tree, range(self.out_tree.num_leaves))[entry])

    def late_primitives_by_leaf(self, name: str) -> list[set[str]]:
        """Return, for each leaf of an entry of the result, the primitives that compute it inside the loop."""
        positions = jax.tree.unflatten(self.out_tree, range(self.out_tree.num_leaves))[name]
        one = jax.tree.structure(0)
        return [self._only([i], one).late_primitives() for i in jax.tree.leaves(positions)]

    def bind(self, arrays: Sequence[jax.Array], *early: PyTree, unroll: bool = False) -> Callable[..., PyTree]:
        """Evaluate all that the early arguments determine; return the function of the late ones.

        Args:
            arrays: the caller's shared arrays, indexed by `shared`.
            early: the first `late` arguments, each with the structure it was staged with.
            unroll: write sums of few terms out: for what runs on a cloud, and is not to be read as a jaxpr again.
        """
        env: dict = {}
        values = [arrays[i] for i in self.shared] + self._leaves(0, early)
        env.update(zip(self.jaxpr.invars, values))
        evaluate(self.early_eqns, env)

        def rest(*late: PyTree) -> PyTree:
            inner = dict(env)
            inner.update(zip(self.jaxpr.invars[self.offsets[self.late] :], self._leaves(self.late, late)))
            evaluate(self.late_eqns, inner, rewrite=written_out if unroll else None)
            return jax.tree.unflatten(self.out_tree, [_read(inner, v) for v in self.jaxpr.outvars])

        return rest

    def __call__(self, arrays: Sequence[jax.Array], *arguments: PyTree) -> PyTree:
        """Evaluate the whole function at once."""
        return self.bind(arrays, *arguments[: self.late])(*arguments[self.late :])

    def _leaves(self, first: int, arguments: Sequence[PyTree]) -> list:
        leaves = []
        for number, argument in enumerate(arguments, first):
            if argument is UNUSED:
                leaves += [None] * self.in_trees[number].num_leaves
                continue
            flat, tree = jax.tree.flatten(argument)
            if tree != self.in_trees[number]:
                raise TypeError(f"argument {number} has structure {tree}, expected {self.in_trees[number]}")
            leaves += flat
        return leaves

    def text(self) -> str:
        """Print the program without anything that differs between two traces of the same code."""
        printed = re.sub(r" at 0x[0-9a-f]+", "", str(self.jaxpr))
        unprinted = list(_unprinted(self.jaxpr))
        return f"{printed}|{self.shared}|{self.in_trees}|{self.out_tree}|{unprinted}"


def stage(
    fn: Callable[..., dict], arguments: tuple, table: list, *, data: int, late: int, keep: bool = False
) -> Staged:
    """Trace `fn` and store it.

    Args:
        fn: function of pytrees returning a dict.
        arguments: one pytree of shapes (`jax.ShapeDtypeStruct`) per argument, data leaves first.
        table: shared arrays; constants that `fn` closes over are appended (by identity).
        data: number of entries of `table` that are passed to `fn` as its first argument, a list.
        late: number of the first argument that is known only inside the loop.
        keep: whether to keep what was first traced.
    """
    data_shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in table[:data]]
    written, out_shapes = _write(fn, arguments, table[:data])
    leaves, in_trees = [], []
    for argument in arguments:
        flat, tree = jax.tree.flatten(argument)
        leaves += flat
        in_trees.append(tree)
    # Twice: inlining a nested call can bring to light constants that the call held.
    inlined = jax.make_jaxpr(_runner(written, inline=True))(*written.consts, *data_shapes, *leaves)
    lifted = [_intern(table, const) for const in (*written.consts, *inlined.consts)]
    shared = [*lifted[len(written.consts) :], *lifted[: len(written.consts)], *range(data)]
    shapes = [jax.ShapeDtypeStruct(table[i].shape, table[i].dtype) for i in shared] + leaves
    flat = jax.make_jaxpr(_runner(inlined, simplify=True))(*shapes)
    jaxpr, used = _without_unused(flat.jaxpr, tuple(shared), [True] * len(flat.jaxpr.outvars))
    staged = Staged(jaxpr, used, tuple(in_trees), jax.tree.structure(out_shapes), late)
    staged.written = written if keep else None
    return staged


def write(fn: Callable[..., dict], arguments: tuple, *, data: Sequence) -> Any:
    """Trace `fn` and nothing more: the closed jaxpr; arguments as in `stage`, data the arrays."""
    return _write(fn, arguments, data)[0]


def _write(fn: Callable[..., dict], arguments: tuple, data: Sequence) -> tuple[Any, PyTree]:
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in data]
    return jax.make_jaxpr(fn, return_shape=True)(shapes, *arguments)


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


def _read(env: dict, variable):
    return variable.val if isinstance(variable, jex.Literal) else env[variable]


def _without_unused(jaxpr, shared: tuple[int, ...], outputs: list[bool]):
    """Drop outputs, the equations and shared inputs they alone needed; arguments stay.

    A model that closes over its data and one that takes them as arguments thus stage to the same text.
    """
    keep = [False] * len(shared) + [True] * (len(jaxpr.invars) - len(shared))
    jaxpr, used = pe.dce_jaxpr(jaxpr, outputs, instantiate=keep)
    return jaxpr, tuple(i for i, flag in zip(shared, used) if flag)


def _with_outputs(jaxpr, outputs: list):
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


def _unprinted(jaxpr) -> Iterable[Any]:
    """Yield what decides the meaning of a jaxpr and is not in its text.

    Constants that a nested jaxpr holds, by their bytes.  Host callbacks, and derivative rules from
    outside JAX and NumPyro, by address: two may differ while they print the same, so programs that
    hold them are never shared.
    """
    for eqn in jaxpr.eqns:
        if "custom_jvp" in eqn.primitive.name or "custom_vjp" in eqn.primitive.name:
            source = str(getattr(eqn.params["call_jaxpr"], "jaxpr", eqn.params["call_jaxpr"]).debug_info.func_src_info)
            if "/jax/" not in source and "/numpyro/" not in source:
                yield id(eqn.params["call_jaxpr"])
        if "callback" in eqn.params:
            yield id(getattr(eqn.params["callback"], "callback_func", eqn.params["callback"]))
        for closed in _closed(tuple(eqn.params.values())):
            yield from map(_identity, closed.consts)
        for inner in jex.jaxprs_in_params(eqn.params):
            yield from _unprinted(inner)


def _closed(param: Any) -> Iterable[Any]:
    """Yield the jaxprs with their constants among the parameters of an equation."""
    if hasattr(param, "jaxpr") and hasattr(param, "consts"):
        yield param
    elif isinstance(param, tuple | list):
        for entry in param:
            yield from _closed(entry)


def _identity(const: Any) -> Any:
    if isinstance(const, jax.core.Tracer):
        return id(const)
    if jax.dtypes.issubdtype(const.dtype, jax.dtypes.prng_key):
        return _identity(jax.random.key_data(const))
    return const.dtype, const.shape, np.asarray(const).tobytes()

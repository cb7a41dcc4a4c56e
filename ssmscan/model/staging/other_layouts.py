"""Observations after the loop whose elements are not one row a step, and what of the loop no noise reaches.

Rows in another order than the steps, some of them or several of one, arrays in which time is merged with other axes:
what `jaxprs.axes` does not follow as an axis is taken apart element by element, see `jaxprs.separate`.

An output of the loop, or a leaf of its last carry, that no innovation reaches is a function of what stands before the
loop.  It is computed by running the loop, and is a constant to all steps.  Where that is all that a site depends on,
no step weighs it: it belongs to the parameters, whatever is made of the path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import Array, lax

from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.jaxprs.placeholders import zeros
from ssmscan.model.jaxprs.separate import ROWS, WHOLE, Separated
from ssmscan.model.jaxprs.source_lines import FOREIGN, Mixing
from ssmscan.model.staging.user_model import UserModel

PyTree = Any


class OtherLayouts:
    """The log-densities of some sites after the loop, as sums over the steps.

    Attributes:
        mixing: for each site that is no such sum, what is to blame.
        layouts: for each other site, a clause that says how it is observed.
    """

    def __init__(self, user_model: UserModel, value: Staged, names: Sequence[str], last_carry: Mixing):
        """Take them apart.

        Args:
            user_model: the model.
            value: `functions.by_value` of it.
            names: of the sites.
            last_carry: what is to blame if a site depends on the last carry, where noise reaches it.
        """
        self._user_model, self._value, plan = user_model, value, user_model.plan
        self._noisy = noisy_leaves(value)
        ys, last = jax.tree.leaves(plan.ys), jax.tree.leaves(plan.carry)
        self._deterministic = len(self._noisy["ys"]) < len(ys) or len(self._noisy["last"]) < len(last)
        marks: dict[str, PyTree] = {
            name: jax.tree.unflatten(tree, [FOREIGN] * tree.num_leaves) for name, tree in value.in_trees.items()
        }
        marks["outside"] = jax.tree.map(lambda _: WHOLE, value.argument("outside"))
        marks["ys"] = [ROWS if k in self._noisy["ys"] else WHOLE for k in range(len(ys))]
        marks["last"] = [last_carry if k in self._noisy["last"] else WHOLE for k in range(len(last))]
        staged = value.select(outside_log_prob=names)
        known = [_known(user_model, i) for i in staged.shared]
        self._separated = Separated(staged, known, plan.length, marks)
        self.mixing = {names[k]: mixing for k, mixing in self._separated.mixing.items()}
        self.layouts = {
            name: "each element at its step" if k in self._separated.stepwise else "and no state reaches it"
            for k, name in enumerate(names)
            if name not in self.mixing
        }

    def terms(self, data: list, outside: dict, step: Array | None = None, y: PyTree = None) -> dict[str, Array]:
        """Evaluate what belongs to a step, whose output is y, or to none; of the sites that are not mixing."""
        arrays, plan = self._user_model.arrays(data), self._user_model.plan
        last, ys = self._run(arrays, outside) if self._deterministic else (zeros(plan.carry), zeros(plan.ys))
        if step is not None:
            leaves, whole = jax.tree.leaves(y), jax.tree.leaves(ys)
            rows = [leaves[k] if k in self._noisy["ys"] else whole[k] for k in range(len(whole))]
            ys = jax.tree.unflatten(jax.tree.structure(ys), rows)
        found = self._separated.terms(arrays, {"outside": outside, "ys": ys, "last": last}, step)["outside_log_prob"]
        return {name: term for name, term in found.items() if name not in self.mixing}

    def _run(self, arrays: list, outside: dict) -> tuple[PyTree, PyTree]:
        """Run the loop; last carry and outputs, of which those that noise reaches mean nothing."""
        plan, value = self._user_model.plan, self._value
        before = value.select("start", "xs")(arrays, outside=outside)
        step = value.select("carry", "y").bind(arrays, outside=outside)
        nothing = zeros(
            {site.name: jax.ShapeDtypeStruct(site.shape, site.dtype) for site in plan.inside if site.latent}
        )

        def body(carry: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
            out = step(carry=carry, x=x, values=nothing)
            return out["carry"], out["y"]

        return lax.scan(body, before["start"], before["xs"])


def noisy_leaves(value: Staged) -> dict[str, set[int]]:
    """Return the leaves of the outputs of the loop, "ys", and of its last carry, "last", that its noise reaches."""
    carry, outputs = (jax.tree.leaves(value.reaches(entry), is_leaf=_is_pairs) for entry in ("carry", "y"))
    noisy: set[int] = {
        k for k, pairs in enumerate(jax.tree.leaves(value.reaches("start"), is_leaf=_is_pairs)) if _drawn(pairs, set())
    }
    while grown := {k for k, pairs in enumerate(carry) if _drawn(pairs, noisy)} - noisy:
        noisy |= grown
    return {"ys": {k for k, pairs in enumerate(outputs) if _drawn(pairs, noisy)}, "last": noisy}


def _drawn(pairs: set, noisy: set[int]) -> bool:
    """Return whether noise of a loop is among what reaches something, directly or through the carry."""
    return any(argument in ("values", "key") or (argument == "carry" and k in noisy) for argument, k in pairs)


def _is_pairs(leaf: Any) -> bool:
    return isinstance(leaf, set)


def _known(user_model: UserModel, position: int) -> np.ndarray | None:
    """Return the value of a shared array that is not among the arguments of the model."""
    array = user_model.table[position]
    if position < user_model.data or isinstance(array, jax.core.Tracer):
        return None
    return None if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key) else np.asarray(array)

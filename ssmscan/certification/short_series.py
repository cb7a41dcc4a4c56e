"""The same model over the first steps of its data: what certificates simulate.

A check by simulation needs many runs, each of a few steps: a fault in the parts of a model shows in six steps as in a
thousand, and the evidence of forward runs is sharp where they are few.  The model as it was written is traced again
over shorter arguments: every array, and every table with an index, is cut along the first axis as long as the series,
or longer or shorter by two at most, as where the first value is observed before the loop.  A length that is given as a
number is cut too, if it takes that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.tracing import Source, assemble
from ssmscan.model.validation import validation_enabled

ASIDE = 2
"""Steps by which an argument may be longer or shorter than the series."""


class ShortSeries(NamedTuple):
    """A model of few steps.

    Attributes:
        ssm: the model; the one that was given, where it could not be cut.
        note: how it came about, a sentence.
        is_short: whether it has as few steps as were asked for.
    """

    ssm: StateSpaceModel
    note: str
    is_short: bool


def short_series(ssm: StateSpaceModel, most: int) -> ShortSeries:
    """Return the model over the first steps of its data.

    Args:
        ssm: what `ssmscan.trace` returned.
        most: number of steps of each loop at most.
    """
    lengths = sorted({core.num_steps for core in ssm.cores}, reverse=True)
    if lengths[0] <= most:
        return ShortSeries(ssm, f"all {lengths[0]} steps", True)
    source = ssm.source
    if isinstance(source, Source):
        for with_numbers in (False, True):
            leaves = tuple(_cut(leaf, lengths, most, with_numbers) for leaf in source.leaves)
            try:
                with validation_enabled(False):
                    short = assemble(source._replace(leaves=leaves))
            except Exception:
                # The model does not take shorter arguments; whatever it raises says no more.
                continue
            if _same_model(short, ssm) and all(core.num_steps <= most for core in short.cores):
                return ShortSeries(short, f"the first {most} of {lengths[0]} steps", True)
    return ShortSeries(ssm, f"all {lengths[0]} steps, as the model does not take shorter data", False)


def _cut(leaf: Any, lengths: list[int], most: int, with_numbers: bool) -> Any:
    """Cut an argument along its first axis that is as long as a series."""
    if isinstance(leaf, bool):
        return leaf
    if isinstance(leaf, int):
        return most if with_numbers and leaf in lengths else leaf
    shape = np.shape(leaf) if hasattr(leaf, "shape") else ()
    for axis, size in enumerate(shape):
        for length in lengths:
            if length > most and abs(size - length) <= ASIDE and size - length + most > 0:
                window = (slice(None),) * axis + (slice(0, size - length + most),)
                return leaf.iloc[window] if hasattr(leaf, "iloc") else leaf[window]
    return leaf


def _same_model(short: StateSpaceModel, ssm: StateSpaceModel) -> bool:
    """Return whether two models have the same sites in the same roles; shapes of steps must agree too."""

    def facts(of: StateSpaceModel) -> list[tuple]:
        return [(site.name, site.role, site.family) for site in of.sites]

    return facts(short) == facts(ssm)

"""A run of NUTS under way: its chains, the draws made so far, and what another run needs to go on from here.

The noise of all draws, (draws, chains, T, ...), is as large as the states.  A result carries that of at most
`KEPT_NOISE` draws of each chain, a power of two apart: from these the state paths of any longer run are made.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from numpyro.infer.hmc import HMCState

from ssmscan.inference.going_on import Arrays, key_of, pack, strided, unpack, words
from ssmscan.inference.progress import Progress
from ssmscan.inference.rewarming import REWARM_ACCEPT, Tally, warmed_anew
from ssmscan.inference.whitening import LOOKS, Guide, adaptation
from ssmscan.model.protocols import Theta
from ssmscan.results.data import Costs
from ssmscan.results.result import Result

KEPT_NOISE = 1000
"""Draws of each chain whose noise a result carries, at most, unless more paths are wanted."""

DERIVED = ("tree_depth", "reached_max_treedepth")
"""Statistics that are computed from others."""


@dataclass
class Run:
    """A run under way.

    Attributes:
        key: of the run.
        state: of the chains.
        unit: of each parameter in the state; see `ssmscan.inference.nuts_start`.
        guide: what the noise in the state is to that of the model; see `ssmscan.inference.whitening`.
        look: steps of each of the looks with which the first warm-up begins.
        looks_left: how many of them are not over.
        begun: the chains before their first step, None once no new warm-up can follow.
        warm: the chains after their first warm-up, None before and once no new warm-up can follow.
        target_accept: what the warm-up aims at.
        num_warmup: steps of a warm-up.
        warmup_left: steps of it still to be taken.
        outputs: draws, noise and statistics by name, (draws, chains, ...); noise is there for every `stride`-th draw,
            and for all that this process made.
        stride: see there.
        first: what is known of the draws before a new warm-up, None if there was none.
        dropped: the run whose draws those were, which are kept if the new warm-up makes none; None in another process.
        gradients, warmup_seconds, run_seconds, compile_seconds: what it cost.
        interrupted: whether Control-C ended it.
    """

    key: jax.Array
    state: HMCState
    unit: Theta
    guide: Guide | None
    look: int
    looks_left: int
    begun: HMCState | None
    warm: HMCState | None
    target_accept: float
    num_warmup: int
    warmup_left: int
    outputs: dict[str, Any] | None = None
    stride: int = 1
    first: Tally | None = None
    dropped: Run | None = field(default=None, repr=False)
    gradients: int = 0
    warmup_seconds: float = 0.0
    run_seconds: float = 0.0
    compile_seconds: float = 0.0
    interrupted: bool = False

    @classmethod
    def new(
        cls,
        key: jax.Array,
        states: HMCState,
        unit: Theta,
        guide: Guide | None,
        target_accept: float,
        num_warmup: int,
        look: int,
    ) -> Run:
        """Begin."""
        looks = LOOKS if look else 0
        return cls(key, states, unit, guide, look, looks, states, None, target_accept, num_warmup, num_warmup)

    @classmethod
    def gone_on(
        cls, before: Result, key: jax.Array, shapes: HMCState, unit: Theta, guide: Guide | None, look: int
    ) -> Run:
        """Go on from a result whose chains, units and guide have these shapes."""
        stored, origin = before.continuation, before.origin
        state = unpack("state", stored, shapes)
        noise = unpack("noise", stored, _noise_shapes(shapes, stored))
        count, stride = before.num_draws, int(origin["stride"])

        def filled(leaf: jax.Array) -> np.ndarray:
            out = np.zeros((count, *leaf.shape[:1], *leaf.shape[2:]), leaf.dtype)
            out[::stride] = np.moveaxis(np.asarray(leaf), 0, 1)
            return out

        in_front = {name: np.moveaxis(x, 1, 0) for name, x in before.draws.items()}
        stats = {name: np.moveaxis(x, 1, 0) for name, x in before.sample_stats.items() if name not in DERIVED}
        first = origin["first"]
        return cls(
            key=key_of(origin["key"], key),
            state=state,
            unit=unpack("unit", stored, unit),
            guide=unpack("guide", stored, guide),
            look=look,
            looks_left=int(origin["looks_left"]),
            begun=unpack("begun", stored, shapes) if "begun_0" in stored else None,
            warm=unpack("warm", stored, shapes) if "warm_0" in stored else None,
            target_accept=float(origin["target_accept"]),
            num_warmup=int(before.settings["num_warmup"]),
            warmup_left=int(origin["warmup_left"]),
            outputs={"draws": in_front, "noise": jax.tree.map(filled, noise), "stats": stats},
            stride=stride,
            first=None if first is None else Tally(*first),
            gradients=before.costs.gradient_evaluations,
            warmup_seconds=before.costs.warmup_seconds,
            run_seconds=before.costs.run_seconds,
            compile_seconds=before.costs.compile_seconds,
        )

    @property
    def look_left(self) -> int:
        """Steps of the present look still to be taken."""
        return self.warmup_left - adaptation(self.num_warmup, self.look) - (self.looks_left - 1) * self.look

    @property
    def done(self) -> int:
        """Draws made in each chain."""
        return 0 if self.outputs is None else len(self.outputs["stats"]["n_steps"])

    @property
    def tally(self) -> Tally:
        """How many of the draws diverged, and the gradients they took."""
        if self.outputs is None:
            return Tally(0, 0, self.target_accept, 0)
        stats = self.outputs["stats"]
        size = stats["diverging"].size
        return Tally(int(stats["diverging"].sum()), size, self.target_accept, int(stats["n_steps"].sum()))

    @property
    def costs(self) -> Costs:
        """What it cost so far."""
        return Costs(self.compile_seconds, self.warmup_seconds, self.run_seconds, gradient_evaluations=self.gradients)

    def take(self, made: Progress) -> None:
        """Take in what was made: steps of the warm-up while some are left, draws afterwards."""
        after = self.ahead(made.state, made.outputs)
        for name in ("state", "outputs", "warm", "warmup_left", "gradients"):
            setattr(self, name, getattr(after, name))
        if self.warmup_left or not self.done:
            self.warmup_seconds += made.seconds
        else:
            self.run_seconds += made.seconds
        self.interrupted |= made.interrupted

    def ahead(self, state: HMCState, made: dict[str, Any]) -> Run:
        """Return the run after some more steps."""
        count = len(made["stats"]["n_steps"])
        gradients = self.gradients + int(made["stats"]["n_steps"].sum())
        if self.warmup_left:
            left = self.warmup_left - count
            none = jax.tree.map(lambda leaf: leaf[:0], made)
            warm = state if self.first is None and not left else self.warm
            return dataclasses.replace(
                self, state=state, outputs=none, warmup_left=left, warm=warm, gradients=gradients
            )
        joined = made if self.outputs is None else jax.tree.map(lambda *x: np.concatenate(x), self.outputs, made)
        return dataclasses.replace(self, state=state, outputs=joined, gradients=gradients)

    def whiten(
        self, states: HMCState | None, unit: Theta, guide: Guide, compile_seconds: float, seconds: float
    ) -> None:
        """End a look: go on from these chains, or, where there are none, from what there is."""
        if states is not None:
            self.state, self.begun, self.unit, self.guide = states, states, unit, guide
        self.looks_left -= 1
        self.compile_seconds += compile_seconds
        self.warmup_seconds += seconds

    def warm_up_again(self, keys: jax.Array) -> None:
        """Drop the draws and begin a new warm-up, from the end of the first one.

        Not from the draw at which a divergence was seen, which depends on how the run was cut.
        """
        assert self.begun is not None and self.warm is not None
        self.dropped = dataclasses.replace(self)
        self.first = self.tally
        self.state = warmed_anew(keys, self.begun, self.warm)
        self.begun = self.warm = None
        self.target_accept, self.warmup_left, self.stride = REWARM_ACCEPT, adaptation(self.num_warmup, self.look), 1
        self.outputs = jax.tree.map(lambda leaf: leaf[:0], self.outputs)
        self.warmup_seconds, self.run_seconds = self.warmup_seconds + self.run_seconds, 0.0

    def kept(self) -> Run:
        """Return the run whose draws are to be kept: this, or the one before a new warm-up that made none."""
        return self if self.done or self.dropped is None else self.dropped

    def continuation(self, most: int) -> Arrays:
        """Return what it takes to go on, with the noise of at most so many draws of each chain."""
        run = self.kept()
        noise = {} if run.outputs is None else run.outputs["noise"]
        rows = strided(run.done, most, run.stride)
        found = pack("state", run.state) | pack("unit", run.unit) | pack("guide", run.guide)
        found |= pack("noise", jax.tree.map(lambda x: np.moveaxis(x[rows], 1, 0), noise))
        for name, states in (("begun", run.begun), ("warm", run.warm)):
            found |= {} if states is None else pack(name, states)
        return found

    def origin(self, most: int) -> dict[str, Any]:
        """Return the plain facts that belong to it."""
        run = self.kept()
        rows = strided(run.done, most, run.stride)
        return {
            "key": words(run.key),
            "stride": int(rows[1]) if len(rows) > 1 else run.stride,
            "warmup_left": run.warmup_left,
            "looks_left": run.looks_left,
            "target_accept": run.target_accept,
            "first": None if run.first is None else list(run.first),
        }


def _noise_shapes(shapes: HMCState, stored: Arrays) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of the noise of the draws that are kept: (chains, draws, ...), from those of the chains."""
    count = stored["noise_0"].shape[1] if "noise_0" in stored else 0
    one = shapes.z["noise"]
    return {name: jax.ShapeDtypeStruct((x.shape[0], count, *x.shape[1:]), x.dtype) for name, x in one.items()}

"""`cross_check`: from a model to a verdict, in one call.

    check = ssmscan.cross_check(jax.random.key(0), ssm)

Two engines that share as little as the model allows sample the same posterior until `ssmscan.compare` says *agree* or
*disagree*, or the time is out.  A mistake in one of them, or in what only one of them uses, then shows.

Which engines, and what they share: `ssmscan.inference.engines`.  Repeated looks, and how far the runs grow between
them: `ssmscan.inference.looks`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ssmscan.arguments import require_flag, require_instance, require_number
from ssmscan.errors import ModelError
from ssmscan.inference.engines import Engaged, Engine, choices, require_engines, shared
from ssmscan.inference.interrupts import hold_interrupts, interrupt_after
from ssmscan.inference.looks import MOST_LOOKS, Pace, growth, next_growth, share, within
from ssmscan.inference.progress import phase
from ssmscan.model.keys import one_key
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_data
from ssmscan.results.agreement import Comparison, compare
from ssmscan.results.checked import CrossCheck, Look, agreed, deciding, disagreed, missed, total_draws
from ssmscan.results.criteria import DEFAULT
from ssmscan.results.health import ResultWarning
from ssmscan.results.result import Result
from ssmscan.results.verdicts import Verdict

RESERVE = 0.03
"""Part of the time that is kept for the last comparison."""

PATIENCE = 3
"""Looks after which an engine whose fault no number of draws mends is given up."""

AGAIN = 0.3
"""Part of the compilation that a second call of an engine is taken to need, until one was timed."""


def cross_check(
    key: jax.Array,
    ssm: StateSpaceModel,
    *,
    seconds: float = 120.0,
    engines: Mapping[str, Engine] | None = None,
    start: CrossCheck | None = None,
    progress: bool = True,
) -> CrossCheck:
    """Sample the posterior by two engines until they agree, disagree, or the time is out.

    Example:
        >>> import jax, ssmscan
        >>> from ssmscan import datasets
        >>> from ssmscan.stochastic_volatility import stochastic_volatility
        >>> ssm = ssmscan.trace(stochastic_volatility, datasets.gbpusd().values[:50])
        >>> engines = {
        ...     "nuts": ssmscan.NUTS(num_warmup=500, num_paths=0, progress=False),
        ...     "pmmh": ssmscan.PMMH(num_warmup=1000, num_particles=32, num_paths=0, progress=False),
        ... }
        >>> check = ssmscan.cross_check(jax.random.key(0), ssm, seconds=60, engines=engines, progress=False)
        >>> print(check.title)
        Cross-check of nuts and pmmh: ...

    Args:
        key: one PRNG key, typed or raw.
        ssm: a model from `ssmscan.trace`.
        seconds: time for all of it, compilation included.  An engine that is at work then is stopped, as by Control-C,
            except while it compiles.
        engines: name -> engine, at least two; None chooses two that share as little as possible, and keeps no state
            paths.
        start: a cross-check of the same model to go on from, with its draws and its looks.
        progress: whether to show on a terminal what is under way, what the verdict would be, and the time left.

    Returns:
        A `CrossCheck`: verdict, sentences, comparison and results.  Stopped by Control-C, it holds what there is.  Its
        comparison has intervals and p values at the level of one look: all looks together have the usual one.

    Raises:
        ModelError: if the model has no parameters, or fewer than two engines run it.
        TypeError: if an engine is none.
        ValueError: if there are fewer than two engines, or `start` has used up its looks or is of other engines.
    """
    began = time.perf_counter()
    require_data(ssm)
    require_number("seconds", seconds, 0.0, np.inf)
    require_flag("progress", progress)
    if not ssm.parameters:
        raise ModelError(
            "the model has no parameters, so there is nothing that two engines could disagree about. Use "
            "ssmscan.ParticleFilter for states and likelihood, or ssmscan.NUTS for states."
        )
    rows = choices(ssm, progress) if engines is None else [[Engaged(*item)] for item in require_engines(engines)]
    run = _Run(one_key(key), ssm, _Clock(began, float(seconds)), progress, rows, start)
    with hold_interrupts(), interrupt_after(seconds - (time.perf_counter() - began)) as out_of_time:
        run.engage(any_two=engines is None)
        run.look_and_lengthen()
        return run.outcome(out_of_time=out_of_time.is_set())


class _Clock(NamedTuple):
    """When it began, and the seconds there are."""

    began: float
    seconds: float

    @property
    def gone(self) -> float:
        return time.perf_counter() - self.began

    @property
    def left(self) -> float:
        return self.seconds * (1.0 - RESERVE) - self.gone


class _Run:
    """A cross-check under way: results, looks, and how fast each engine is."""

    def __init__(
        self,
        key: jax.Array,
        ssm: StateSpaceModel,
        clock: _Clock,
        progress: bool,
        rows: list[list[Engaged]],
        start: CrossCheck | None,
    ) -> None:
        self.ssm, self.clock, self.progress, self.rows = ssm, clock, progress, rows
        names = [one.name for row in rows for one in row]
        self.keys = dict(zip(names, jax.random.split(key, len(names))))
        self.results: dict[str, Result] = {}
        self.looks: list[Look] = []
        if start is not None:
            _require_continues(start, names)
            self.results = {name: result for name, result in start.results.items() if result.num_draws}
            self.looks = list(start.looks)
        self.engaged: list[Engaged] = []
        self.paces: dict[str, Pace] = {}
        self.comparison: Comparison | None = None
        self.stopped = False

    def engage(self, *, any_two: bool) -> None:
        """Run one engine of each row for the first time, the next where the model is refused, until there are two."""
        refusals: dict[str, ModelError] = {}
        # What is left of the rows comes last: then both engines are of one row.
        rest = [one for row in self.rows for one in row[1:]]
        for row in [*self.rows, rest] if any_two else self.rows:
            for one in [one for one in row if one.name in self.results] or row:
                if one in self.engaged or one.name in refusals or self.stopped or any_two and len(self.engaged) == 2:
                    continue
                try:
                    self._first(one)
                except ModelError as error:
                    if not any_two:
                        raise
                    refusals[one.name] = error
                    continue
                self.engaged.append(one)
                break
        if not self.stopped and len(self.engaged) < 2:
            reasons = " ".join(dict.fromkeys(map(str, refusals.values())))
            raise ModelError(f"fewer than two engines run this model, so that there is nothing to compare. {reasons}")

    def look_and_lengthen(self) -> None:
        """Compare, and lengthen the runs, until there is a verdict or no way to it."""
        while self._look() is Verdict.CANNOT_TELL and not self.stopped and len(self.looks) < MOST_LOOKS:
            if len(self.looks) >= PATIENCE and self._hopeless():
                return
            wanted = self._wanted()
            planned = within(next_growth(wanted, MOST_LOOKS - len(self.looks)), self.paces, self.clock.left)
            if planned is None:
                return
            for one in self.engaged:
                if planned[one.name] > 1.0 and not self.stopped:
                    self._lengthen(one, planned[one.name])

    def _hopeless(self) -> bool:
        """Whether an engine has a fault that more draws do not mend."""
        assert self.comparison is not None
        return any(report.fault and np.isnan(report.fault.more_draws) for report in self.comparison.engines)

    def outcome(self, *, out_of_time: bool) -> CrossCheck:
        """Say what was found."""
        verdict, after = Verdict.CANNOT_TELL, f"after {len(self.looks)} looks and {self.clock.gone:.0f} s"
        why = "Control-C stopped it" if self.stopped and not out_of_time else "Time is out"
        if self.comparison is None:
            sentences = (self._no_look(why),)
        else:
            pair = deciding(self.comparison)
            verdict = pair.verdict
            if verdict is Verdict.AGREE:
                sentences = (agreed(pair),)
            elif verdict is Verdict.DISAGREE:
                sentences = disagreed(self.comparison, pair)
            elif not out_of_time and not self.stopped and self._hopeless():
                other = "Give another engine its place with engines=, or write the model in other parameters."
                sentences = (f"More draws would not mend it {after}. {missed(pair, DEFAULT.tolerances)}", other)
            elif len(self.looks) == MOST_LOOKS:
                again = "Another key, with longer runs from the start, has looks of its own."
                sentences = (f"All looks are used up {after}. {missed(pair, DEFAULT.tolerances)}", again)
            else:
                sentences = (f"{why} {after}. {missed(pair, DEFAULT.tolerances)}", self._going_on())
        notes = self.comparison.notes if self.comparison else ()
        sentences = (*sentences, *notes, *shared(self.engaged))
        return CrossCheck(verdict, sentences, self.comparison, self.results, tuple(self.looks))

    def _first(self, one: Engaged) -> None:
        """Run an engine for the first time, unless there is a result to go on from."""
        old = self.results.get(one.name)
        if old is not None:
            self.paces[one.name] = Pace(old.costs.compile_seconds, _drawing(old))
            return
        with phase(f"cross-check: {one.name}, {max(self.clock.left, 0.0):.0f} s left", progress=self.progress):
            self._sample(one.name, one.engine, None)

    def _lengthen(self, one: Engaged, factor: float) -> None:
        """Go on with an engine, saying how it stands."""
        old, expected = self.results[one.name], self.paces[one.name].seconds(factor)
        so_far = "; ".join(f"{p.title}: {p.verdict.value}" for p in (self.comparison.pairs if self.comparison else ()))
        text = (
            f"cross-check: {so_far}; {one.name} for look {len(self.looks) + 1} of {MOST_LOOKS}, about {expected:.0f} s "
            f"of {self.clock.left:.0f} s left"
        )
        with phase(text, progress=self.progress):
            self._sample(one.name, one.lengthened(old, factor), old)

    def _sample(self, name: str, engine: Engine, start: Result | None) -> None:
        """Let an engine run, and time it."""
        began = time.perf_counter()
        with warnings.catch_warnings():
            # What there is to say of a result stands in the comparison.
            warnings.simplefilter("ignore", ResultWarning)
            try:
                result = engine.run(self.keys[name], self.ssm, **({} if start is None else {"start": start}))
            except KeyboardInterrupt:
                self.stopped = True
                return
        seconds, drawing = time.perf_counter() - began, _drawing(result)
        if start is None:
            self.paces[name] = Pace(AGAIN * result.costs.compile_seconds, drawing)
        else:
            self.paces[name] = Pace(max(seconds - drawing + _drawing(start), 0.0), drawing)
        self.results[name] = result
        self.stopped = result.interrupted

    def _look(self) -> Verdict | None:
        """Compare the results, which is a look of its own if there are new draws; None if an engine has none."""
        results = {one.name: self.results[one.name] for one in self.engaged if one.name in self.results}
        if len(results) < max(len(self.engaged), 2) or not all(result.num_draws for result in results.values()):
            return None
        draws = total_draws(results)
        with phase("cross-check: comparing", progress=self.progress):
            self.comparison = compare(
                tolerances=DEFAULT.tolerances,
                level=1.0 - share(1.0 - DEFAULT.level),
                significance=share(DEFAULT.significance),
                **results,
            )
        judgement = deciding(self.comparison).judgement
        if not self.looks or self.looks[-1].draws != draws:
            self.looks.append(Look(self.clock.gone, draws, judgement))
        return judgement.verdict

    def _wanted(self) -> dict[str, float]:
        """Return how many times as long each run should be for a verdict."""
        return {} if self.comparison is None else growth(self.comparison, self.paces, DEFAULT.tolerances)

    def _no_look(self, why: str) -> str:
        with_draws = [one.name for one in self.engaged if (r := self.results.get(one.name)) and r.num_draws]
        kept = (
            f" {' and '.join(with_draws)} made draws, which the result holds: start=check keeps them."
            if with_draws
            else ""
        )
        return (
            f"{why} after {self.clock.gone:.0f} s, before there were draws of two engines to compare. Give it more "
            f"seconds.{kept}"
        )

    def _going_on(self) -> str:
        wanted = self._wanted()
        seconds = sum(self.paces[name].seconds(factor) for name, factor in wanted.items())
        return (
            f"Nothing is lost: cross_check with start=check goes on with these draws, for an expected {seconds:.0f} s, "
            "and an engine alone with engine.run(key, ssm, start=check.results[name])."
        )


def _drawing(result: Result) -> float:
    """Return the seconds that the draws of a result took: of independent runs all, of chains those after warm-up."""
    costs = result.costs
    return costs.run_seconds + (costs.warmup_seconds if result.independent_runs else 0.0)


def _require_continues(start: Any, names: list[str]) -> None:
    """Raise unless a cross-check can go on with these engines."""
    require_instance("start", start, CrossCheck, "a CrossCheck, as cross_check returns it")
    if unknown := sorted(start.results.keys() - set(names)):
        raise ValueError(f"start holds results of {', '.join(unknown)}, and the engines are {', '.join(names)}.")
    if len(start.looks) == MOST_LOOKS:
        raise ValueError(
            f"start has used its {MOST_LOOKS} looks, so that no level is left for another: begin again, with "
            "another key and longer runs."
        )

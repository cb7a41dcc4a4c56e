"""Call every public function with malformed arguments and count what comes of it.

    python -m tests.fuzz [function ...]

One argument of a proper call is replaced at a time.  The outcome is

* clear: an error that a `raise` of this package made, with a message that names the argument;
* unnamed: such an error that does not name it;
* raw: any other error, or none within a minute;
* same: no error, and the result of the proper call that the value stands for;
* accepted: no error; what is known to be harmless is counted apart.

The calls are derandomised: the same code gives the same table.  Nothing here is part of the test suite.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import os
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["JAX_TRACEBACK_FILTERING"] = "off"

import jax
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings

import ssmscan
from tests.fuzz.calls import Call
from tests.fuzz.more_calls import calls
from tests.fuzz.values import NOTHING, Bad, Kind

PACKAGE = os.path.dirname(ssmscan.__file__)
SECONDS = 60
OUTCOMES = ("clear", "unnamed", "raw", "same", "harmless", "accepted")


class Outcome(NamedTuple):
    """What came of a call."""

    kind: str
    call: str
    what: str


class Endless(BaseException):
    """A call took more than a minute."""


def _stop(*_: Any) -> None:
    raise Endless


def is_ours(error: BaseException) -> bool:
    """Whether a `raise` of the package made the error, or passed it on as its own."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    line = linecache.getline(last.filename, last.lineno or 0).strip()
    return last.filename.startswith(PACKAGE) and line.startswith("raise")


def names(error: BaseException, call: Call, argument: str) -> bool:
    """Whether the message names the argument."""
    return any(word in str(error) for word in (argument, *call.names.get(argument, ())))


def equal(one: Any, two: Any) -> bool:
    """Whether two results are the same."""
    if isinstance(one, str | int | float | bool | type(None)) or not jax.tree.leaves(one):
        return one == two
    with contextlib.suppress(Exception):
        return jax.tree.all(jax.tree.map(lambda a, b: bool(np.allclose(a, b, equal_nan=True)), one, two))
    return repr(one) == repr(two)


def run(call: Call, arguments: dict[str, Any]) -> Any:
    """Make the call and use what it returns."""
    made = call.make(**arguments)
    return made if call.use is None else call.use(made)


def attempt(call: Call, argument: str, bad: Bad) -> Outcome:
    """Make one malformed call."""
    shown = f"{call.name}({argument}={bad.shown})"

    def of(value: Any) -> Any:
        return run(call, {**call.proper, argument: value})

    def once() -> Any:
        if bad.traced:
            return jax.make_jaxpr(lambda value: of(value) and None)(bad.value)
        return of(bad.value)

    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = once()
    except Endless:
        return Outcome("raw", shown, f"nothing within {SECONDS} s")
    except Exception as error:
        signal.alarm(0)
        text = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:170]
        if not is_ours(error):
            where = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in where if frame.filename.startswith(PACKAGE)]
            place = f" [{os.path.relpath(own[-1].filename, PACKAGE)}:{own[-1].lineno}]" if own else ""
            return Outcome("raw", shown, text + place)
        return Outcome("clear" if names(error, call, argument) else "unnamed", shown, text)
    finally:
        signal.alarm(0)
    if argument in call.free:
        return Outcome("harmless", shown, call.free[argument])
    if bad.meant is not NOTHING:
        proper = run(call, {**call.proper, argument: bad.meant})
        if equal(found, proper):
            return Outcome("same", shown, "")
    return Outcome("accepted", shown, repr(found).replace("\n", " ")[:110])


def explore(call: Call) -> list[Outcome]:
    """Try every argument of a function."""
    run(call, dict(call.proper))
    outcomes: dict[str, Outcome] = {}

    def try_argument(argument: str, kind: Kind) -> None:
        def one(bad: Bad) -> None:
            key = f"{argument}={bad.shown}"
            if key not in outcomes:
                outcomes[key] = attempt(call, argument, bad)

        for bad in kind.special:
            one(bad)
        if kind.plain is None:
            return

        @seed(0)
        @settings(
            max_examples=call.examples,
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(kind.plain)
        def plain(bad: Bad) -> None:
            one(bad)

        plain()

    for argument, kind in call.kinds.items():
        try_argument(argument, kind if isinstance(kind, Kind) else kind())
    return list(outcomes.values())


def show(kind: str, area: str, found: list[Outcome]) -> None:
    """Print outcomes, those of one argument that end alike together."""
    alike: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in found:
        end = outcome.what.split("[")[-1] if kind == "raw" else outcome.what.split(",")[0]
        alike.setdefault((outcome.call.split("=")[0], end), []).append(outcome)
    for group in alike.values():
        print(f"{kind:9s} {area:10s} {group[0].call}\n{'':20s} {group[0].what}")
        if others := [outcome.call.split("=", 1)[1][:-1] for outcome in group[1:]]:
            print(f"{'':20s} also {'; '.join(others)[:300]}")


def main(wanted: list[str]) -> int:
    """Print a line for each function, then every outcome that is not clear."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _stop)
    print(f"{'area':10s} {'function':32s}" + "".join(f"{kind:>10s}" for kind in OUTCOMES) + f"{'seconds':>9s}")
    total: Counter[str] = Counter()
    rest: dict[str, list[Outcome]] = {}
    for call in calls():
        if wanted and call.name not in wanted:
            continue
        begin = time.perf_counter()
        outcomes = explore(call)
        counts = Counter(outcome.kind for outcome in outcomes)
        total += counts
        seconds = time.perf_counter() - begin
        row = "".join(f"{counts[kind]:10d}" for kind in OUTCOMES)
        print(f"{call.area:10s} {call.name:32s}{row}{seconds:9.1f}", flush=True)
        rest.setdefault(call.area, []).extend(o for o in outcomes if o.kind in ("raw", "unnamed", "accepted"))
    print(f"{'':10s} {'all':32s}" + "".join(f"{total[kind]:10d}" for kind in OUTCOMES) + "\n")
    for kind in ("raw", "unnamed", "accepted"):
        for area, found in rest.items():
            show(kind, area, [outcome for outcome in found if outcome.kind == kind])
    return int(total["raw"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

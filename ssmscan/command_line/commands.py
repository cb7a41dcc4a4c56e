"""`ssmscan trace`, `check` and `selftest`: from a file to what is printed, and the exit status.

The status is 0 where nothing speaks against the model, 1 where something does, and 2 where a file, a column or a
function is not there.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable

import jax

import ssmscan
from ssmscan.certification.selftest import selftest as run_oracles
from ssmscan.command_line import facts, prior_look, suitable
from ssmscan.command_line.columns import Columns, UsageError, read
from ssmscan.command_line.user_model import Called, UserError, called, load, users_code
from ssmscan.model.sites import Role
from ssmscan.model.statespace.requirements import require_drawn
from ssmscan.particles.finite_states import can_enumerate
from ssmscan.results.table import wrapped

FINE, AGAINST, MISUSED = 0, 1, 2


def exit_status(command: Callable[[Namespace], int], options: Namespace) -> int:
    """Run a command; print what it refuses to the standard error, and return the exit status."""
    try:
        return command(options)
    except UsageError as error:
        print(f"ssmscan: {error}", file=sys.stderr)
        return MISUSED
    except ssmscan.ModelError as error:
        print("\n".join(["The model is refused.", "", wrapped(str(error)), "", _REFUSALS]), file=sys.stderr)
        return AGAINST
    except UserError as error:
        print(error, file=sys.stderr)
        return AGAINST


_REFUSALS = "docs/refusals.md has every such message, with what to write instead."


def selftest(options: Namespace) -> int:
    """Print the exact oracles on this machine."""
    found = run_oracles(seed=options.seed)
    print(found)
    return FINE if found else AGAINST


def trace(options: Namespace) -> int:
    """Print what `ssmscan.trace` finds in a user's model."""
    ssm, one, data = _traced(options)
    if data is not None:
        _say(_given(one, data))
    print(ssm)
    return FINE


def check(options: Namespace) -> int:
    """Print what is to know of data, model and engines before the first long run."""
    ssm, one, data = _traced(options)
    keys = jax.random.split(jax.random.key(options.seed), 5)
    against = False
    if data is not None:
        _head("Data")
        _say([_given(one, data)[0], *facts.facts(data, [name for names in one.used.values() for name in names])])
    _head("Model")
    print(ssm, flush=True)
    _head("Parts")
    ssm.check(keys[0])
    _say(["Put together again, the parts that engines run give NumPyro's density of the model as it was written."])
    _head("Prior")
    try:
        require_drawn(ssm, Role.PARAMETER)
        require_drawn(ssm)
        looks = [prior_look.simulated(keys[1], ssm)]
        if not can_enumerate(ssm):
            looks.append(prior_look.filtered(keys[2], ssm))
        _say(sentence for look in looks for sentence in look.sentences)
        against = any(look.impossible for look in looks)
    except ssmscan.ModelError as error:
        _say([f"Nothing can be simulated: {error}"])
    _head("Engines")
    found = suitable.suitable(ssm)
    print(found.table.grid())
    print()
    _say([found.advice])
    if options.certify:
        _head("Certificate")
        certificate = ssmscan.certify(ssm, key=keys[4], seconds=options.seconds)
        print(certificate, flush=True)
        against = against or bool(certificate.failed)
    if options.cross_check:
        _head("Cross-check")
        checked = ssmscan.cross_check(keys[3], ssm, seconds=options.seconds)
        print(checked, flush=True)
        against = against or checked.verdict is ssmscan.Verdict.DISAGREE
    return AGAINST if against else FINE


def _traced(options: Namespace) -> tuple[ssmscan.StateSpaceModel, Called, Columns | None]:
    """Return the traced model, how it was called, and its data."""
    data = None if options.data is None else read(options.data)
    module = load(options.model)
    one = called(module, options.model, options.name, data, options.columns)
    with users_code(options.model, f"calling {options.name} to trace it"):
        ssm = ssmscan.trace(one.model, *one.args, **one.kwargs)
    if one.time is not None and len(ssm.loops) == 1 and ssm.num_steps == len(one.time):
        ssm = ssm.with_labels(time=one.time)
    return ssm, one, data


def _given(one: Called, data: Columns) -> list[str]:
    """Return a sentence on which columns the model was given, and one on those that it was not."""
    taken = {name for names in one.used.values() for name in names}
    pairs = [f"{argument} = column{'s' * (len(names) > 1)} {', '.join(names)}" for argument, names in one.used.items()]
    left = [name for name in data.names if name not in taken]
    without = f"; not used: {', '.join(left)}" if left else ""
    return [f"{'; '.join(pairs)} of {data.path}{without}."]


def _head(title: str) -> None:
    print(f"\n{title}\n{'-' * len(title)}", flush=True)


def _say(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        print(wrapped(sentence), flush=True)

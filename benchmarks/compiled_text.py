"""What the loop of a compiled program starts in one step: counted in its text, as XLA prints it after optimisation.

On a GPU every instruction of the loop's body is a kernel or a copy, but those that only name memory: 2 microseconds
each, whatever there is to compute, while the cloud is small.  On a CPU they are loops of one function, and their number
a rough guide to what a GPU would start, where fusions are larger.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

# They name memory, or say in which order things are done.
FREE = frozenset("parameter constant tuple get-tuple-element bitcast after-all opt-barrier".split())
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = .*? ([a-z][a-z0-9\-]*)\(")
_TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"')


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    opcode: str
    text: str

    def called(self, *attributes: str) -> list[str]:
        """Return the computations that attributes name."""
        found = re.findall(rf"(?:{'|'.join(attributes)})=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", self.text)
        return [name.strip().lstrip("%") for group, one in found for name in (group or one).split(",")]

    @property
    def trips(self) -> int | None:
        """Return how often a loop goes round, where XLA knows it."""
        found = _TRIPS.search(self.text)
        return int(found[1]) if found else None


class StepCount(NamedTuple):
    """What one step of a loop starts.

    Attributes:
        kernels: instructions that are done at every step, those of an inner loop as often as it goes round.
        in_branches: of conditionals, the longer branch of each.
        conditionals: the host waits for what each of them is about to do.
        unknown_loops: inner loops of which XLA does not know how often they go round; they count once.
        kinds: kernels by opcode, branches included.
        names: names of the kernels, branches included.
    """

    kernels: int
    in_branches: int
    conditionals: int
    unknown_loops: int
    kinds: dict[str, int]
    names: list[str]


def computations(text: str) -> dict[str, list[Instruction]]:
    """Return the instructions of each computation of a module."""
    found: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            body = found.setdefault(head[1], [])
        elif instruction := _INSTRUCTION.match(line):
            body.append(Instruction(instruction[1], instruction[2], line))
    return found


def step_of_loop(text: str, trips: int) -> StepCount:
    """Count what one step of the largest loop with so many trips starts.

    Raises:
        ValueError: if there is none.
    """
    bodies = computations(text)
    loops = [one for body in bodies.values() for one in body if one.opcode == "while" and one.trips == trips]
    if not loops:
        raise ValueError(f"no loop of {trips} trips in this text")
    return max((_count(bodies, one.called("body")[0]) for one in loops), key=lambda count: count.kernels)


def _count(bodies: dict[str, list[Instruction]], name: str) -> StepCount:
    kernels = in_branches = conditionals = unknown = 0
    kinds: Counter[str] = Counter()
    names: list[str] = []
    for one in bodies[name]:
        if one.opcode in FREE:
            continue
        if one.opcode == "call" or one.opcode == "while":
            inner = [_count(bodies, one.called("to_apply" if one.opcode == "call" else "body")[0])]
        elif one.opcode == "conditional":
            inner = [_count(bodies, branch) for branch in one.called(*_BRANCHES)]
        else:
            inner = []
        for part in inner:
            names += part.names
            kinds.update(part.kinds)
        if one.opcode == "conditional":
            longest = max(inner, key=lambda part: part.kernels + part.in_branches)
            conditionals += 1 + longest.conditionals
            in_branches += longest.kernels + longest.in_branches
            unknown += longest.unknown_loops
        elif inner:
            times = 1 if one.opcode == "call" else one.trips or 1
            kernels += times * inner[0].kernels
            in_branches += times * inner[0].in_branches
            conditionals += times * inner[0].conditionals
            unknown += inner[0].unknown_loops + (one.opcode == "while" and one.trips is None)
        else:
            kernels += 1
            kinds[one.opcode] += 1
            names.append(one.name)
    return StepCount(kernels, in_branches, conditionals, unknown, dict(kinds), names)


_BRANCHES = ("branch_computations", "true_computation", "false_computation")

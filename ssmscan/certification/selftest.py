"""`selftest`: exact oracles on the user's machine and device.

    print(ssmscan.certification.selftest.selftest())            # or: ssmscan selftest

A sound installation can still compute wrongly: another device rounds, sums and sorts differently, and a library
beneath may have a fault.  What is computed, and where its exact values are from: `ssmscan.certification.oracles`.
All oracles together raise a false alarm with probability `ERROR_RATE`.
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.certification.certificate import ERROR_RATE, z_threshold
from ssmscan.certification.oracles import COMPARISONS, ORACLES, Number
from ssmscan.inference.progress import phase
from ssmscan.results.table import Table, rounded, significant


class Oracle(NamedTuple):
    """One number and its exact value.

    Attributes:
        name: what was computed.
        exact: its exact value.
        found: what was found.
        error: its standard error, or a bound on rounding, see `rounding`.
        rounding: whether the error is a bound and not a standard error.
        z: the largest difference in errors.
        threshold: what |z| may be.
        seconds: time it took, compilation included.
    """

    name: str
    exact: float
    found: float
    error: float
    rounding: bool
    z: float
    threshold: float
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether it is what it must be."""
        return bool(abs(self.z) <= self.threshold)


@dataclass(frozen=True, eq=False, repr=False)
class SelfTest:
    """The oracles on this machine.  It is true, as a condition, where all have passed.

    Attributes:
        oracles: one for each number.
        device: what they were computed on.
        versions: of what was used, by name.
        dtype: of real numbers.
        interrupted: whether Control-C ended it.
    """

    oracles: tuple[Oracle, ...]
    device: str
    versions: dict[str, str]
    dtype: str
    interrupted: bool = False

    def __bool__(self) -> bool:
        return self.passed

    @property
    def passed(self) -> bool:
        """Whether all oracles agree, and none is missing."""
        return all(oracle.passed for oracle in self.oracles) and not self.interrupted

    def table(self) -> Table:
        """Return the table, one row for each oracle."""
        wrong = [oracle.name for oracle in self.oracles if not oracle.passed]
        verdict = f"wrong: {'; '.join(wrong)}" if wrong else "stopped" if self.interrupted else "all agree"
        seconds = sum(oracle.seconds for oracle in self.oracles)
        rows = tuple(
            (
                o.name,
                "ok" if o.passed else "WRONG",
                f"{o.exact:.10g}",
                rounded(o.found, o.error / 10),
                f"{significant(o.error)} ({'bound' if o.rounding else 'se'})",
                significant(o.z, 3),
                f"{o.seconds:.1f}",
            )
            for o in self.oracles
        )
        notes = (
            f"{self.device}; {', '.join(f'{name} {number}' for name, number in self.versions.items())}; {self.dtype}.",
            f"z: difference in errors, of several numbers the furthest off; a rounding bound is exceeded from "
            f"1 on. Where all is right one of them is wrong with probability {ERROR_RATE:g} at most.",
        )
        if wrong:
            notes += (
                "Results on this device are not to be trusted. Try JAX_PLATFORMS=cpu, and another version of jaxlib; "
                "then report the table.",
            )
        columns = ("oracle", "", "exact", "found", "error", "z", "s")
        return Table(f"Self-test: {verdict} ({seconds:.0f} s)", columns, rows, labels=2, notes=notes)

    def __str__(self) -> str:
        return str(self.table())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def to_markdown(self) -> str:
        """Return the table in Markdown."""
        return self.table().to_markdown()


def selftest(*, progress: bool = True, seed: int = 0) -> SelfTest:
    """Compute all oracles on the default device.

    Args:
        progress: whether to show on a terminal what is under way.
        seed: of the random numbers.

    Returns:
        A `SelfTest`; stopped by Control-C, it holds the oracles done by then.
    """
    threshold = z_threshold(COMPARISONS, ERROR_RATE)
    oracles: list[Oracle] = []
    interrupted = False
    try:
        for number, (name, oracle) in enumerate(ORACLES.items()):
            with phase(f"self-test: {name}", progress=progress):
                began = time.perf_counter()
                found = oracle(jax.random.fold_in(jax.random.key(seed), number))
                oracles.append(_compared(name, found, threshold, time.perf_counter() - began))
    except KeyboardInterrupt:
        interrupted = True
    device = jax.devices()[0]
    where = f"{device.platform}: {device.device_kind}, {platform.machine()}, Python {platform.python_version()}"
    versions = {name: version(name) for name in ("jax", "jaxlib", "numpyro", "numpy")}
    return SelfTest(tuple(oracles), where, versions, str(jnp.zeros(()).dtype), interrupted)


def _compared(name: str, number: Number, threshold: float, seconds: float) -> Oracle:
    """Take the number that is furthest off; one that is not finite is."""
    exact, found, error = (np.atleast_1d(np.asarray(x, np.float64)) for x in number[:3])
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.where(found == exact, 0.0, (found - exact) / error)
    z = np.where(np.isfinite(z), z, np.inf)
    worst = int(np.argmax(np.abs(z)))
    exact, found, error = (float(np.broadcast_to(x, z.shape)[worst]) for x in (exact, found, error))
    limit = 1.0 if number.rounding else threshold
    return Oracle(name, exact, found, error, number.rounding, float(z[worst]), limit, seconds)

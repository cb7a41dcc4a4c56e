"""What a run will hold on the device, known before it runs.

The arrays of a result are known from the traced program without computing any of them.  A store that keeps T clouds
of N particles makes them the largest thing in memory by far, and a run that does not fit would end in the
operating system's hands, hours later.
"""

from __future__ import annotations

import os
from typing import Any

import jax

GIB = 2**30


def device_bytes() -> int | None:
    """Return the memory of the default device, of the machine for a CPU, in bytes; None where it is not known."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def result_bytes(shapes: Any) -> int:
    """Return the bytes of all arrays of a result, from their shapes."""
    leaves = [leaf for leaf in jax.tree.leaves(shapes) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def refuse_too_large(shapes: Any, what: str, available: int | None = None) -> None:
    """Raise if the result of a run does not fit.

    Args:
        shapes: the result, as arrays or their shapes.
        what: the run, in words, such as "FullHistory() of 1000 steps and 100 particles".
        available: memory in bytes, that of the device by default.

    Raises:
        MemoryError: the result is larger.
    """
    needed, available = result_bytes(shapes), device_bytes() if available is None else available
    if available is not None and needed > available:
        raise MemoryError(
            f"{what} needs {needed / GIB:.1f} GiB, and the device has {available / GIB:.1f} GiB. Keep less (the "
            "default FinalCloud() needs no more than one cloud), use fewer particles, or run ssmscan.long_run, which "
            "keeps one chunk of steps on the device."
        )

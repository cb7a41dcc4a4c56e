"""The file of a filter between two steps: an npz archive of its arrays and of the record of what it belongs to.

The header has the number of the format; files of format 1 have the words `ssmscan filter` in its place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.arguments import require_instance
from ssmscan.files import other_format, write_atomically
from ssmscan.particles.draws import unrolled_threefry
from ssmscan.particles.online_origin import Record, plain

_FORMAT = 2
_FORMAT_1 = "ssmscan filter"


def write(path: str | os.PathLike[str], leaves: Sequence[jax.Array], record: Record | None) -> Path:
    """Write the arrays of a filter; errors as of `ssmscan.files.write_atomically`."""
    header = {"format": _FORMAT, "leaves": len(leaves), "record": None if record is None else record.facts}
    arrays: dict[str, Any] = {f"leaf_{i}": jax.device_get(plain(leaf)) for i, leaf in enumerate(leaves)}
    arrays |= {} if record is None else {f"rows_{k}": rows for k, rows in enumerate(record.rows)}

    def save(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)

    return write_atomically(path, save)


def read(path: str | os.PathLike[str]) -> tuple[list[np.ndarray], Record | None]:
    """Read what `write` wrote.

    Raises:
        TypeError: if it is not a path.
        FileNotFoundError: if the file does not exist.
        OSError: if it may not be read.
        ValueError: if it is a file of something else, damaged, or of another format.
    """
    path = Path(require_instance("path", path, (str, os.PathLike), "the path of a saved filter"))
    if not path.exists():
        raise FileNotFoundError(f"there is no saved filter at {path}")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            found = 1 if header["format"] == _FORMAT_1 else int(header["format"])
            if found == _FORMAT:
                leaves = [archive[f"leaf_{i}"] for i in range(header["leaves"])]
                facts = header["record"]
                if facts is None:
                    return leaves, None
                return leaves, Record(facts, tuple(archive[f"rows_{k}"] for k in range(len(facts["data"]))))
    except (PermissionError, IsADirectoryError) as error:
        raise type(error)(f"cannot read {path} as a saved filter: {error.strerror}") from error
    except Exception as error:  # whatever a file of something else makes of NumPy, zipfile, zlib and json
        raise ValueError(
            f"{path} is not a filter saved by Online.save, or it is damaged: reading it ended with "
            f"{type(error).__name__}. Results of samplers are read by ssmscan.load."
        ) from error
    raise other_format(path, found, _FORMAT, again="filter the series again from its start")


def typed(leaf: np.ndarray, like: Any) -> jax.Array:
    """Return an array of a file as the array of a filter that has the type of `like`: keys typed again."""
    is_key = jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(jnp.asarray(leaf), impl=unrolled_threefry) if is_key else jnp.asarray(leaf)

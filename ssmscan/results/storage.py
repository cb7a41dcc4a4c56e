"""Results in files: one netCDF file, one DataTree, no pickle.

The arrays are ordinary netCDF variables that ArviZ, xarray, R or Julia can read; everything that is not an
array is one JSON string in the attribute ``ssmscan`` of the root, since netCDF attributes know neither
booleans nor missing values nor nesting.

A file appears under its name only when it is complete: it is written under a temporary name beside it
and renamed, which on one file system is a single step.  Reading loads everything and closes the file, so
that the same path can be written again.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssmscan.results import containers

_ATTRIBUTE = "ssmscan"
_ENGINE = "h5netcdf"


def write(
    path: str | os.PathLike[str],
    groups: Mapping[str, Mapping[str, containers.Variable]],
    header: Mapping[str, Any],
) -> Path:
    """Write groups of variables and a JSON header; return the path.

    Raises:
        FileNotFoundError: if the folder of `path` does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot save {path}: the folder {path.parent} does not exist; make it first")
    tree = containers.datatree(groups, {_ATTRIBUTE: json.dumps(header)})
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        tree.to_netcdf(temporary, engine=_ENGINE)
        # mkstemp makes private files; a result is as readable as any file the user creates
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def read(path: str | os.PathLike[str]) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Read what `write` wrote: arrays by group and name (coordinates included), and the header.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a netCDF file of something else.
    """
    import xarray

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no result to load at {path}")
    with xarray.open_datatree(path, engine=_ENGINE, decode_times=False) as tree:
        if _ATTRIBUTE not in tree.attrs:
            raise ValueError(
                f"{path} is not a saved Result: its root has no attribute {_ATTRIBUTE!r}. "
                "Files of other programs are opened with arviz.from_netcdf or xarray.open_datatree"
            )
        header = json.loads(tree.attrs[_ATTRIBUTE])
        groups = {
            name: {str(key): variable.values for key, variable in node.variables.items()}
            for name, node in tree.children.items()
        }
    return groups, header

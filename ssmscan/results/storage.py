"""Results in files: one netCDF file, no pickle.

The arrays are ordinary netCDF variables that ArviZ, xarray, R or Julia can read; everything that is not an
array is one JSON string in the attribute ``ssmscan`` of the root, since netCDF attributes know neither
booleans nor missing values nor nesting.  Behind the end of the netCDF file, where no reader looks, stands its
SHA-256: a byte that a disk or a copy changed is not believed, and HDF5, which may never come back from such a file,
does not see it.  Files of format 1 have none.

A file appears under its name only when it is complete (`files.write_atomically`).  Reading loads everything and closes
the file, so that the same path can be written again.

The library below netCDF, HDF5, does not survive a write that fails: what it holds of the file cannot be given up, and
the process ends with a segmentation fault.  It therefore writes into an object that takes everything and keeps the
first error for us, in a thread of its own, where Control-C does not reach.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ssmscan.files import write_atomically
from ssmscan.results import containers

_ATTRIBUTE = "ssmscan"
_CHECKSUM = b"ssmscan sha256 "
_BLOCK = 2**20
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_EPOCH = "1970-01-01"
_UNITS = {"days": "D", "hours": "h", "minutes": "m", "seconds": "s", "microseconds": "us", "nanoseconds": "ns"}
_OTHER_FILES = {
    b"PK\x03\x04": "a zip archive, perhaps a filter that Online.save wrote: that is what ssmscan.resume reads",
    b"CDF": "a netCDF 3 file",
}

Groups = Mapping[str, Mapping[str, containers.Variable]]


def write(
    path: str | os.PathLike[str], groups: Groups, header: Mapping[str, Any], attributes: Mapping[str, str]
) -> Path:
    """Write groups of variables, a JSON header, and attributes for other readers; return the path.

    Raises:
        FileNotFoundError: if the folder of `path` does not exist.
        OSError: if the file cannot be written, on a full disk for one; what was there before is untouched.
    """
    _require_path("save", path)
    full = {name: containers.with_coordinates(variables) for name, variables in groups.items() if variables}
    root = {_ATTRIBUTE: json.dumps(header), **attributes}

    def fill(temporary: Path) -> None:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(_fill, temporary, full, root, attributes).result()
        with open(temporary, "r+b") as file:
            file.write(_checksum(file, os.fstat(file.fileno()).st_size))

    return write_atomically(path, fill)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Read what `write` wrote: arrays by group and name (coordinates included), and the header.

    Raises:
        TypeError: if `path` is not a path.
        FileNotFoundError: if there is no such file.
        ValueError: if it is a file of something else, or damaged.
    """
    h5netcdf, h5py = (containers.require(name, "reading results") for name in ("h5netcdf", "h5py"))
    path, checked = _file(path)
    try:
        with h5py.File(path, "r"):  # where HDF5 cannot open a file, h5netcdf fails once more when it is deleted
            pass
        with h5netcdf.File(path, "r", decode_vlen_strings=True) as file:
            text = file.attrs.get(_ATTRIBUTE)
            groups = {
                name: {key: _values(variable) for key, variable in group.variables.items()}
                for name, group in file.groups.items()
                if text is not None
            }
    except Exception as error:  # whatever HDF5 makes of bytes that are not its own
        raise damaged(path, f"it cannot be read as netCDF ({error})") from error
    if text is None:
        raise ValueError(
            f"{path} is not a saved Result: its root has no attribute {_ATTRIBUTE!r}. "
            "Files of other programs are opened with arviz.from_netcdf or xarray.open_datatree"
        )
    try:
        header = json.loads(text)
    except (TypeError, ValueError) as error:
        raise damaged(path, f"its attribute {_ATTRIBUTE!r} is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise damaged(path, f"its attribute {_ATTRIBUTE!r} must be a JSON object, got {type(header).__name__}")
    if not checked and header.get("format") != 1:
        raise damaged(
            path, "the checksum behind it is missing, so that its end was lost or another program wrote it anew"
        )
    return groups, header


def damaged(path: str | os.PathLike[str], what: str) -> ValueError:
    """Return the error that says what is wrong with a file, and what to do."""
    return ValueError(
        f"{os.fspath(path)} is not a saved Result that can be trusted: {what}. Copy it again from where it was made, "
        "or save the result again"
    )


def _require_path(action: str, path: Any) -> None:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{action} takes the path of a file, such as 'nuts.nc', got {type(path).__name__}")


def _file(path: Any) -> tuple[Path, bool]:
    """Return the path of what begins like an HDF5 file, and whether it has its checksum behind it."""
    _require_path("load", path)
    path = Path(path)
    if path.is_dir():
        inside = ", ".join(sorted(file.name for file in path.glob("*.nc"))[:4]) or "none here"
        raise IsADirectoryError(f"{path} is a folder: load takes one file that Result.save wrote ({inside})")
    if not path.is_file():
        raise FileNotFoundError(f"no result to load at {path}")
    with path.open("rb") as file:
        start = file.read(len(_SIGNATURE))
        if start != _SIGNATURE:
            known = [words for prefix, words in _OTHER_FILES.items() if start.startswith(prefix)]
            what = known[0] if known else f"not an HDF5 file (it begins with {start!r})" if start else "empty"
            raise ValueError(f"{path} is not a saved Result: it is {what}")
        size = os.fstat(file.fileno()).st_size - len(_checksum(file, 0))
        file.seek(max(size, 0))
        found = file.read()
        checked = found.startswith(_CHECKSUM)
        if checked and found != _checksum(file, size):
            raise damaged(path, "its bytes do not have the checksum that was written behind them")
    return path, checked


def _fill(path: Path, groups: Groups, root: Mapping[str, str], posterior: Mapping[str, str]) -> None:
    h5netcdf = containers.require("h5netcdf", "saving results")
    disk = _Disk(path)
    try:
        with h5netcdf.File(disk, "w") as file:
            file.attrs.update(root)
            for name, variables in groups.items():
                group = file.create_group(name)
                if name == "posterior":
                    group.attrs.update(posterior)
                for variable in variables.values():
                    for dim, size in zip(variable.dims, variable.values.shape):
                        if dim not in group.dimensions:
                            group.dimensions[dim] = size
                for key, variable in variables.items():
                    _create(group, key, variable)
    finally:
        disk.finish()


def _create(group: Any, name: str, variable: containers.Variable) -> None:
    values, marks = _encoded(variable.values)
    created = group.create_variable(name, variable.dims, values.dtype, data=values)
    created.attrs.update(marks)


def _encoded(values: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
    """Return what netCDF can hold of an array, and the attributes by which xarray knows what it was."""
    if values.dtype == bool:
        return values.view(np.int8), {"dtype": "bool"}
    if values.dtype.kind == "U":
        return values.astype(containers.require("h5py", "saving results").string_dtype()), {}
    if values.dtype.kind != "M":
        return values, {}
    # dates by the conventions CF: whole numbers of the longest unit that holds them
    finest = np.datetime_data(values.dtype)[0]
    unit, code = next((u, c) for u, c in _UNITS.items() if c == finest or np.all(values == values.astype(f"M8[{c}]")))
    numbers = values.astype(f"M8[{code}]").astype(np.int64)
    return numbers, {"units": f"{unit} since {_EPOCH}", "calendar": "proleptic_gregorian"}


def _values(variable: Any) -> np.ndarray:
    values, units = np.asarray(variable[...]), str(variable.attrs.get("units", ""))
    if variable.attrs.get("dtype") == "bool":
        return values.astype(bool)
    if units.endswith(_EPOCH):
        return values.astype(f"M8[{_UNITS[units.split()[0]]}]")
    return values.astype(str) if values.dtype == object else values


def _checksum(file: Any, size: int) -> bytes:
    """Return what stands behind the first `size` bytes of a file; its position is there afterwards."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        digest.update(block)
        size -= len(block)
    return _CHECKSUM + digest.digest()


class _Disk(io.RawIOBase):
    """A file for HDF5 whose writes never fail; `finish` closes it and raises the first error there was."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self._position = self._size = 0
        self._error: OSError | None = None

    def readable(self) -> bool:
        """Return whether it can be read."""
        return True

    def writable(self) -> bool:
        """Return whether it can be written."""
        return True

    def seekable(self) -> bool:
        """Return whether it has positions."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer and return how much; what was never written is zero."""
        found = os.pread(self._file, min(len(buffer), max(self._size - self._position, 0)), self._position)
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)

    def write(self, data: Any) -> int:
        """Write all of the data, or keep the error and take it all the same."""
        rest = memoryview(data).cast("B")
        size, at = len(rest), self._position
        while rest and self._error is None:
            try:
                written = os.pwrite(self._file, rest, at)
            except OSError as error:
                self._error = error
            else:
                rest, at = rest[written:], at + written
        self._position += size
        self._size = max(self._size, self._position)
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the size, the position unless given."""
        self._size = self._position if size is None else size
        try:
            os.ftruncate(self._file, self._size)
        except OSError as error:
            self._error = self._error or error
        return self._size

    def finish(self) -> None:
        """Close the file; raise the error that HDF5 was not told of."""
        os.close(self._file)
        if self._error is not None:
            raise self._error

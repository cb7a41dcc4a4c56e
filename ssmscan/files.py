"""The one way to write a file: whole, or not at all; and what is said of a file in another format.

A file appears under its name only when it is complete.  It is written under a temporary name beside it, brought to the
disk and renamed, which on one file system is a single step; whatever fails before that leaves what was there.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from ssmscan.arguments import require_instance

_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], None]) -> Path:
    """Write a file in one step; return its path.

    Args:
        path: the file; one that is there is replaced, the target of a link in place of the link.
        write: writes the content to the path it is given, in the same folder, and closes it.

    Raises:
        FileNotFoundError: if the folder of `path` does not exist.
        IsADirectoryError: if `path` is a folder.
        TypeError: if `path` is no path.
        OSError: if it cannot be written; the message says why, and that what was there before still is.
    """
    require_instance("path", path, (str, os.PathLike), "the path of a file")
    path = Path(path)
    try:
        target, is_folder, in_folder = Path(os.path.realpath(path)), path.is_dir(), path.parent.is_dir()
    except (OSError, ValueError) as error:  # a name that no file can have
        raise OSError(f"cannot save {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error
    if is_folder:
        raise IsADirectoryError(f"cannot save {path}: it is a folder; give the name of a file in it")
    if not in_folder:
        raise FileNotFoundError(f"cannot save {path}: the folder {path.parent} does not exist; make it first")
    temporary = target.parent / f".ssmscan-{secrets.token_hex(8)}.part"
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _failure(path, target, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _failure(path: Path, target: Path, error: OSError) -> OSError:
    """Return the error that says in a sentence why the file was not written."""
    why = error.strerror or str(error)
    if error.errno in _FULL:
        free = shutil.disk_usage(target.parent).free
        why += f" ({free / 2**20:.1f} MiB are free in {target.parent}; make room there, or give another path)"
    before = "; the file that was there before is untouched" if target.exists() else ""
    failure = OSError(f"cannot save {path}: {why}{before}")
    failure.errno = error.errno
    return failure


def other_format(path: str | os.PathLike[str], found: int, read: int, *, again: str) -> ValueError:
    """Return the error of a file in another format than the one that is read; `again` is for an earlier one."""
    age, advice = ("an earlier", again) if found < read else ("a later", "update ssmscan")
    return ValueError(f"{path} has format {found} of {age} ssmscan, and this one reads format {read}: {advice}")

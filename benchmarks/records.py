"""Where a benchmark runs, and its records, written as they are measured: a run that is cut off leaves its figures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def use_device(name: str) -> None:
    """Choose the platform, before JAX is imported; asked for "gpu", JAX looks for every kind of GPU and fails."""
    os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(name, name)


def save(path: Path | None, written: Any) -> None:
    """Write all that was measured by now, in place of what was written before; nothing without a path."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".part")
        beside.write_text(json.dumps(written, indent=1))
        beside.replace(path)


def append(path: Path | None, record: dict[str, Any]) -> None:
    """Print one record, and add it to a file of JSON lines."""
    line = json.dumps(record)
    print(line, flush=True)
    if path:
        with path.open("a") as file:
            file.write(line + "\n")

"""The rules of the house, read from the source: who imports whom, which names are private, and how long a file may be.

Every import counts, wherever it stands: at the top of a file, inside a function, or for a type checker alone.
"""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "ssmscan").rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES}
MAX_LINES = 350
# Tests hold tables of cases.
MAX_TEST_LINES = 500
MAX_EXAMPLE_LINES = 80

BOTTOM = ("errors", "arguments", "dates", "labels", "files", "tail_index", "health")
"""Files that the whole package may use; each imports no more than those before it."""

FOLDERS = {
    "datasets": ("datasets",),
    "model": ("errors", "arguments", "dates", "labels", "model"),
    "particles": (*BOTTOM, "model", "particles"),
    "results": (*BOTTOM, "results"),
    "inference": (*BOTTOM, "model", "particles", "results", "inference"),
    "certification": (*BOTTOM, "datasets", "model", "particles", "results", "inference", "certification"),
}
"""What a folder may import from this package, in the order in which data flows."""

ROOMS = (
    ("protocols", "sites", "keys", "threefry", "time_loops"),
    ("jaxprs",),
    ("noise",),
    ("handlers",),
    ("staging",),
    ("discrete",),
    ("gaussian",),
    ("statespace",),
    ("validation",),
    ("labelling", "declared_labels"),
    ("tracing", "noise_outside"),
)
"""The rooms of `model/`; each imports from itself and from those before it."""

BEFORE = dict(zip(ROOMS, accumulate(ROOMS)))
HANDLERS = ("numpyro.handlers", "numpyro.primitives")
# A handler of NumPyro itself.
USES_HANDLERS = ("model/handlers/", "model/noise_outside.py")


class Import(NamedTuple):
    """One imported module: its full name, the imported name in it, and whether the import stands in a function."""

    module: str
    name: str
    in_function: bool
    for_types: bool


parse = cache(ast.parse)


def imports_of(tree: ast.Module, package: str) -> Iterator[Import]:
    """Yield the imports of a file that lives in `package`, and uses of `numpyro.handlers` as an attribute."""

    def walk(node: ast.AST, in_function: bool, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            function = in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            types = for_types or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
            match child:
                case ast.Import(names=names):
                    for name in names:
                        yield Import(name.name, "", in_function, for_types)
                case ast.ImportFrom(module=module, names=names, level=level):
                    above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                    base = ".".join([*above, *([module] if module else [])])
                    for name in names:
                        full = f"{base}.{name.name}"
                        whole = not base.startswith("ssmscan") or full in MODULES
                        yield Import(full if whole else base, name.name, in_function, for_types)
                case ast.Attribute(value=ast.Name(id="numpyro"), attr=attr):
                    yield Import(f"numpyro.{attr}", "", in_function, for_types)
            yield from walk(child, function, types)

    return walk(tree, False, False)


def under(module: str, names: Iterable[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


def ours(names: Iterable[str]) -> list[str]:
    return [f"ssmscan.{name}" for name in names]


def room_of(path: str) -> str:
    """Return the room of a file, the folder that it lives in; a file of the top floor is a room of its own."""
    folder, _, _ = path.rpartition("/")
    return folder or path.removesuffix(".py")


def allowed(path: str) -> list[str] | None:
    """List what a file may import of this package, None for all."""
    folder, _, name = path.removesuffix(".py").partition("/")
    if folder in BOTTOM:
        return ours(BOTTOM[: BOTTOM.index(folder)])
    if folder not in FOLDERS:
        return None
    if folder == "model":
        room = name.partition("/")[0]
        for rooms, before in BEFORE.items():
            if room in rooms:
                return ours(("errors", "arguments", "dates", "labels", *(f"model.{other}" for other in before)))
    return ours(FOLDERS[folder])


def violations(source: str, path: str) -> list[str]:
    """List the broken rules of one file; `path` is relative to `ssmscan/`."""
    package = f"ssmscan.{path.rpartition('/')[0].replace('/', '.')}".rstrip(".")
    may, found = allowed(path), []
    for module, name, in_function, for_types in imports_of(parse(source), package):
        own = under(module, ("ssmscan",))
        if own and may is not None and not under(module, may):
            found.append(f"{path} imports {module}")
        if own and in_function:
            found.append(f"{path} imports {module} inside a function")
        if own and name.startswith("_") and not name.endswith("__"):
            found.append(f"{path} imports the private {name}") if package != module.rpartition(".")[0] else None
        if under(module, ("arviz",)) and path != "results/containers.py":
            found.append("only results/containers.py imports arviz")
        if under(module, ("matplotlib",)) and not (path.startswith("results/plots/") and (in_function or for_types)):
            found.append("only results/plots/ imports matplotlib, inside functions")
        if under(module, HANDLERS) and not path.startswith(USES_HANDLERS):
            found.append(f"only {' and '.join(USES_HANDLERS)} use {module}")
        if path.startswith("model/jaxprs/") and under(module, ("numpyro",)):
            found.append("model/jaxprs/ is about JAX alone")
        if path.startswith("datasets/") and under(module, ("jax", "numpyro")):
            found.append("datasets/ does not need JAX")
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT / "ssmscan").as_posix()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_imports_only_what_its_room_may(path):
    assert violations(path.read_text(), relative(path)) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("model/sites.py", "from ssmscan.particles import weights"),
        ("model/sites.py", "from ..particles import weights"),
        ("model/sites.py", "from ssmscan import files"),
        ("model/sites.py", "from ssmscan.model.jaxprs import axes"),
        ("model/noise/counts.py", "from ssmscan.model.handlers.stack import isolated"),
        ("model/noise/counts.py", "from ..handlers.stack import isolated"),
        ("model/staging/roles.py", "if TYPE_CHECKING:\n    from ssmscan.model.statespace.front import StateSpaceModel"),
        ("model/staging/roles.py", "from ssmscan.model.tracing import trace"),
        ("model/statespace/front.py", "def f():\n    from ssmscan.model.statespace import checking"),
        ("model/statespace/front.py", "from ssmscan.model.staging.roles import _role"),
        ("model/jaxprs/axes.py", "import numpyro"),
        ("model/staging/roles.py", "from numpyro.primitives import Messenger"),
        ("files.py", "from ssmscan import model"),
        ("arguments.py", "from ssmscan import files"),
        ("errors.py", "from ssmscan import arguments"),
        ("model/sites.py", "def f():\n    import ssmscan.inference.nuts"),
        ("particles/filter.py", "from ssmscan import results"),
        ("results/result.py", "from ssmscan.model.sites import Site"),
        ("particles/filter.py", "import ssmscan"),
        ("demo.py", "def f():\n    import ssmscan"),
        ("results/result.py", "from ssmscan.model import tracing"),
        ("results/summary.py", "def f():\n    import arviz as az"),
        ("results/plots/paths.py", "import matplotlib.pyplot as plt"),
        ("inference/nuts.py", "def f():\n    from matplotlib import pyplot"),
        ("inference/nuts.py", "from numpyro import handlers"),
        ("inference/nuts.py", "import numpyro\nwith numpyro.handlers.seed(rng_seed=0):\n    pass"),
        ("inference/nuts.py", "from numpyro.primitives import Messenger"),
        ("datasets/__init__.py", "import jax.numpy as jnp"),
    ],
)
def test_a_broken_rule_is_found(path, source):
    assert len(violations(source, path)) >= 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("model/staging/roles.py", "from ssmscan.model.sites import Site\nfrom ssmscan.model.jaxprs import dataflow"),
        ("model/staging/roles.py", "from ssmscan.model.staging.discovery import _shape_of"),
        ("model/noise_outside.py", "from ssmscan.model.tracing import trace\nfrom numpyro import handlers"),
        ("results/storage.py", "from ssmscan.files import write_atomically"),
        ("results/plots/paths.py", "def f():\n    import matplotlib.pyplot as plt"),
        ("results/plots/paths.py", "if TYPE_CHECKING:\n    from matplotlib.axes import Axes"),
        ("inference/nuts.py", "from ..model import sites\nfrom numpyro.infer import MCMC"),
        ("demo.py", "import ssmscan\nfrom ssmscan import datasets"),
    ],
)
def test_an_allowed_import_passes(path, source):
    assert violations(source, path) == []


def cycles(sources: dict[str, str]) -> list[str]:
    """Return the modules of a circle of imports, if there is one; imports for a type checker count."""
    graph = {}
    for path, source in sources.items():
        name = "ssmscan." + path.removesuffix(".py").replace("/", ".")
        imported = {i.module for i in imports_of(parse(source), name.rpartition(".")[0])}
        graph[name.removesuffix(".__init__")] = (imported & MODULES) - {name.removesuffix(".__init__")}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_circle_of_imports():
    assert cycles({relative(path): path.read_text() for path in FILES}) == []


def test_a_circle_for_types_is_found():
    a = "if TYPE_CHECKING:\n    from ssmscan.model.keys import one_key"
    assert cycles({"model/sites.py": a, "model/keys.py": "from ssmscan.model.sites import Site"})


def mapped(docstring: str) -> list[str]:
    """List the files and folders of a map: `name, name  words`, or the first cell of a table."""
    names = []
    for line in docstring.splitlines():
        if found := re.match(r" *([a-z_0-9]+/?(?:, [a-z_0-9]+/?)*)  +\S", line):
            names += found[1].split(", ")
        elif found := re.match(r"\| (`.*?`) \|", line):
            names += re.findall(r"`(\w+)`", found[1])
    return [name.removesuffix("/") for name in names]


def not_on_map(docstring: str, names: set[str]) -> set[str]:
    """Return the files that are missing on a map, and what it shows that is not there."""
    return set(mapped(docstring)) ^ names


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in FILES} - {ROOT / "ssmscan" / "datasets"}), ids=relative
)
def test_a_folder_has_a_map_of_its_files(folder):
    docstring = ast.get_docstring(parse((folder / "__init__.py").read_text())) or ""
    names = {path.stem for path in FILES if path.parent == folder} | {
        p.parent.name for p in FILES if p.parent.parent == folder
    }
    assert not_on_map(docstring, names - {"__init__"}) == set()


def test_a_file_without_a_place_on_the_map_is_found():
    both = "Rooms.\n\none, two  what they are\n\n| file | what |\n|---|---|\n| `three`, `four` | else |\n"
    assert not_on_map(both, {"one", "two", "three", "four"}) == set()
    assert not_on_map(both, {"one", "three", "four", "five"}) == {"two", "five"}


def private_names(tree: ast.Module) -> Iterator[str]:
    """Yield the private names that a file defines: functions, classes, variables, attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


def strangers(sources: dict[str, str]) -> list[str]:
    """List uses `a._name` of what another room defines and this one does not."""
    homes: dict[str, set[str]] = {}
    for path, source in sources.items():
        for name in private_names(parse(source)):
            if name.startswith("_") and not name.endswith("__"):
                homes.setdefault(name, set()).add(room_of(path))
    return [
        f"{path} uses {node.attr} of {', '.join(sorted(homes[node.attr]))}"
        for path, source in sources.items()
        for node in ast.walk(parse(source))
        if isinstance(node, ast.Attribute) and room_of(path) not in homes.get(node.attr, {room_of(path)})
    ]


def test_a_private_name_stays_in_its_room():
    assert strangers({relative(path): path.read_text() for path in FILES}) == []


def test_a_private_name_in_another_room_is_found():
    home = {"model/statespace/front.py": "class Model:\n    def _sum(self): ..."}
    assert strangers(home | {"model/statespace/paths.py": "ssm._sum()", "model/sites.py": "a._replace()"}) == []
    assert len(strangers(home | {"particles/filter.py": "ssm._sum()"})) == 1


@pytest.mark.parametrize(
    "path",
    [*FILES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_a_file_is_short_enough_to_read(path):
    limit = MAX_TEST_LINES if "tests" in path.parts else MAX_LINES
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_a_page(path):
    assert len(path.read_text().splitlines()) <= MAX_EXAMPLE_LINES

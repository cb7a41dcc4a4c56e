"""The rules of the house, read from the source: who imports whom, and how long a file may be."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
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

BOTTOM = ("ssmscan.arguments", "ssmscan.files")
"""What imports nothing of the package; files.py no more than arguments.py."""

ALLOWED = {
    "datasets": ("ssmscan.datasets",),
    "model": ("ssmscan.arguments", "ssmscan.model"),
    "particles": (*BOTTOM, "ssmscan.model", "ssmscan.particles"),
    "results": (*BOTTOM, "ssmscan.model.sites", "ssmscan.particles", "ssmscan.results"),
    "inference": (*BOTTOM, "ssmscan.model", "ssmscan.particles", "ssmscan.results", "ssmscan.inference"),
}
"""What a folder may import from this package, in the order in which data flows."""


class Import(NamedTuple):
    """One imported module: its full name, and whether the import runs when the file is imported."""

    module: str
    at_import: bool


def imports_of(tree: ast.Module, package: str) -> Iterator[Import]:
    """Yield the imports of a file that lives in `package`, and uses of `numpyro.handlers` as an attribute."""

    def walk(node: ast.AST, at_import: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            )
            match child:
                case ast.Import(names=names):
                    for name in names:
                        yield Import(name.name, at_import)
                case ast.ImportFrom(module=module, names=names, level=level):
                    above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                    base = ".".join([*above, *([module] if module else [])])
                    for name in names:
                        full = f"{base}.{name.name}"
                        external = not base.startswith("ssmscan")
                        yield Import(full if external or full in MODULES else base, at_import)
                case ast.Attribute(value=ast.Name(id="numpyro"), attr=attr):
                    yield Import(f"numpyro.{attr}", at_import)
            yield from walk(child, at_import and not later)

    return walk(tree, True)


def under(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


def violations(source: str, path: str) -> list[str]:
    """List the broken rules of one file; `path` is relative to `ssmscan/`."""
    folder = path.split("/")[0] if "/" in path else ""
    package = f"ssmscan.{folder}".rstrip(".")
    found = []
    for module, at_import in imports_of(ast.parse(source), package):
        own = f"{package}.{path.removesuffix('.py')}"
        if under(own, BOTTOM) and under(module, ("ssmscan",)) and not under(module, ("ssmscan.arguments",)):
            found.append(f"{path} imports {module}")
        if under(module, ("ssmscan",)) and folder and not under(module, ALLOWED[folder]):
            found.append(f"{folder}/ imports {module}")
        if under(module, ("arviz",)) and path != "results/containers.py":
            found.append("only results/containers.py imports arviz")
        if under(module, ("matplotlib",)) and (path != "results/plots.py" or at_import):
            found.append("only results/plots.py imports matplotlib, inside functions")
        if under(module, ("numpyro.handlers", "numpyro.primitives")) and folder != "model":
            found.append(f"only model/ uses {module}")
        if folder == "datasets" and under(module, ("jax", "numpyro")):
            found.append("datasets/ does not need JAX")
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT / "ssmscan").as_posix()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_imports_only_what_its_folder_may(path):
    assert violations(path.read_text(), relative(path)) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("model/sites.py", "from ssmscan.particles import weights"),
        ("model/sites.py", "from ..particles import weights"),
        ("model/sites.py", "from ssmscan import files"),
        ("files.py", "from ssmscan import model"),
        ("arguments.py", "from ssmscan import files"),
        ("model/sites.py", "def f():\n    import ssmscan.inference.nuts"),
        ("particles/filter.py", "from ssmscan import results"),
        ("particles/filter.py", "import ssmscan"),
        ("results/result.py", "from ssmscan.model import tracing"),
        ("results/summary.py", "def f():\n    import arviz as az"),
        ("results/plots.py", "import matplotlib.pyplot as plt"),
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
        ("results/result.py", "from ssmscan.model.sites import Site"),
        ("results/storage.py", "from ssmscan.files import write_atomically"),
        ("results/plots.py", "def f():\n    import matplotlib.pyplot as plt"),
        ("results/plots.py", "if TYPE_CHECKING:\n    from matplotlib.axes import Axes"),
        ("inference/nuts.py", "from ..model import sites\nfrom numpyro.infer import MCMC"),
        ("demo.py", "import ssmscan\nfrom ssmscan import datasets"),
    ],
)
def test_an_allowed_import_passes(path, source):
    assert violations(source, path) == []


def test_no_import_cycles():
    graph = {}
    for path in FILES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        package = module.rpartition(".")[0]
        name = module.removesuffix(".__init__")
        imported = {i.module for i in imports_of(ast.parse(path.read_text()), package) if i.at_import}
        graph[name] = (imported & MODULES) - {name}
    graphlib.TopologicalSorter(graph).prepare()


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

"""The package imports where its heavier dependencies are missing, as on a GPU machine."""

import subprocess
import sys
import textwrap

HEAVY = ("arviz", "blackjax", "optax", "matplotlib", "xarray")

BLOCK = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def run_with_blocked(blocked, code):
    script = BLOCK.format(blocked=set(blocked)) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)


def test_import_works_without_the_heavy_packages():
    done = run_with_blocked(
        HEAVY,
        """
        import ssmscan
        for name in dir(ssmscan):
            getattr(ssmscan, name)
        print(ssmscan.__file__)
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("__init__.py")


def test_the_block_blocks():
    done = run_with_blocked(HEAVY, "import xarray")
    assert done.returncode != 0
    assert "No module named 'xarray'" in done.stderr


def test_datasets_import_without_jax():
    # the package's __init__ needs JAX; the folder by itself must not
    done = run_with_blocked(
        ("jax", "jaxlib", "numpyro"),
        """
        import importlib.util, pathlib
        import numpy
        root = pathlib.Path(importlib.util.find_spec("ssmscan").origin).parent
        spec = importlib.util.spec_from_file_location("datasets", root / "datasets" / "__init__.py",
                                                      submodule_search_locations=[str(root / "datasets")])
        datasets = importlib.util.module_from_spec(spec)
        sys.modules["datasets"] = datasets
        spec.loader.exec_module(datasets)
        print([len(f().values) for f in (datasets.gbpusd, datasets.nile, datasets.sp500)])
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[750, 100, 100]"

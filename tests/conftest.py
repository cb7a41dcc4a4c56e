"""Settings that must hold before JAX starts: the platform, compiled programs that are kept, and, on request, float64.

`SSMSCAN_TEST_X64=1` runs the same tests in float64; `SSMSCAN_TEST_EVERY_SLOW=1` leaves out the marks that `tests.marks`
adds for what tests cost.  Without `JAX_PLATFORMS` the tests run on the CPU.  Compilation is
most of what tests wait for, so the workers of a run and all later runs share one folder of compiled programs, which
`JAX_COMPILATION_CACHE_DIR` moves elsewhere.  XLA leaves out its expensive passes, which take half of the time and
change only rounding; `XLA_FLAGS=` (empty) brings them back.
"""

import os
from collections import Counter
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
    # Later versions end the process on these.
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    * (tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)),
)

import jax
import pytest

jax.config.update("jax_enable_x64", os.environ.get("SSMSCAN_TEST_X64", "") == "1")


def pytest_configure(config):
    # The short runs of tests have not converged and say so; tests of these sentences use pytest.warns.  Named in
    # pyproject.toml the category would import JAX before the settings above.
    config.addinivalue_line("filterwarnings", "ignore::ssmscan.results.health.ResultWarning")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the tests that `tests.marks` names, before `-m` looks at the marks."""
    from tests.marks import HEAVY, SAMPLED, SLOW, THINNED

    if os.environ.get("SSMSCAN_TEST_EVERY_SLOW", "") == "1":
        return
    cases: Counter = Counter()
    for item in items:
        file, _, _ = (node := item.nodeid.rpartition("/")[2]).partition("::")
        for names, mark in ((SLOW, pytest.mark.slow), (HEAVY, pytest.mark.heavy)):
            if node.startswith(names):
                item.add_marker(mark)
        if not hasattr(item, "callspec"):
            continue
        slow = item.get_closest_marker("slow") is not None
        case = cases[file, item.function.__name__, slow]
        cases[file, item.function.__name__, slow] += 1
        if slow and case % THINNED.get(file, 1):
            item.add_marker(pytest.mark.heavy)
        if not slow and case % SAMPLED:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """Take distributions in the lists of cases as they are: NumPyro compiles a program to look at each, for seconds."""
    import numpyro

    with numpyro.validation_enabled(False):
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def traced_without_a_check():
    """Models are traced as they are: what `trace` checks by itself has tests of its own, and takes time."""
    import ssmscan

    with ssmscan.validation_enabled(False):
        yield

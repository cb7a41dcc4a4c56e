"""Settings that must hold before JAX starts: the platform and, on request, float64.

`SSMSCAN_TEST_X64=1` runs the same tests in float64.  Without `JAX_PLATFORMS` the tests run on the CPU.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax

jax.config.update("jax_enable_x64", os.environ.get("SSMSCAN_TEST_X64", "") == "1")

"""Settings that must hold before JAX starts: the platform, compiled programs that are kept, and, on request, float64.

`SSMSCAN_TEST_X64=1` runs the same tests in float64.  Without `JAX_PLATFORMS` the tests run on the CPU.  Compilation is
most of what tests wait for, so the workers of a run and all later runs share one folder of compiled programs, which
`JAX_COMPILATION_CACHE_DIR` moves elsewhere.  XLA leaves out its expensive passes, which take half of the time and
change only rounding; `XLA_FLAGS=` (empty) brings them back.
"""

import os
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


ON_DEMAND = (
    "test_going_on.py::test_the_draws_do_not_depend_on_how_many_cores_there_are[nuts]",
    "test_going_on.py::test_a_run_that_goes_on_is_one_longer_run[importance]",
    "test_smc2.py::test_noisy_filters_get_more_particles_and_points_that_stay_are_said",
    "test_whitening.py::test_informative_counts_take_short_trees",
    "test_whitening.py::test_a_bad_guide_makes_it_slow_and_never_wrong",
    "test_importance_truth.py::test_unbiased_estimates_agree_with_the_integral",
    "test_importance.py::test_an_improper_prior_is_defended_by_a_wide_t_and_gives_no_evidence",
    "test_importance.py::test_looking_ahead_makes_every_likelihood_exact_with_two_particles",
    "test_approximation.py::test_against_the_dense_mode_and_curvature_of_all_noise[two_loops]",
    "test_approximation.py::test_against_the_dense_mode_and_curvature_of_all_noise[counts_after_the_loop]",
    "test_approximation.py::test_against_the_dense_mode_and_curvature_of_all_noise[gamma_shocks]",
    "test_approximation.py::test_against_the_dense_mode_and_curvature_of_all_noise[panel]",
    "test_approximation.py::test_a_panel_is_its_series_and_several_parameters_are_each_alone",
    "test_approximation.py::test_derivatives_are_those_of_the_value",
    "test_discrete_filter.py::test_it_is_what_engines_choose_and_replicates_take",
    "test_discrete_filter.py::test_the_same_test_rejects_weights_that_are_not_made_up_for[forgotten]",
    "test_several.py::test_rows_observed_together_are_each_of_one_loop",
    "test_several.py::test_parts_are_of_any_kind",
    "test_estimators.py::test_replicates_run_under_jit_and_vmap_on_every_kind_of_model",
    "test_gradient.py::test_without_a_gradient_the_density_of_discrete_draws_is_not_computed",
    "test_maximum.py::test_an_ascent_that_goes_on_is_one_longer_ascent[filter]",
    "test_maximum.py::test_no_step_is_lost_by_control_c_however_often",
    "test_exact_likelihood.py::test_maximum_likelihood_is_kalmans",
    "test_pilot.py::test_eleven_unknown_starts_are_too_many_for_a_filter_that_does_not_look_ahead",
    "test_guided.py::test_its_gradient_is_that_of_the_likelihood",
    "test_guided.py::test_each_mistake_is_rejected",
    "test_noise.py::test_values_and_gradients_are_finite_at_twelve_and_beyond",
    "test_after_loop.py::test_random_programs_are_the_sum_of_their_parts",
    "test_look_ahead.py::test_sixteen_particles_average_to_the_likelihood",
    "test_choosing.py::test_one_model_of_each_kind",
)
"""Slow tests that are as good as heavy: each compiles for ten seconds what cheaper ones beside it see as well."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the tests that are run on demand, before `-m` looks at the marks."""
    for item in items:
        if any(f"/{name}" in item.nodeid for name in ON_DEMAND):
            item.add_marker(pytest.mark.heavy)


@pytest.fixture(scope="session", autouse=True)
def traced_without_a_check():
    """Models are traced as they are: what `trace` checks by itself has tests of its own, and takes time."""
    import ssmscan

    with ssmscan.validation_enabled(False):
        yield

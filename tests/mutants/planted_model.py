"""Mistakes in how a model is taken apart; see `planted`."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

ROWS_FILE = "tests/model/test_rows.py"
ROWS = f"{ROWS_FILE}::test_rows_are_noise_of_the_loop_and_every_factor_is_that_of_the_model_as_written"
PARTS = "tests/model/test_tracing.py::test_parts_add_up_to_the_density_of_the_original"
JACOBIAN = "tests/model/test_tracing.py::test_unconstrained_space_round_trips"
MISSING = "tests/model/test_densities.py::test_only_elements_that_are_present_have_a_density"
NOISE = "tests/model/test_densities.py::test_noise_with_its_correction_has_the_law_of_the_family"
DEGREE = "tests/model/test_degree.py"
LINEAR = "tests/model/test_linear_gaussian.py"
DENSE = "tests/inference/test_approximation.py::test_against_the_dense_mode_and_curvature_of_all_noise"
ONE = "tests/model/test_one_particle.py"
HELD = f"{ONE}::test_a_category_is_held_at_its_median_and_draws_no_gradient"
VARYING = f"{ONE}::test_leaves_that_vary_are_the_real_ones_that_noise_reaches"
REFERENCE = "tests/inference/test_nuts.py::test_reference_and_likelihood_make_the_posterior"

MODEL = [
    Mutant(
        "masked observations weighed",
        "model/handlers/messages.py",
        "log_prob = self._log_prob(self.fn)\n",
        "log_prob = self._log_prob(unmasked(self.fn))\n",
        (f"{PARTS}[masked_and_scaled]",),
    ),
    Mutant(
        "missing observations weighed",
        "model/handlers/missing.py",
        "return jnp.where(present, fn.log_prob(value), 0.0)",
        "return fn.log_prob(value)",
        (MISSING,),
    ),
    Mutant(
        "Jacobian left out of the unconstrained prior",
        "model/staging/functions.py",
        "log_jacobian.append(jnp.sum(transform.log_abs_det_jacobian(z[name], value)))",
        "log_jacobian.append(jnp.zeros(()))",
        (JACOBIAN, REFERENCE),
    ),
    Mutant(
        "observations after the loop off by one row",
        "model/statespace/dynamics.py",
        "return self._row(t=t, y=like",
        "return self._row(t=t + 1, y=like",
        (f"{PARTS}[after_the_loop]",),
    ),
    Mutant(
        "rows before the loop drawn one step late",
        "model/handlers/moving.py",
        "row_of(laws[n], axis, t + first)",
        "row_of(laws[n], axis, t)",
        (f"{ROWS}[start_among_rows]",),
    ),
    Mutant(
        "rows that do not wait for their turn",
        "model/jaxprs/stepping.py",
        "now, waiting = _cut(jnp.concatenate([before, tracked.value], rows.axis), 1, rows.axis)",
        "now, waiting = tracked.value, before",
        (f"{ROWS}[cumulative]",),
    ),
    Mutant(
        "a value in place without its volume",
        "model/noise/in_place.py",
        "+ space.log_volume(noise)",
        "+ 0.0 * space.log_volume(noise)",
        ("tests/model/test_in_place.py",),
    ),
    Mutant(
        "transport without its correction",
        "model/noise/transport.py",
        "return log_density + transport.log_slope(eps) + 0.5 * eps * eps + HALF_LOG_2PI",
        "return 0.0 * log_density",
        (NOISE,),
    ),
    Mutant(
        "likelihood that no state reaches left out of gradient engines",
        "model/statespace/marginal.py",
        "log_likelihood = log_static + log_start + jnp.sum(weights) + correction",
        "log_likelihood = log_start + jnp.sum(weights) + correction",
        (f"{PARTS}[conditioned]",),
    ),
    Mutant(
        "a product has the degree of its larger factor",
        "model/jaxprs/degree.py",
        "return sum(orders)",
        "return max(orders)",
        (DEGREE, LINEAR),
    ),
    Mutant(
        "a branch on the state counted as none",
        "model/jaxprs/degree.py",
        'if name == "select_n":\n        return _UNKNOWN if orders[0] else max(orders[1:])',
        'if name == "select_n":\n        return max(orders[1:])',
        (DEGREE, LINEAR),
    ),
    Mutant(
        "what a logarithm is compared with taken to be a number",
        "model/jaxprs/degree.py",
        "return 0 if max(orders) < MORE and _holds_for_numbers(eqn) else _UNKNOWN",
        "return 0 if _holds_for_numbers(eqn) else _UNKNOWN",
        (DEGREE,),
    ),
    Mutant(
        "a leaf of the carry that is quadratic taken to be affine",
        "model/statespace/linear_gaussian.py",
        "return degree._replace(order=MORE) if degree.order > AFFINE.order else degree",
        "return AFFINE if degree.order > AFFINE.order else degree",
        (LINEAR,),
    ),
    Mutant(
        "noise of a normal clipped",
        "model/noise/quantiles.py",
        "eps, loc, scale = aligned(eps, fn.loc, fn.scale)",
        "eps, loc, scale = cast(eps, fn.loc, fn.scale)",
        (LINEAR,),
    ),
    Mutant(
        "half of a determinant counted whole",
        "model/gaussian/backward.py",
        "+ promise - 0.5 * log_determinant",
        "+ promise - log_determinant",
        (DENSE,),
    ),
    Mutant(
        "curvature of the transition left out at the mode",
        "model/gaussian/expansion.py",
        "return -weights - rest, -weights",
        "return -weights, -weights",
        (DENSE,),
    ),
    Mutant(
        "costate of the step before",
        "model/gaussian/expansion.py",
        "return g + algebra.product(a.T, after), after",
        "return g + algebra.product(a.T, after), g + algebra.product(a.T, after)",
        (DENSE,),
    ),
    Mutant(
        "noise of a step without its own variance",
        "model/gaussian/moments.py",
        "algebra.product(covariance, sides.T)) + algebra.product(own, own.T)",
        "algebra.product(covariance, sides.T))",
        (DENSE,),
    ),
    Mutant(
        "draw of a category given the gradient of its density where it is held",
        "model/statespace/dynamics.py",
        'return jnp.zeros(()) if self.held else gradient_alone(out["log_rough"])',
        'return gradient_alone(out["log_rough"])',
        (HELD,),
    ),
    Mutant(
        "leaves of the carry that vary looked for in one step",
        "model/statespace/one_particle.py",
        "        reached |= grown\n    leaves",
        "        break\n    leaves",
        (VARYING,),
    ),
    Mutant(
        "a model that changes: numbers not compared",
        "model/staging/repeatable.py",
        "return type(a) is type(b) and a.aval == b.aval and _equal(a.val, b.val)",
        "return type(a) is type(b) and a.aval == b.aval",
        ("tests/model/test_repeatable.py",),
    ),
    Mutant(
        "a model that changes: arrays not compared",
        "model/staging/repeatable.py",
        "return all(_alike(first.jaxpr, other.jaxpr) and _equal_all(first.consts, other.consts) for other in others)",
        "return all(_alike(first.jaxpr, other.jaxpr) for other in others)",
        ("tests/model/test_repeatable.py",),
    ),
    Mutant(
        "a model that changes: order of operations not compared",
        "model/staging/repeatable.py",
        "        return twin[a] is b\n",
        "        return True\n",
        ("tests/model/test_repeatable.py",),
    ),
]

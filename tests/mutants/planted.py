"""The mistakes: where each is planted, and which tests cover its file.

The text of a mistake replaces a piece of the package that occurs exactly once in its file.  Most were shipped by
somebody: a likelihood estimate that is biased under adaptive resampling, auxiliary filters without second-stage
weights, weighted particles used as unweighted ones, pseudo-marginal samplers that draw the current estimate again.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant
from tests.mutants.planted_forecasts import FORECASTS
from tests.mutants.planted_model import MODEL
from tests.mutants.planted_results import OUTPUT
from tests.mutants.planted_samplers import SAMPLERS
from tests.mutants.planted_states import STATES

LAWS = "tests/particles/test_laws.py"
ROWS_FILE = "tests/model/test_rows.py"
GUIDED = "tests/particles/test_guided.py"
PINNED = "tests/particles/test_resampling.py::test_a_pinned_particle_has_the_law_of_the_scheme_given_its_slot"
LAW = f"{LAWS}::test_ancestors_have_the_joint_law_of_their_scheme"
LARGEST = f"{LAWS}::test_at_the_largest_uniform_there_is_no_particle_without_weight_has_offspring"
MILLION = "tests/particles/test_resampling.py::test_a_million_float32_particles_are_placed_as_in_float64"
KEYS = f"{LAWS}::test_no_key_is_used_twice_and_the_start_draws_from_none_of_the_steps"
ELEMENTS = f"{LAWS}::test_starts_steps_and_elements_of_a_panel_have_independent_noise"
LOOPS = f"{LAWS}::test_every_loop_has_a_key_of_its_own"
UNBIASED = "tests/particles/test_unbiased.py"
FILTER = "tests/particles/test_filter.py"
BY_HAND = "tests/particles/test_by_hand.py"
CLOUDS = f"{BY_HAND}::test_weights_increments_and_decisions_are_those_of_the_stored_clouds"
SUMMARIES = f"{BY_HAND}::test_summaries_are_those_of_the_weighted_clouds"
ANCESTRAL = f"{BY_HAND}::test_ancestral_paths_end_with_the_last_weights_and_follow_the_parents"
BACKWARD = f"{BY_HAND}::test_backward_paths_have_the_smoothing_weights_of_the_clouds"
MOVES = (
    "tests/particles/test_smoothing.py::"
    "test_moves_are_those_of_the_backward_law_and_a_state_that_cannot_lead_there_is_not_taken"
)
GRADIENT = f"{BY_HAND}::test_the_gradient_is_of_weights_over_odds_that_are_held_constant"
WEIGHTS = "tests/particles/test_weights.py"
ONLINE = "tests/particles/test_online.py"
PMMH = "tests/inference/test_pmmh.py"
STEP = f"{PMMH}::test_a_proposal_is_accepted_by_prior_and_estimate_of_both_points_the_stored_one_not_drawn_again"
REPLAYED = f"{PMMH}::test_a_stored_key_replays_the_accepted_run"
FROZEN = f"{PMMH}::test_the_scale_is_frozen_unless_adapting"
NUTS = "tests/inference/test_nuts.py::test_parameters_and_states_agree_with_dense_linear_algebra"
CHAINS = "tests/inference/test_nuts.py::test_every_chain_has_a_key_of_its_own"
REFERENCE = "tests/inference/test_nuts.py::test_reference_and_likelihood_make_the_posterior"
TEMPERING = "tests/inference/test_tempering.py"
SUMMARY = "tests/results/test_summary.py"
AGREEMENT = "tests/results/test_agreement.py"
WEIGHTED = "tests/results/test_weighted.py"

KERNEL = [
    Mutant(
        "carried weight dropped where nothing was resampled",
        "particles/filter_step.py",
        "return jnp.where(needed, ratio - math.log(len(ratio)), log_weights)",
        "return jnp.where(needed, ratio - math.log(len(ratio)), uniform(len(ratio)))",
        (UNBIASED,),
    ),
    Mutant(
        "look-ahead weights renormalised",
        "particles/filter_step.py",
        "return carry, ancestors, _carried(needed, ratio, state.log_weights)",
        "return carry, ancestors, normalise(_carried(needed, ratio, state.log_weights)).log_weights",
        (UNBIASED,),
    ),
    Mutant(
        "one key for resampling and moving",
        "particles/filter_step.py",
        "resample_key, move_key = state.keys",
        "resample_key = move_key = state.keys[0]",
        (KEYS,),
    ),
    Mutant(
        "two steps with the same keys",
        "particles/filter_step.py",
        "low = np.uint32(2) * jnp.asarray(count, np.uint32)",
        "low = np.uint32(2) * (jnp.asarray(count, np.uint32) // np.uint32(2))",
        (KEYS,),
    ),
    Mutant(
        "start draws from the stream of the steps' keys",
        "particles/draws.py",
        "START_STREAM = 2**31",
        "START_STREAM = 0",
        (KEYS,),
    ),
    Mutant(
        "likelihood from incremental weights alone",
        "particles/filter_step.py",
        "weighed = normalise(carried + moved.log_weight)",
        "weighed = normalise(carried + moved.log_weight)\n"
        "    weighed = weighed._replace(log_sum=normalise(moved.log_weight + uniform(n)).log_sum)",
        (UNBIASED,),
    ),
    Mutant(
        "auxiliary filter without second-stage weights",
        "particles/filter_step.py",
        "None if v is None else (log_weights - v.log_weights)[ancestors]",
        "None if v is None else jnp.zeros_like(log_weights)[ancestors]",
        (UNBIASED,),
    ),
    Mutant(
        "look-ahead ancestors drawn with the plain weights",
        "particles/filter_step.py",
        "weights if v is None else v.weights",
        "weights",
        (UNBIASED,),
    ),
    Mutant(
        "resampling forgets to move the carry",
        "particles/filter_step.py",
        'taken = jax.tree.map(lambda leaf: leaf.at[ancestors].get(mode="clip"), carry)',
        "taken = carry",
        (UNBIASED,),
    ),
    Mutant(
        "threshold compared the wrong way round",
        "particles/filter_step.py",
        "else ess < threshold * n",
        "else ess > threshold * n",
        (CLOUDS,),
    ),
    Mutant(
        "status of a vanished cloud forgotten at the next step",
        "particles/filter_step.py",
        "status = jnp.maximum(state.status, event.astype(np.int32))",
        "status = event.astype(np.int32)",
        (f"{FILTER}::test_a_dead_cloud_ends_with_minus_infinity_and_keeps_what_was_before",),
    ),
    Mutant(
        "start observed twice",
        "particles/filter_step.py",
        "weighed = normalise(state.log_weights)",
        "weighed = normalise(state.log_weights + drawn.log_weight)",
        (CLOUDS,),
    ),
    Mutant(
        "start observation dropped",
        "particles/filter_step.py",
        "log_weights=uniform(n) + drawn.log_weight,",
        "log_weights=uniform(n) + 0 * drawn.log_weight,",
        (CLOUDS,),
    ),
    Mutant(
        "summaries with the weights before weighing",
        "particles/filter_step.py",
        "weights=weighed.weights,\n        moved=moved,",
        "weights=normalise(carried).weights,\n        moved=moved,",
        (SUMMARIES,),
    ),
    Mutant(
        "resampling without the gradient of the weights",
        "particles/filter_step.py",
        "ratio = gradient_alone(state.log_weights[ancestors])",
        "ratio = jnp.zeros(n)",
        (GRADIENT,),
    ),
    Mutant(
        "look-ahead probabilities without stop_gradient",
        "particles/filter_step.py",
        "lax.stop_gradient(normalise(log_weights + log_ahead))",
        "normalise(log_weights + log_ahead)",
        (GRADIENT,),
    ),
    Mutant(
        "effective sample size of unnormalised weights",
        "particles/weights.py",
        "1 / jnp.sum(weights * weights)",
        "1 / jnp.sum(unnormalised * unnormalised)",
        (CLOUDS, WEIGHTS),
    ),
    Mutant(
        "weight that is NaN kept",
        "particles/weights.py",
        "return jnp.where(log_weights < jnp.inf, log_weights, -jnp.inf)",
        "return log_weights",
        (WEIGHTS,),
    ),
    Mutant(
        "log likelihood summed without what rounding takes",
        "particles/weights.py",
        "return self.total + self.lost",
        "return self.total",
        (WEIGHTS,),
    ),
]

RESAMPLING = [
    Mutant(
        "systematic: offset halved",
        "particles/resampling.py",
        "jnp.ceil(fraction - u)",
        "jnp.ceil(fraction - u / 2)",
        (f"{LAW}[systematic]",),
    ),
    Mutant(
        "stratified: uniforms squared",
        "particles/resampling.py",
        "_stratified(jax.random.uniform(key, (n,)), weights, n)",
        "_stratified(jax.random.uniform(key, (n,)) ** 2, weights, n)",
        (f"{LAW}[stratified]",),
    ),
    Mutant(
        "multinomial: one gap too few",
        "particles/resampling.py",
        "gaps = jax.random.exponential(key, (n + 1,))",
        "gaps = jax.random.exponential(key, (n,))",
        (f"{LAW}[multinomial]",),
    ),
    Mutant(
        "ancestors from a plain float32 cumulative sum",
        "particles/offspring.py",
        "    ends = count(before.whole[:, None], local * n + before.fraction[:, None])\n",
        "    plain = (jnp.cumsum(local[:, -1]) - local[:, -1])[:, None] + local\n"
        "    ends = count(jnp.zeros_like(before.whole)[:, None], plain * n)\n",
        (MILLION,),
    ),
    Mutant(
        "a tail without weight gets offspring",
        "particles/offspring.py",
        "return jnp.where(all_, stop, ends).reshape(-1)",
        "return ends.reshape(-1)",
        (LARGEST,),
    ),
    Mutant(
        "ancestors of a cloud without weight out of range",
        "particles/offspring.py",
        "return jnp.minimum(ancestors, len(ends) - 1)",
        "return ancestors",
        (LAW,),
    ),
    Mutant(
        "conditional: the retained point is anywhere",
        "particles/resampling.py",
        "length * jax.random.uniform(key, (), start.dtype)",
        "n * jax.random.uniform(key, (), start.dtype)",
        (PINNED,),
    ),
]

REST_OF_PARTICLES = [
    Mutant(
        "guided: the density of the proposal forgotten",
        "particles/guided.py",
        "jnp.where(impossible, -jnp.inf, log_p) - log_q",
        "jnp.where(impossible, -jnp.inf, log_p) - 0 * log_q",
        (f"{GUIDED}::test_with_the_models_own_laws_it_is_the_bootstrap_filter",),
    ),
    Mutant(
        "guided: the mean weight of the start forgotten",
        "particles/filter_step.py",
        "weighed.log_sum if state.pending is None else weighed.log_sum + state.pending",
        "weighed.log_sum",
        (f"{GUIDED}::test_a_start_that_is_weighed_and_not_observed_counts_once",),
    ),
    Mutant(
        "guided: a support that is too small taken",
        "particles/proposed_laws.py",
        "if own.lacks(wanted):",
        "if wanted.lacks(own):",
        (GUIDED,),
    ),
    Mutant(
        "one key for all elements of a panel",
        "particles/panels.py",
        "return run(None if key is None else jax.random.fold_in(key, arguments[0]), *arguments)",
        "return run(key, *arguments)",
        (ELEMENTS,),
    ),
    Mutant(
        "one key for all loops",
        "model/keys.py",
        "yield from (jax.random.fold_in(key, k) for k in range(count))",
        "yield from (key for k in range(count))",
        (LOOPS,),
    ),
    Mutant(
        "what no state reaches left out of the likelihood",
        "particles/filter_run.py",
        "log_likelihood=log_likelihood.add(ssm.log_static(theta)).value(),",
        "log_likelihood=log_likelihood.value(),",
        (CLOUDS,),
    ),
    Mutant(
        "PIT with the weights after the observation",
        "particles/summaries.py",
        "w = normalise(carried).weights",
        "w = info.weights",
        (SUMMARIES,),
    ),
    Mutant(
        "standard deviation around no mean",
        "particles/summaries.py",
        "deviation = x - over_particles(info.weights, x)",
        "deviation = x",
        (SUMMARIES,),
    ),
    Mutant(
        "quantiles of unweighted particles",
        "particles/summaries.py",
        "            w = info.weights\n            columns",
        "            w = jnp.full_like(info.weights, 1 / len(info.weights))\n            columns",
        (SUMMARIES,),
    ),
    Mutant(
        "ancestral paths end at particles drawn without weights",
        "particles/genealogy.py",
        "last = draw_index(uniforms, steps.log_weights[-1])",
        "last = draw_index(uniforms, jnp.zeros_like(steps.log_weights[-1]))",
        (ANCESTRAL,),
    ),
    Mutant(
        "ancestry off by one step",
        "particles/genealogy.py",
        "return entry(ancestors, index), entry(values, index)",
        "return entry(ancestors, index), entry(values, entry(ancestors, index))",
        (ANCESTRAL,),
    ),
    Mutant(
        "backward sampling without the transition density",
        "particles/parents.py",
        "log_weights + step.log_transition + step.log_observation",
        "log_weights + step.log_observation",
        (BACKWARD,),
    ),
    Mutant(
        "moves accept parents that do not lead to the next state",
        "particles/smoothing_backward.py",
        "for leaf in jax.tree.leaves(step.carry):\n            log_ratio",
        "for leaf in ():\n            log_ratio",
        (MOVES,),
    ),
    Mutant(
        "online filter reads the data of the step before",
        "particles/online.py",
        "lax.dynamic_index_in_dim(a, online.state.step, keepdims=False)",
        "lax.dynamic_index_in_dim(a, jnp.maximum(online.state.step - 1, 0), keepdims=False)",
        (ONLINE,),
    ),
]

INFERENCE = [
    Mutant(
        "PMMH draws the current estimate again",
        "inference/pmmh_chain.py",
        "    log_ratio = (proposal.log_prior",
        "    state = evaluate(jax.random.fold_in(key_filter, 1), ssm, state.z, particle_filter)\n"
        "    log_ratio = (proposal.log_prior",
        (STEP,),
    ),
    Mutant(
        "PMMH adapts after warm-up",
        "inference/pmmh_chain.py",
        "scale = jnp.where(control.adapting, adapted, chain.scale)",
        "scale = adapted",
        (FROZEN,),
    ),
    Mutant(
        "PMMH without the prior of the proposal",
        "inference/pmmh_chain.py",
        "(proposal.log_prior + proposal.log_likelihood)",
        "(state.log_prior + proposal.log_likelihood)",
        (STEP,),
    ),
    Mutant(
        "path of another run than the accepted one",
        "particles/filter.py",
        "found = replace(self, store=FullHistory(), summaries=()).run(key, ssm, theta)",
        "found = replace(self, store=FullHistory(), summaries=()).run(jax.random.fold_in(key, 1), ssm, theta)",
        (REPLAYED,),
    ),
    Mutant(
        "NUTS without the density of the noise",
        "inference/posterior.py",
        "return log_law + sum((norm.logpdf(leaf).sum() for leaf in noise), jnp.zeros_like(log_law))",
        "return log_law",
        (REFERENCE, NUTS),
    ),
    Mutant(
        "NUTS: one key for all chains",
        "inference/nuts.py",
        "keys = jax.random.split(key, self.num_chains)",
        "keys = jax.random.wrap_key_data(jnp.stack([jax.random.key_data(key)] * self.num_chains))",
        (CHAINS,),
    ),
    Mutant(
        "tempered particles used without their last weights",
        "inference/tempering.py",
        "while not finished and not _stands_still(temperatures):",
        "while temperatures[-1] < 1.0 and not _stands_still(temperatures):",
        (TEMPERING,),
    ),
    Mutant(
        "tempered evidence of the last temperature alone",
        "inference/tempering_step.py",
        "log_evidence = state.log_evidence + info.log_likelihood_increment",
        "log_evidence = info.log_likelihood_increment",
        (TEMPERING,),
    ),
    Mutant(
        "mean of log evidences for the log of their mean",
        "inference/tempering.py",
        "total = float(logsumexp(log_evidence) - np.log(runs))",
        "total = float(np.mean(log_evidence))",
        (TEMPERING,),
    ),
]

RESULTS = [
    Mutant(
        "errors of runs as of independent draws",
        "results/summary.py",
        "errors = per_run.std(axis=0, ddof=1) / np.sqrt(num_runs)",
        "errors = per_run.std(axis=0, ddof=1) / np.sqrt(num_runs * length)",
        (SUMMARY,),
    ),
    Mutant(
        "errors of chains without autocorrelation",
        "results/summary.py",
        'ess = containers.ess(draws, "mean")',
        "ess = float(draws.size)",
        (SUMMARY,),
    ),
    Mutant(
        "weighted points taken for draws",
        "results/data.py",
        "weights = normalised(result.log_weights)",
        "weights = normalised(0.0 * result.log_weights)",
        (WEIGHTED,),
    ),
    Mutant(
        "errors of weighted points without their weights",
        "results/weighted.py",
        "squares = (w * (h - w @ h)",
        "squares = (np.sqrt(w / n) * (h - w @ h)",
        (WEIGHTED,),
    ),
]

MUTANTS = [
    *KERNEL,
    *RESAMPLING,
    *REST_OF_PARTICLES,
    *MODEL,
    *STATES,
    *INFERENCE,
    *SAMPLERS,
    *RESULTS,
    *OUTPUT,
    *FORECASTS,
]

KNOWN: dict[str, str] = {}
"""Mistakes that the tests let live, and why."""

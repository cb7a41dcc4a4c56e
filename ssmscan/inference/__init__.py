"""Parameters: one front object for each method, run from a host loop over compiled chunks.

| file | what it does |
|---|---|
| `nuts`, `nuts_run` | `NUTS`: NumPyro's sampler; a run of it under way |
| `nuts_start`, `nuts_step` | units and starts; its transition |
| `whitening` | noise as it is moved: white given the data |
| `prior_points` | points of the prior, unconstrained: starts, units and shapes of every engine |
| `rewarming` | its second warm-up where draws diverge |
| `pmmh`, `pmmh_run` | `PMMH`: a random walk on an estimate of the likelihood; a run of it under way |
| `pmmh_chain` | its exact step |
| `gibbs`, `gibbs_run` | `ParticleGibbs`: states and parameters by turns; a run of it under way |
| `gibbs_sweep`, `gibbs_kernels` | its sweep, and where chains begin; what moves the parameters |
| `common_doubts` | what several samplers say against their runs |
| `edge` | parameters whose draws pile up at a bound |
| `gibbs_doubts` | parameters and states that stand still |
| `default_estimator` | what an engine begins with where it is not told an estimator of the likelihood |
| `pilot`, `sizing` | what is tuned before it; how many particles |
| `importance`, `importance_points` | `ImportanceSampler`: weighted points of a frozen proposal; one of them |
| `importance_proposal`, `importance_adapt` | the proposal, a mixture; how it is found from the prior |
| `importance_weights`, `importance_doubts` | its weights; why they should not be trusted |
| `evidence` | the evidence from draws of any engine, by importance sampling |
| `tempering`, `tempering_step` | `TemperedSMC`: BlackJAX's, from the prior to the posterior, with the evidence |
| `tempering_runs` | the runs of it made so far |
| `smc2`, `smc2_run` | `SMC2`: parameter points with a filter each, one observation after the other; a run under way |
| `smc2_step`, `smc2_filters` | what is done to its points on the device; the filters of one |
| `smc2_cloud`, `smc2_record` | its weights; what it said at each step, and why that should not be trusted |
| `smc2_result`, `smc2_store` | its draws and state paths; what it takes to go on |
| `exact` | what is left of it where nothing is: the exact evidence and states |
| `maximum`, `ascent` | `MaximumLikelihood`: gradient ascent on the likelihood; its step |
| `curvature`, `averages` | its standard errors; averages of noisy numbers |
| `cross_check`, `engines`, `looks` | two engines until they agree or disagree; which two; how often to look |
| `posterior` | the density with the noise outside the loop, shared by the engines that use gradients |
| `paths` | state paths of the draws, from noise or from the keys of accepted runs |
| `approximation` | `gaussian_approximation`: the states given data and parameters by their mode and curvature |
| `element_noise` | noise of each element of a panel |
| `deterministics` | deterministics outside the loop, added to a result |
| `reporting` | the `Result` of a sampler |
| `forecast_scores`, `leave_future_out` | how well a series is predicted, from one result |
| `forecasts`, `forecast_mixture` | forecasts from every origin at one draw of the parameters; at all, with scores |
| `reweighting` | draws given all data, weighed back to the posterior at an earlier origin |
| `predict` | the observations again, from any result |
| `filters_at_draws`, `at_draws` | how well each observation was predicted, at draws of any result |
| `long_run` | a long filter with progress, that stops at Control-C and goes on |
| `going_on`, `spreading` | a run that goes on from a result or a file; replicates over cores and devices |
| `progress`, `interrupts` | chunks, what is shown meanwhile, and where Control-C may end them |
| `settings` | checks and records of settings |

Engines are frozen dataclasses of settings with one method, ``run(key, ssm)``, and hold no state.  A new one has a step
as in `progress`, and ends in `reporting.result_of`.
"""

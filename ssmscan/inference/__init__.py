"""Parameters: one front object per method, run from a host loop over compiled chunks.

| file | what it does |
|---|---|
| `nuts`, `rewarming` | `NUTS`: NumPyro's sampler on parameters and noise; its second warm-up where draws diverge |
| `pmmh` | `PMMH`: a random walk on the likelihood that a particle filter estimates |
| `marginal`, `replay` | its exact step, the state paths of accepted runs |
| `pilot`, `sizing` | what is tuned before it; how many particles |
| `tempering`, `temperature` | `TemperedSMC`: BlackJAX's, from the prior to the posterior, with the evidence |
| `maximum`, `curvature`, `averages` | `MaximumLikelihood`: gradient ascent on the likelihood, with standard errors |
| `posterior` | the density with the noise outside the loop, shared by the engines that use gradients |
| `computed` | deterministics outside the loop, added to a result |
| `predict` | the observations again, from any result |
| `progress`, `interrupts` | chunks, what is shown meanwhile, and where Control-C may end them |
| `settings` | checks and records of settings |

Engines are frozen dataclasses with one method, ``run(key, ssm) -> Result``, and hold no state.
"""

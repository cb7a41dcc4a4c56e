"""Certificates: is this model, on this machine, computed as it should be, and how would one know?

| file | what it does |
|---|---|
| `certificate` | `Certificate`, its findings, and the one error rate of all |
| `certify` | `certify`: the checks one after the other, and how much time each has |
| `findings` | what each check came to, in words |
| `densities` | the parts against NumPyro: densities, and evidence of forward runs |
| `forward_draws` | states drawn by the parts, and by NumPyro |
| `short_series` | the same model over the first steps of its data |
| `exact_draws` | parameters, states and data of one draw, and the model over such data |
| `replicates` | many of a check, statistics, and whether a law has changed |
| `conditional_likelihood` | the estimate of a filter that contains an exact path |
| `likelihood` | whether a filter's estimates are like it |
| `kernels` | whether PMMH, particle Gibbs and NUTS leave exact draws exact |
| `calibration` | where true parameters lie in their posteriors |
| `selftest`, `oracles` | exact oracles on the user's machine and device; what they are |
"""

"""What the user wrote: a NumPyro model, taken apart.

tracing.py      `trace`: arguments split into data and program, entry to all below
records.py      one site as it was met, under NumPyro's wrappers
running.py      run the user's function under control, sites and loops handed to us
discovery.py    meet the model once, abstractly: its sites, its loop, their shapes
dataflow.py     jaxprs as data: what reaches what, evaluation in two halves
script.py       what all runs of one model share
staging.py      the same function staged for each way the engines need it
roles.py        parameter, initial state, innovation or observation, and why
program.py      all staged functions of a model without its data, interned
bound.py        one particle at one parameter value
paths.py        the loop run at given noise or values
support.py      values of discrete draws that are finitely many and known at trace
given.py        start and step at given noise and given discrete values
enumeration.py  which discrete states can be summed out, from the data flow
elements.py     discrete states of elements that do not interact, one chain for each
forward.py      sums over the paths of a finite chain: evidence, smoothing, sampling
summing.py      a model with its discrete states summed out
statespace.py   `StateSpaceModel`: the pure functions engines use
data.py         what depends on data alone: observed values, impossible values
simulate.py     forward simulation and replication
checking.py     the parts put together again, against NumPyro's density
noise.py        base noise and map of each distribution family
reparam.py      `noise_outside`: the same idea as a NumPyro handler
sites.py        Site, roles, the printed table
"""

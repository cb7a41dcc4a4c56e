"""What the user wrote: a NumPyro model, taken apart.

Meeting it
    tracing.py      `trace`: arguments split into data and program, entry to all below
    records.py      one site as it was met, under NumPyro's wrappers
    loops.py        one scan as it was met, and what handlers around it say of its sites
    missing.py      missing elements of observed values: left out, or drawn
    constants.py    what a model asks of NumPyro that is no site: params and keys
    running.py      run the user's function under control, sites and loops handed to us
    discovery.py    meet the model once, abstractly: its sites, its loop, their shapes
Taking it apart
    dataflow.py     jaxprs as data: what reaches what, evaluation in two halves
    script.py       what all runs of one model share
    staging.py      the same function staged for each way the engines need it; drawing.py, forward simulation
    roles.py        parameter, initial state, innovation or observation, and why
    hidden.py       randomness that no site announces is refused where it reaches a density
    digest.py       a hash of what a program computes, the same in every process
    program.py      all staged functions of a model without its data, interned
One axis through a jaxpr
    axes.py         evaluate a jaxpr at one place of an axis; windows.py, axisrules.py, axisalgebra.py, lines.py
    tail.py         observations after the loop, one step at a time
    partition.py    a model of several independent loops, one part for each; several.py, what engines see of it
    panel.py        elements that do not interact; element.py, one of them
Discrete states
    support.py      values of discrete draws that are finitely many and known at trace
    given.py        start and step at given noise and given discrete values
    enumeration.py  which discrete states can be summed out, from the data flow
    elements.py     discrete states of elements that do not interact, one chain for each
    forward.py      sums over the paths of a finite chain: likelihood, smoothing, sampling
    summing.py      a model with its discrete states summed out
What engines see
    statespace.py   `StateSpaceModel`: the pure functions engines use; sites.py, the printed table
    parameters.py   what a user passes as theta
    bound.py        one particle at one parameter value; keys.py
    paths.py        the loop run at given noise or values
    data.py         what depends on data alone: observed values, missing and impossible ones
    simulate.py     forward simulation, and what follows from known states
    checking.py     the parts put together again, against NumPyro's density
Noise
    noise.py        base noise and map of each distribution family; quantiles.py, transport.py, noiseprior.py
    score.py        the gradient of a draw without a smooth map
    reparam.py      `noise_outside`: the same idea as a NumPyro handler
"""

"""What the user wrote: a NumPyro model, taken apart.

    tracing.py      `trace`: arguments split into data and program, entry to all below
    running.py      run the user's function under control, sites and loops handed to us
    discovery.py    meet the model once, abstractly: its sites, its loop, their shapes
    dataflow.py     jaxprs as data: what reaches what, evaluation in two halves
    staging.py      the same function staged for each way the engines need it
    roles.py        parameter, initial state, innovation or observation, and why
    program.py      all staged functions of a model without its data, interned
    statespace.py   `StateSpaceModel`: the pure functions engines use
    simulate.py     forward simulation and replication
    checking.py     the parts put together again, against NumPyro's density
    noise.py        base noise and map of each distribution family
    reparam.py      `noise_outside`: the same idea as a NumPyro handler
    sites.py        Site, roles, the printed table
"""

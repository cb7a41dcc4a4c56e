"""What engines see.

front           `StateSpaceModel`: the pure functions engines use
program         all staged functions of a loop without its data, interned
partition       a model of several independent loops, one program for each; several, what engines see of it
dynamics        one loop at one parameter value: start, step, densities of one particle
panel           elements that do not interact; panel_element, one of them
parameters      what a user passes as theta
data            what depends on data alone: observed values, missing and impossible ones
requirements    what engines ask of a model before they run
paths           the loop run at given noise or values
marginal        the model with its discrete states summed out
simulation      forward simulation, and what follows from known states
deterministics  what the model computes outside the loop
checking        the parts put together again, against NumPyro's density
"""

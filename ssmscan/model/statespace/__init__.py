"""What a user holds and engines are given; each file takes a `Core`, and `front` joins them.

front             `StateSpaceModel`, of one loop or several: start reading here
retracing         what `trace` was given, which the front keeps on the host
core              `Core`: one loop, its staged functions and the data they read
parameters        theta as a user passes it: checked, cast, unconstrained and back
dynamics          a loop at one parameter value: start, step, densities of one particle
elements          whether a model is a panel, whose elements do not interact
element_functions  the staged functions of one
element_proof     the proof for one size and axis of the elements
element_dynamics  the same as `dynamics`, of one element; its filter is in `ssmscan.particles.panels`
paths             a loop run at given noise or values
state_values      the density of given states with the data, and their noise
places            where states are that gradient engines sample in place
marginal          what gradient engines integrate out of a loop: the protocol, and the case of nothing
discrete_sum      its other implementation: finite discrete states, summed out
linear_gaussian   whether a loop is linear and Gaussian, proved from what was staged
normal_integral   one more: all states of a linear Gaussian model
chain_weights     the weights of a chain of discrete draws
simulation        forward simulation, and what follows from known states
deterministics    what the model computes outside the loop
data              what depends on data alone: observed values, missing and impossible ones
over_arrays       the same model with arrays in the place of tables, whose data can be replaced
checking          the parts put together again, against NumPyro's density
site_check        the same by site, without noise: cheap enough for every trace
forward_runs      the evidence, against that of forward runs of NumPyro
reading_ahead     whether forecasts of more than one step would see data of the steps between
requirements      what engines ask of a model before they run
program           a loop without its data, shared by equal models: its functions, marginal and elements
loop_functions    all that is staged of a loop, and the roles of its sites
one_particle      start and step of one particle under each choice of maps from noise to values
selections        what of the functions by value one use needs
partition         a model of several independent loops, a program for each
"""

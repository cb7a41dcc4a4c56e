"""What the user wrote: a NumPyro model, taken apart.

tracing        `trace`: arguments split into data and program, the entry to all below
labelling      names of axes and dates, found in the arguments
declared_labels  those that a user declares
validation     the check that `trace` makes of its own work, and its switch
noise_outside  `noise_outside`: a model with its noise moved outside the loop, as a NumPyro handler

Below them stand rooms, each of which imports from those before it in this list alone:

protocols              the contract between models and engines
sites, keys, threefry  what a site is, what a PRNG key is, and the cipher that makes random bits of one
time_loops             where a program runs, and loops over time on a CPU and on a GPU
jaxprs/                jaxprs as data: what reaches what, one axis followed through
noise/                 base noise and map of each distribution family
handlers/              NumPyro's effect handlers
staging/               the user's function, staged once for each use
discrete/              finite discrete states: which can be summed, and the sums
gaussian/              the Gaussian approximation of the smoothing law, of any `Dynamics`
statespace/            what engines see: `StateSpaceModel`

To add a family of distributions, see `noise`; a refusal, see `ssmscan.errors`; a way to integrate states out, see
`statespace.marginal`.
"""

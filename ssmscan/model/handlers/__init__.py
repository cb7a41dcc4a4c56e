"""The one room that knows NumPyro's effect handlers.

running        run the user's function under control: sites and loops are handed to us
messages       one site as it was met, and what its distribution says under masks and scales
scans          one scan as it was met, and what handlers around it say of its sites
stand_ins      values of sites that cannot be drawn
missing        missing elements of observed values: left out, or drawn
params         `numpyro.param` and `numpyro.prng_key`: constants, not sites
names          what `scope` and f-strings make of the names of sites
tables         tables of pandas where arrays are wanted
totals         multinomials whose totals are data
substitutions  names to which `condition` and `substitute` give values
stack          handlers that are active at `trace`, or stand around a scan
moving         rows of noise that the user draws before a loop, drawn at their steps
noise_sites    the noise of a moved site as a sample site of its own
original       NumPyro's own log-density of the model, to check against
"""

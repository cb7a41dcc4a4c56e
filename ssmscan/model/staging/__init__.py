"""One user function, staged once for each way the engines need it.

leaves          leaves of the arguments: which are data, and how they are printed
fixed_arrays    arrays whose values the model needs in Python, made static
new_data        whether other arguments mean the same program
table_axes      what tables among the arguments say of their axes
user_arguments  arguments of `trace` that explain why a model failed on them
discovery       meet the model once, abstractly: its sites, its loops, their shapes
user_model      the user's function, what discovery found, and how it is run again
functions       the staged functions: densities, start, step, prior, constraints
real_values     the model with real counts, for the Gaussian approximation
forward_draws   the same for simulation and prediction
roles           parameter, initial state, innovation or observation, and why
left_out        sites that take no part in inference
hidden_noise    refuse randomness outside sites where it reaches a density
repeatable      refuse a model that is not the same when it is run again
row_search      the search among the sites before a loop for those that are its noise
rows            the model with these, one row a step, in its loop
post_loop       observations after the loop, one step at a time
other_layouts   those of them that are not one row a step, and what no noise reaches
"""

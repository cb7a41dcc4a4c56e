"""One user function, staged once for each way the engines need it.

user_arguments  what `trace` was given that a model may not take as it is meant
discovery       meet the model once, abstractly: its sites, its loops, their shapes
user_model      the user's function, what discovery found, and how it is run again
functions       the staged functions: densities, start, step, prior, constraints
forward_draws   the same for simulation and prediction
roles           parameter, initial state, innovation or observation, and why
hidden_noise    randomness that no site announces is refused where it reaches a density
repeatable      a model that is another when it is run again is refused
post_loop       observations after the loop, one step at a time
"""

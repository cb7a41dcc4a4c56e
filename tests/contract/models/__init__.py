"""Models as people write them, one pattern a file: the input contract of `ssmscan.trace`.

Each exposes `model`, `model_args`, `model_kwargs`, the names of its observed sites (`OBS`) and of the latent sites in
its loop (`LATENT_IN_SCAN`), a `*` standing for a traced index, and where they apply `predict_kwargs` for a forecast
and `simulate_args`, `simulate_kwargs` for a simulation without data; `independent_args` where the value to compare with
needs other arguments.
"""

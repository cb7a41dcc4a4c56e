"""Base noise and map of each distribution family: value = map(distribution, noise).

families    the two tables: which map a family has, for particles and for gradients
quantiles   inverse distribution functions
tails       distribution functions: the noise of a value
normals     normals of several dimensions, and the transforms that keep a normal normal
counts      discrete families by a bounded search
in_place    no noise: gradient engines move the value itself, in unconstrained space
samplers    a draw, or a point of the support where there is no sampler
support     the values of those that have finitely many
gammas      Gamma, Beta and their like by rejection
transport   smooth maps whose density is corrected, where there is no exact one
moments     smooth stand-ins where there is no smooth map, for the Gaussian approximation alone
rows        one of the independent rows of a distribution
score       the gradient of a draw without a smooth map

To add a family, which until then draws by its own sampler:

1. Write its map, (distribution, noise) -> value, with standard normal noise: a quantile function in `quantiles`; for
   integers a search in `counts`; else rejection in `gammas` for particles, a transport in `transport` for gradients.
2. Enter it: a quantile function in `quantiles.QUANTILES`, which makes it exact for both; any other map in
   `families._PARTICLE` (exact in law) or `families._SMOOTH` (differentiable, with its correction and its draws).
3. Test it: an entry in the tables of `tests/model/test_noise.py` with SciPy's law; integers in `test_counts.py`,
   rejection in `test_gammas.py`.
4. Say so: the table of maps in `docs/models.md`, and `CHANGELOG.md`.
"""

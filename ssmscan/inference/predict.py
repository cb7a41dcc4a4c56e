r"""The observations again: in-sample posterior predictive draws from any result.

For draw j, :math:`y^{rep}_t \sim p(y_t | x^{(j)}_{1:t}, y_{1:t-1}, \theta^{(j)})` with the parameters *and the states*
of the posterior.  It answers whether the model can produce such data, and it has seen them: for a score of
forecasts use the increments of a filter, which are one-step-ahead predictive densities (Gelman et al. 2013,
*Bayesian Data Analysis*, section 6.3).
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ssmscan.inference.settings import require_integer, spread, stock_key
from ssmscan.results.result import Result

BATCH = 64


def posterior_predictive(
    key: jax.Array, ssm: Any, result: Result, *, num_draws: int | None = None
) -> dict[str, np.ndarray]:
    """Draw every observed site again, at parameters and states of a result.

    Args:
        key: one PRNG key, typed or raw.
        ssm: the model of the result.
        result: what any engine returned, with state paths.
        num_draws: paths used of each chain, evenly spread; all of them by default.

    Returns:
        Observed site -> (chains, num_draws, *shape of the data).

    Raises:
        ValueError: if the result has no state paths, fewer than num_draws, or other sites than the model.
    """
    key = stock_key(key)
    num_paths = len(result.state_draws)
    if num_draws is None:
        num_draws = num_paths
    require_integer("num_draws", num_draws, at_least=1)
    if num_paths < num_draws:
        raise ValueError(
            f"num_draws is {num_draws}, but the result has {num_paths} state paths a chain: sample again with more "
            "num_paths, or ask for fewer"
        )
    latent = [site.name for site in (*ssm.initial, *ssm.innovations)]
    parameters = [site.name for site in ssm.parameters]
    if set(latent) - set(result.states) or set(parameters) != set(result.draws):
        raise ValueError(
            f"the model has parameters {parameters} and latent sites {latent}, the result {sorted(result.draws)} "
            f"and {sorted(result.states)}: give the model that the result was made with"
        )
    paths = spread(num_paths, num_draws)
    theta = {name: values[:, result.state_draws[paths]] for name, values in result.draws.items()}
    states = {name: result.states[name][:, paths] for name in latent}
    lead = (result.num_chains, num_draws)
    keys = jax.random.split(key, lead)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (keys, theta, states))
    replicates = _replicate(ssm, *flat)
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(*lead, *leaf.shape[1:]), replicates)


@jax.jit
def _replicate(ssm: Any, keys: jax.Array, theta: Any, states: Any) -> dict[str, jax.Array]:
    return jax.lax.map(lambda draw: ssm.replicate(*draw), (keys, theta, states), batch_size=BATCH)

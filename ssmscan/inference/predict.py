r"""Posterior predictive paths of every site, in the sample and beyond it, from any result.

For draw j, with the parameters *and the states* of the posterior,

    in the sample   :math:`y^{rep}_t \sim p(y_t | x^{(j)}_{1:t}, y_{1:t-1}, \theta^{(j)})`
    beyond it       :math:`x_t, y_t \sim p(x_t, y_t | x^{(j)}_{1:t-1}, y_{1:t-1}, \theta^{(j)})`, step after step

The second is a forecast: give the model traced with a longer loop, in whichever way it is written.  The first
answers whether the model can produce such data, and it has seen them: for a score of forecasts use the
increments of a filter, which are one-step-ahead predictive densities (Gelman et al. 2013, *Bayesian Data
Analysis*, section 6.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ssmscan.arguments import require_instance, require_integer
from ssmscan.inference.progress import map_draws
from ssmscan.inference.settings import spread
from ssmscan.labels import require_same_elements
from ssmscan.model.keys import one_key
from ssmscan.model.protocols import Values
from ssmscan.model.sites import Role
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_drawn, require_traced, unread_sites
from ssmscan.results.data import NO_PATHS
from ssmscan.results.predictions import Predictions
from ssmscan.results.result import Result


def predict(key: jax.Array, ssm: StateSpaceModel, result: Result, *, num_draws: int | None = None) -> Predictions:
    """Draw every observed site again, and go on where the states of the result end.

    Args:
        key: one PRNG key, typed or raw.
        ssm: the model of the result; or the same model traced with more steps, whose data may be shorter than its
            loop (a handler conditions the first steps), hold NaN, or be left out where no state reads them.  Roles
            that `with_roles` declared are taken over from the result.
        result: what any engine returned, with state paths.
        num_draws: paths used of each chain, evenly spread; all of them by default.

    Returns:
        A mapping: site -> (chains, num_draws, *shape), sites of the loop with time in front: states, deterministics
        and new draws of the observations. It knows the dates, where the data have them, and where the forecast begins.

    Raises:
        ValueError: if the result has no state paths, fewer than num_draws, other sites than the model, or more steps;
            or if the columns of its data are others than those of the model, or in another order.
    """
    key = one_key(key)
    require_traced(ssm)
    advice = "For one filter run, draw paths with ssmscan.backward_sample and give them to ssm.predict."
    require_instance("result", result, Result, "a Result, as engines return it", advice)
    ssm = with_roles_of(ssm, result)
    num_paths = len(result.state_draws)
    if not num_paths:
        raise ValueError(f"result: it has no state paths, of which predictions are made: {NO_PATHS}")
    if num_draws is None:
        num_draws = num_paths
    require_integer("num_draws", num_draws, at_least=1)
    if num_paths < num_draws:
        raise ValueError(
            f"num_draws is {num_draws}, but the result has {num_paths} state paths a chain: sample again with more "
            "num_paths, or ask for fewer"
        )
    latent = _known_states(ssm, result)
    paths = spread(num_paths, num_draws)
    theta = {name: values[:, result.state_draws[paths]] for name, values in result.draws.items()}
    states = {name: result.states[name][:, paths] for name in latent}
    seen = {**result.observed, **ssm.observed}
    keys = jax.random.split(key, (result.num_chains, num_draws))
    drawn = map_draws(StateSpaceModel.predict, ssm, keys, theta, states).value
    known = _known_steps(ssm, _steps_of(ssm, result), drawn)
    return _predictions(ssm, drawn, known, seen, result.state_draws[paths])


def prior_predictive(key: jax.Array, ssm: StateSpaceModel, *, num_draws: int = 500) -> Predictions:
    """Draw parameters from the prior, and states and observations given them: is this what the data might look like?

    The model runs forward, so that where a state reads an observation it reads the one that was drawn.  What does not
    run forward counts for nothing: factors, and masks and scales of a prior.

    Args:
        key: one PRNG key, typed or raw.
        ssm: what `ssmscan.trace` returned; data may be absent.
        num_draws: number of draws.

    Returns:
        A mapping: site -> (1, num_draws, *shape), sites of the loop with time in front: parameters, states,
        deterministics and observations. ``result.to_arviz(prior=...)`` takes it, and it has a `to_arviz` of its own.

    Raises:
        ModelError: a site cannot be drawn, as its law is improper or has no sampler.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, ssmscan
        >>> from numpyro.contrib.control_flow import scan
        >>> def random_walk(y):
        ...     scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        ...     def step(x, y):
        ...         x = numpyro.sample("x", dist.Normal(x, scale))
        ...         numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        ...         return x, None
        ...     scan(step, 0.0, y)
        >>> ssm = ssmscan.trace(random_walk, jax.numpy.array([0.3, 0.9, 1.4]))
        >>> draws = ssmscan.prior_predictive(jax.random.key(0), ssm, num_draws=100)
        >>> print(draws["scale"].shape, draws["y"].shape)
        (1, 100) (1, 100, 3)
    """
    key = one_key(key)
    require_traced(ssm)
    require_integer("num_draws", num_draws, at_least=1)
    require_drawn(ssm, Role.PARAMETER, Role.INITIAL, Role.INNOVATION)
    drawn = map_draws(_from_prior, ssm, jax.random.split(key, (1, num_draws))).value
    known = _known_steps(ssm, dict.fromkeys(range(len(ssm.loops)), 0), drawn)
    return _predictions(ssm, drawn, known, ssm.observed, None)


def _from_prior(ssm: StateSpaceModel, key: jax.Array) -> Values:
    key_parameters, key_rest = jax.random.split(key)
    theta = ssm.sample_prior(key_parameters)
    return theta | ssm.simulate(key_rest, theta)


def _predictions(
    ssm: StateSpaceModel,
    drawn: dict[str, np.ndarray],
    known: dict[str, int],
    observed: Mapping[str, np.ndarray],
    state_draws: np.ndarray | None,
) -> Predictions:
    data = {name: _as_long(values, drawn[name]) if name in known else values for name, values in observed.items()}
    initial, start = tuple(name for name in drawn if name not in known), tuple(site.name for site in ssm.initial)
    return Predictions(drawn, ssm.labels, data, known, initial, start, state_draws)


def _steps_of(ssm: StateSpaceModel, result: Result) -> dict[int, int]:
    """Return the number of steps that states of the result cover, for each loop that has some."""
    found = {}
    for number, part in enumerate(ssm.loops):
        if steps := [result.states[s.name].shape[2] for s in part.innovations if s.name in result.states]:
            found[number] = max(steps)
    return found


def _known_steps(ssm: StateSpaceModel, steps: Mapping[int, int], drawn: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return how many steps are known of each site with a time axis: all those of a loop that is not named."""
    known: dict[str, int] = {}
    for number, part in enumerate(ssm.loops):
        for site in part.sites:
            timed = site.in_loop or drawn[site.name].shape[2:3] == (part.num_steps,) if site.name in drawn else False
            if timed and site.role not in (Role.PARAMETER, Role.INITIAL):
                known[site.name] = steps.get(number, part.num_steps)
    return known


def _as_long(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return data with NaN for the steps that have none."""
    ahead = drawn.shape[2] - len(values)
    return np.concatenate([values, np.full((ahead, *values.shape[1:]), np.nan)]) if ahead > 0 else values


def with_roles_of(ssm: StateSpaceModel, result: Result) -> StateSpaceModel:
    """Return the model with its sites outside the loop in the roles that they have in the result.

    Raises:
        ValueError: other elements stand along an axis of the model than of the result, or in another order.
    """
    require_same_elements(ssm.labels, result.labels)
    parameters = tuple(site.name for site in ssm.initial if site.name in result.draws)
    initial = tuple(site.name for site in ssm.parameters if site.name in result.initial)
    declared: Any = ssm.source
    if not (parameters or initial) or declared is None:
        return ssm
    kept = [name for name in declared.parameters if name not in initial]
    started = [name for name in declared.initial if name not in parameters]
    return ssm.with_roles(parameters=(*kept, *parameters), initial=(*started, *initial))


def _known_states(ssm: StateSpaceModel, result: Result) -> list[str]:
    """Latent sites of the model that the result knows, after checking that it is a result of this model."""
    initial, loop = [site.name for site in ssm.initial], [site.name for site in ssm.innovations]
    parameters = [site.name for site in ssm.parameters]
    # What nothing reads, as observations of a model traced without data, follows from the rest.
    unknown = (set(initial) | set(loop)) - set(result.states) - ssm.missing_sites - set(unread_sites(ssm))
    if unknown or set(parameters) != set(result.draws):
        raise ValueError(
            f"the model has parameters {parameters} and latent sites {initial + loop}, the result "
            f"{sorted(result.draws)} and {sorted(result.states)}: give the model that the result was made with, or "
            "the same with more steps"
        )
    for part in ssm.loops:
        steps = [result.states[s.name].shape[2] for s in part.innovations if s.name in result.states]
        if steps and max(steps) > part.num_steps:
            raise ValueError(
                f"the result has states of {max(steps)} steps and the model {part.num_steps}: trace the model with as "
                "many steps or more"
            )
    return [name for name in (*initial, *loop) if name in result.states]

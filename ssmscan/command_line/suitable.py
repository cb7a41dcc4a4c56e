"""Which engines run a model, and which to start with; nothing is compiled to find out.

Each engine refuses what it cannot run before it compiles.  What is asked here is what those refusals ask: gradients
need a smooth map from noise to every state, or states that can be summed out, and JAX's derivative of the density;
filters need states that can be drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import ssmscan
from ssmscan.inference.engines import MANY_PARAMETERS
from ssmscan.inference.importance_points import dimension
from ssmscan.inference.settings import gradients_required, require_parameters
from ssmscan.model.sites import Role
from ssmscan.model.statespace.requirements import require_drawn, require_observed
from ssmscan.particles.finite_states import can_enumerate
from ssmscan.particles.smoothing_exact import has_exact_law


class Suitable(NamedTuple):
    """What runs a model.

    Attributes:
        refused: engine -> why it does not run the model; an empty text where it does.
        advice: which to start with, and why, in sentences.
    """

    refused: dict[str, str]
    advice: str

    @property
    def table(self) -> ssmscan.Table:
        """The engines and whether each runs the model."""
        rows = tuple((name, "no" if why else "yes", why) for name, why in self.refused.items())
        return ssmscan.Table("Engines", ("engine", "runs it", "why not"), rows, labels=3)


def suitable(ssm: ssmscan.StateSpaceModel) -> Suitable:
    """Return which engines run a model, and which to start with."""
    gradient = _why_not(lambda: _require_gradient(ssm))
    drawn = _why_not(lambda: require_drawn(ssm))
    prior = _why_not(lambda: require_drawn(ssm, Role.PARAMETER))
    discrete = [site.name for site in ssm.parameters if site.discrete]
    fixed = f"parameter '{discrete[0]}' is discrete, and parameters are moved along real numbers" if discrete else ""
    none = _why_not(lambda: require_parameters(ssm)) and "the model has no parameters"
    refused = {
        "NUTS": fixed or gradient,
        "PMMH": fixed or none or drawn,
        "ImportanceSampler": fixed or none or drawn,
        "TemperedSMC": fixed or none or gradient or prior or drawn,
        "SMC2": fixed or none or prior or drawn,
        "ParticleGibbs": fixed or none or drawn or gradient,
        "ParticleFilter": drawn,
    }
    return Suitable(refused, _advice(ssm, refused, bool(none)))


def _advice(ssm: ssmscan.StateSpaceModel, refused: dict[str, str], without_parameters: bool) -> str:
    """Return which engine to start with."""
    if without_parameters:
        first = "ssmscan.ParticleFilter" if not refused["ParticleFilter"] else "ssmscan.NUTS"
        return f"Start with {first}: nothing but the states is unknown. Given all data they are ssmscan.Smoother's."
    runs = [name for name, why in refused.items() if not why and name != "ParticleFilter"]
    if not runs:
        return "No engine draws the parameters of this model; the reasons above say what to change."
    few = dimension(ssm) <= MANY_PARAMETERS
    other = next((name for name in (("ImportanceSampler", "PMMH") if few else ("PMMH",)) if name in runs), None)
    if "NUTS" not in runs:
        return (
            f"Start with ssmscan.{other or runs[0]}: the model has no gradient that NUTS could follow, and a filter "
            "needs none."
        )
    confirm = f", then ssmscan.{other} to confirm: ssmscan.cross_check runs both until they agree" if other else ""
    if can_enumerate(ssm):
        return f"Start with ssmscan.NUTS, which sums the states of few values out{confirm}."
    exact = ""
    if has_exact_law(ssm):
        exact = (
            " The states are linear and Gaussian: with ssmscan.integrate_states(ssm) NUTS moves the parameters alone, "
            "and estimator=ssmscan.ExactLikelihood() gives the other engines the exact likelihood."
        )
    return f"Start with ssmscan.NUTS{confirm}.{exact}"


def _require_gradient(ssm: ssmscan.StateSpaceModel) -> None:
    """Raise ModelError unless the density given noise has a gradient."""
    require_observed(ssm)
    noise = {name: jnp.zeros(spec.shape) for name, spec in ssm.smooth_noise.items()}

    def log_density(z: dict[str, jax.Array]) -> jax.Array:
        theta, log_prior = ssm.log_prior_unconstrained(z)
        return log_prior + ssm.log_likelihood_given_noise(theta, noise)

    def gradient(key: jax.Array) -> dict[str, jax.Array]:
        return jax.grad(log_density)(ssm.unconstrain(ssm.sample_start(key)))

    with gradients_required("NUTS"):
        jax.eval_shape(gradient, jax.random.key(0))


def _why_not(require: Callable[[], None]) -> str:
    """Return the message of the refusal, empty if there is none."""
    try:
        require()
    except ssmscan.ModelError as error:
        return str(error)
    return ""

"""What engines may be given: a traced model, in which something is observed.

A plain function has not been traced.  A model without data, `y=None` for one, is good for `ssm.simulate` and
`ssm.sample_prior`; an engine would return its prior under the name of a posterior, and a log likelihood of zero.
"""

from __future__ import annotations

import jax
import numpy as np

from ssmscan.arguments import shown
from ssmscan.errors import ModelError
from ssmscan.model.sites import Role
from ssmscan.model.statespace.front import StateSpaceModel

OBSERVED = (Role.OBSERVATION, Role.START_OBSERVATION, Role.POST_LOOP_OBSERVATION, Role.PARAMETER_LIKELIHOOD)


def require_traced(ssm: object) -> None:
    """Raise unless this is a model as `ssmscan.trace` returns it.

    Raises:
        TypeError: it is something else, such as the function itself.
    """
    if isinstance(ssm, type) or not hasattr(ssm, "canonical"):
        name = getattr(ssm, "__name__", "model") if callable(ssm) else "model"
        found = f"the function '{name}'" if callable(ssm) else f"a value of type {type(ssm).__name__}"
        found = shown(ssm) if isinstance(ssm, type) else found
        raise TypeError(
            f"ssm: expected a traced model, got {found}. Trace it first: ssm = ssmscan.trace({name}, ...), with the "
            "arguments of the model, and give ssm."
        )


def require_observed(ssm: object) -> None:
    """Raise unless this is a traced model that observes something.

    Raises:
        TypeError: it is not a traced model.
        ModelError: no site of it is observed; the message names those that could be.
    """
    require_traced(ssm)
    if isinstance(ssm, StateSpaceModel) and not any(site.role in OBSERVED for site in ssm.sites):
        unread = unread_sites(ssm)
        asked = f" Site '{unread[0]}' is drawn, and nothing reads it: did you forget obs=?" if unread else ""
        raise ModelError(
            f"no site of the model is observed, so that there is nothing to infer.{asked} Trace the model with its "
            "data; to draw from a model without data use ssm.sample_prior and ssm.simulate."
        )


def require_data(ssm: object) -> None:
    """Raise unless this is a traced model of which at least one value is observed.

    For samplers of parameters: a filter may begin before the first observation has come.

    Raises:
        TypeError, ModelError: as `require_observed`.
        ModelError: all values are missing.
    """
    require_observed(ssm)
    if isinstance(ssm, StateSpaceModel) and (missing := _wholly_missing(ssm)):
        raise ModelError(
            f"every value of the observed site(s) {', '.join(map(repr, missing))} is missing (NaN), so that there is "
            "nothing to infer. Look at how the data were read; to draw from a model without data use ssm.sample_prior "
            "and ssm.simulate."
        )


def _wholly_missing(ssm: StateSpaceModel) -> list[str]:
    """Return the names of the observed sites if all their values are missing, empty if one is not, or may not be."""
    if not ssm.has_gaps or any(isinstance(a, jax.core.Tracer) for core in ssm.cores for a in core.arrays):
        return []
    with jax.ensure_compile_time_eval():
        values = ssm.observed
    names = [site.name for site in ssm.sites if site.role in OBSERVED]
    gone = [name in values and values[name].dtype.kind == "f" and np.isnan(values[name]).all() for name in names]
    return names if all(gone) else []


def require_drawn(ssm: object, *roles: Role) -> None:
    """Raise unless the sites with some roles, those of the states by default, can be drawn.

    Raises:
        ModelError: one has no sampler; the message names it.
    """
    for core in ssm.cores if isinstance(ssm, StateSpaceModel) else ():
        core.refuse_undrawable(*core.with_role(*(roles or (Role.INITIAL, Role.INNOVATION))))


def unread_sites(ssm: StateSpaceModel) -> tuple[str, ...]:
    """Return the names of the sites that look like observations without data, see `left_out.unread`."""
    after = [site for core in ssm.cores for site in core.program.plan.drawn_after]
    return (*(name for core in ssm.cores for name in core.program.unread), *sorted(set(after)))


def unread_warning(ssm: StateSpaceModel) -> str:
    """Return a warning where a model with data draws sites at every step that nothing reads; empty otherwise.

    Without any data nothing is said: such a model is traced to simulate from it, and engines refuse it.
    """
    names = [name for core in ssm.cores for name in core.program.unread]
    if not names or not any(site.role in OBSERVED for site in ssm.sites):
        return ""
    quoted = ", ".join(f"'{name}'" for name in names)
    many = len(names) > 1
    return (
        f"site{'s' * many} {quoted} {'are' if many else 'is'} drawn at every step, and nothing observes or reads "
        f"{'them' if many else 'it'}: no data act through {'them' if many else 'it'}. Did you forget obs=, or to "
        "condition? For replicates of the data use ssmscan.predict."
    )

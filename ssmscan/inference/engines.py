"""Engines for a cross-check: which two are as unlike as a model allows, what they share, and how each is lengthened.

| | needs | takes the likelihood from |
|---|---|---|
| `NUTS`, else `TemperedSMC` | gradients | the density of parameters and noise |
| `ImportanceSampler`, else `PMMH` | what a filter needs | a filter |

One engine of each row shares with the other no more than the model as it was traced.  Where no engine of one row runs,
both are of the other.  The importance sampler draws independent points and is asked first unless there are more than
`MANY_PARAMETERS`, where PMMH is.  Engines refuse a model before anything is compiled, so that asking costs a trace.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from ssmscan.arguments import refusal, require_mapping
from ssmscan.inference.importance import ImportanceSampler
from ssmscan.inference.importance_points import dimension
from ssmscan.inference.nuts import NUTS
from ssmscan.inference.pmmh import PMMH
from ssmscan.inference.tempering import TemperedSMC
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.particles.exact_likelihood import ExactLikelihood
from ssmscan.results.result import Result

MANY_PARAMETERS = 10
"""Parameters of more unconstrained coordinates than these are too many for importance sampling, and PMMH is taken."""

SIZES = {
    "num_samples": lambda result: result.num_draws,
    "num_points": lambda result: len(result.log_weights),
    "num_runs": lambda result: result.num_chains,
}
"""Setting that says how much an engine adds -> how much of it a result has."""


class Engine(Protocol):
    """What can be cross-checked: anything that samples the parameters, and goes on from what it has sampled."""

    def run(self, key: jax.Array, ssm: StateSpaceModel, *, start: Result | None = None) -> Result:
        """Sample, or add draws to those of `start`."""


RESERVED = ("tolerances", "level", "significance")

FILTER, DENSITY = "the same filter", "the same density of parameters and noise"


class Engaged(NamedTuple):
    """An engine at work: its name in results and sentences, and its settings."""

    name: str
    engine: Engine

    @property
    def uses(self) -> str:
        """What it takes the likelihood from, empty for an engine that is not known here."""
        if isinstance(self.engine, PMMH | ImportanceSampler):
            return "" if isinstance(self.engine.estimator, ExactLikelihood) else FILTER
        return DENSITY if isinstance(self.engine, NUTS | TemperedSMC) else ""

    def lengthened(self, result: Result, growth: float) -> Engine:
        """Return the engine that adds as much to a result as makes it so many times as long.

        A stray divergence in what is added does not cost what there is: NUTS then warms up no second time.
        """
        for setting, size in SIZES.items():
            if dataclasses.is_dataclass(self.engine) and hasattr(self.engine, setting):
                more = max(int(np.ceil(size(result) * (growth - 1.0))), 1)
                longer: Any = dataclasses.replace(self.engine, **{setting: more})  # type: ignore[type-var]
                return dataclasses.replace(longer, rewarm=False) if isinstance(longer, NUTS) else longer
        return self.engine


def shared(engaged: list[Engaged]) -> tuple[str, ...]:
    """Say what the engines share, where that is known."""
    uses = {one.uses for one in engaged}
    if len(engaged) < 2 or "" in uses:
        return ()
    if len(uses) > 1:
        return ("They share the model as it was traced, and nothing that computes a likelihood.",)
    return (f"{'Both' if len(engaged) == 2 else 'All'} use {uses.pop()}: a fault of it would not show.",)


def choices(ssm: StateSpaceModel, progress: bool) -> list[list[Engaged]]:
    """Return rows of engines, in each of which the first that runs the model is to be taken."""
    settings: dict[str, Any] = {"num_paths": 0, "progress": progress}
    nuts = Engaged("nuts", NUTS(num_warmup=500, **settings))
    tempered = Engaged("tempered", TemperedSMC(num_runs=6, **settings))
    importance = Engaged("importance", ImportanceSampler(**settings))
    pmmh = Engaged("pmmh", PMMH(num_warmup=1000, num_samples=2000, **settings))
    # Discrete parameters have no coordinates, and every engine refuses them.
    few = any(site.discrete for site in ssm.parameters) or dimension(ssm) <= MANY_PARAMETERS
    return [[nuts, tempered], [importance, pmmh] if few else [pmmh, importance]]


def require_engines(engines: Any) -> list[tuple[str, Engine]]:
    """Return the engines by name if there are two at least, each with a run that goes on."""
    expected = "a mapping from two names at least to engines, as in {'nuts': ssmscan.NUTS(), 'pmmh': ssmscan.PMMH()}"
    require_mapping("engines", engines, expected)
    if len(engines) < 2:
        raise ValueError(f"engines: expected {expected}, got {len(engines)}: an engine cannot disagree with itself.")
    for name, engine in engines.items():
        run = None if isinstance(engine, type) else getattr(engine, "run", None)
        if not callable(run) or "start" not in inspect.signature(run).parameters:
            raise TypeError(
                refusal(
                    f"engines[{name!r}]", "an engine of parameters, with a method run(key, ssm, *, start=None)", engine
                )
            )
        if name in RESERVED:
            raise ValueError(f"engines: {name!r} is an argument of ssmscan.compare; give the engine another name.")
    return list(engines.items())

"""Every model of the contract on every engine: `python -m tests.contract [part of a name]`.

One line a model: roles against what the file declares; `ssm.check`; the likelihood at fixed parameters, by the particle
filter (or, where that is refused, by tempered SMC with the parameters conditioned) against a value that shares nothing
with the package (`values.py`), both with standard errors; NUTS over 20 + 20 steps; a forecast or a simulation; below it
what was refused, by its sentence.  Where all states are discrete and summed out, `sum` is the exact value.  A file may
have a `twin`: the same model in words that NumPyro's own density takes.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import sys
import time
import warnings
from collections.abc import Callable
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers

import ssmscan
from tests.contract import models, values

GAUSSIAN = {
    "second_scan_reads_the_path",
    "walk_observed_at_chosen_times",
    "gaussian_ssm_y_xs_or_length",
    "lgssm_condition_T_plus_h",
    "rw2_spline_prior_length_only",
    "media_mix_vmapped_adstock",
    "regional_sales_scopes",
    "series_in_front_time_behind",
    "structural_ts_multi_latent",
    "subject_loop_one_scan_each",
}
FEW_PATHS = {"changepoint_segment_count", "hmm_second_order_history", "msar_window_of_regimes"}
NUM_PARTICLES, NUM_FILTERS = 2000, 64


def names() -> list[str]:
    """Names of the models."""
    return sorted(info.name for info in pkgutil.iter_modules(models.__path__))


def load(name: str) -> ModuleType:
    """Import one model."""
    return importlib.import_module(f"tests.contract.models.{name}")


def traced(file: ModuleType, **changes) -> ssmscan.StateSpaceModel:
    """Trace the model of a file over its data."""
    return ssmscan.trace(file.model, *file.model_args, **{**file.model_kwargs, **changes})


def roles_right(file: ModuleType, ssm: ssmscan.StateSpaceModel) -> bool:
    """Whether observed and in-loop latent sites are those that the file declares."""

    def same(sites, declared) -> bool:
        return sorted(site.name for site in sites) == sorted(name.removesuffix("_*") for name in declared)

    return same(ssm.observations, file.OBS) and same(ssm.innovations, file.LATENT_IN_SCAN)


def central(ssm: ssmscan.StateSpaceModel) -> dict[str, jax.Array]:
    """Parameters near the middle of the unconstrained space, away from its symmetries."""
    z = ssm.unconstrain(ssm.sample_start(jax.random.key(0)))
    return ssm.constrain(jax.tree.map(lambda a: jnp.full_like(a, 0.3), z))


def independent(file: ModuleType, name: str, ssm: ssmscan.StateSpaceModel, theta: dict) -> values.Value:
    """The likelihood at theta from outside the package."""

    model = getattr(file, "twin", file.model)

    def run():
        return model(*getattr(file, "independent_args", file.model_args), **file.model_kwargs)

    if name == "cjs_capture_recapture":
        return values.capture_recapture(file.model_args[0], float(theta["phi"]), float(theta["rho"]))
    if name in GAUSSIAN or getattr(file, "GAUSSIAN", False):
        return values.linear_gaussian(run, theta)
    if name in FEW_PATHS:
        return values.over_all_paths(run, theta)
    if not ssm.innovations:
        return values.without_noise(run, theta)
    return values.monte_carlo(run, theta)


def filtered(ssm: ssmscan.StateSpaceModel, theta: dict) -> values.Value:
    """The likelihood at theta by independent particle filters."""

    def one(key):
        return ssmscan.log_likelihood(key, ssm, theta, num_particles=NUM_PARTICLES)

    logs = jax.vmap(one)(jax.random.split(jax.random.key(7), NUM_FILTERS))
    return values.averaged(np.asarray(logs, float), "particle filter")


def tempered(file: ModuleType, ssm: ssmscan.StateSpaceModel, theta: dict) -> values.Value:
    """The likelihood at theta by tempered SMC over everything else."""

    def with_idle_parameter(*args, **kwargs):
        numpyro.sample("idle", dist.Normal(0.0, 1.0))
        return handlers.condition(file.model, data=theta)(*args, **kwargs)

    fixed = ssmscan.trace(with_idle_parameter, *file.model_args, **file.model_kwargs)
    result = ssmscan.TemperedSMC(num_particles=1000, num_runs=4, progress=False).run(jax.random.key(8), fixed)
    assert result.log_evidence is not None and result.log_evidence_error is not None
    prior = float(ssm.log_prior(theta))
    return values.Value(result.log_evidence - prior, result.log_evidence_error, "tempered SMC")


class Line:
    """What is said of one model."""

    def __init__(self, name: str):
        self.name, self.cells, self.refusals = name, dict.fromkeys(COLUMNS, "-"), []

    def fill(self, column: str, what: Callable[[], str]) -> bool:
        """Fill a cell; a refusal is kept by its sentence."""
        try:
            self.cells[column] = what()
        except (ssmscan.ModelError, NotImplementedError) as error:
            self.cells[column] = "refused"
            self.refusals.append(f"{column}: {error}")
        except Exception as error:
            self.cells[column] = "WRONG"
            self.refusals.append(f"{column}: {type(error).__name__}: {error}")
        return self.cells[column] not in ("refused", "WRONG")

    def __str__(self) -> str:
        cells = " ".join(f"{self.cells[c]:<{width}}" for c, width in COLUMNS.items())
        return "\n".join([f"{self.name:<36}{cells}", *(f"    {text}" for text in self.refusals)])


COLUMNS = {
    "trace": 8,
    "roles": 6,
    "check": 7,
    "estimate": 17,
    "independent": 17,
    "sum": 8,
    "z": 6,
    "NUTS": 8,
    "forecast": 9,
    "simulation": 11,
    "values": 0,
}


def examine(name: str) -> Line:
    """Put one model through everything."""
    file, line = load(name), Line(name)
    found: dict = {}

    def keep(key: str, value, text: str = "yes") -> str:
        found[key] = value
        return text

    if not line.fill("trace", lambda: keep("ssm", traced(file))):
        return line
    ssm = found["ssm"]
    theta = file.THETA if hasattr(file, "THETA") else central(ssm)
    line.fill("roles", lambda: "right" if roles_right(file, ssm) else "WRONG")
    line.fill("check", lambda: "passes" if ssm.check(jax.random.key(0)).passed else "WRONG")
    compare(line, file, name, ssm, theta)
    settings = ssmscan.NUTS(num_warmup=20, num_samples=20, num_chains=1, progress=False)
    line.fill("NUTS", lambda: keep("result", settings.run(jax.random.key(2), ssm), "runs"))
    if hasattr(file, "predict_kwargs") and "result" in found:
        line.fill("forecast", lambda: forecast(file, found["result"]))
    if hasattr(file, "simulate_args"):
        line.fill("simulation", lambda: simulation(file))
    return line


def compare(line: Line, file: ModuleType, name: str, ssm: ssmscan.StateSpaceModel, theta: dict) -> None:
    """Two values of the likelihood, how many standard errors lie between them, and the exact sum over states."""
    found: dict[str, values.Value] = {}

    def shown(what: str, value: values.Value) -> str:
        found[what] = value
        return f"{value.log_likelihood:.3f} ± {value.error:.3f}"

    if not line.fill("estimate", lambda: shown("ours", filtered(ssm, theta))):
        line.fill("estimate", lambda: shown("ours", tempered(file, ssm, theta)))
    if ssm.summed_out and not ssm.smooth_noise:
        line.fill("sum", lambda: f"{float(ssm.log_likelihood_given_noise(theta, {})):.3f}")
    if not line.fill("independent", lambda: shown("theirs", independent(file, name, ssm, theta))):
        return
    origins = [value.origin for value in found.values()]
    line.cells["values"] = " / ".join(origins)
    if len(found) == 2:
        ours, theirs = found["ours"], found["theirs"]
        # What rounding explains, where both are exact.
        rounding = 4 * float(jnp.finfo(jnp.result_type(float)).eps) * (10 + abs(theirs.log_likelihood))
        scale = math.hypot(ours.error, theirs.error, rounding)
        line.cells["z"] = f"{(ours.log_likelihood - theirs.log_likelihood) / scale:.2f}"


def forecast(file: ModuleType, result) -> str:
    """Predict beyond the sample; the number of steps drawn."""
    ssm = traced(file, **file.predict_kwargs)
    drawn = ssmscan.predict(jax.random.key(3), ssm, result)
    name = file.OBS[0].removesuffix("_*")
    assert np.isfinite(drawn[name]).all()
    return f"{drawn[name].shape[2]} steps"


def simulation(file: ModuleType) -> str:
    """Simulate the model without data; the number of steps drawn."""
    ssm = ssmscan.trace(file.model, *file.simulate_args, **file.simulate_kwargs)
    drawn = ssm.simulate(jax.random.key(4), ssm.sample_prior(jax.random.key(5)))
    assert all(np.isfinite(value).all() for value in drawn.values())
    return f"{ssm.num_steps} steps"


def main(wanted: str = "") -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    print(f"{'model':<36}" + " ".join(f"{column:<{width}}" for column, width in COLUMNS.items()))
    start = time.perf_counter()
    for name in names():
        if wanted in name:
            print(examine(name), flush=True)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:2])

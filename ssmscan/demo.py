"""The demonstration: one model of exchange rates, two samplers that share no step, until they agree.

`run` fits the model of `examples/stochastic_volatility.py` (shipped as `ssmscan.stochastic_volatility`, the
same file) to the GBP/USD returns of 1997 by NUTS and by importance sampling on a particle filter, neither started from
the other's draws.  It prints what `trace` found, the verdict of `ssmscan.cross_check` with all that it rests on, and
last whether each can be trusted, and writes into one folder

    *.nc                  the results, for `ssmscan.load` or anything that reads netCDF
    states.png            volatility given all data, by both, over the returns
    filtered.png          volatility given the data up to each day, at the posterior mean
    ess.png               how many particles that filter had left at each day
    posterior-*.png       the densities of the parameters by both samplers
    agreement.png         differences between them with their intervals
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ssmscan
from ssmscan import datasets
from ssmscan.results import plots
from ssmscan.results.table import count, rounded, wrapped
from ssmscan.stochastic_volatility import stochastic_volatility

SECONDS = 300.0
"""Most time for the samplers, which end at a verdict: on two idle cores within a minute."""


def run(folder: Path, *, seed: int = 0, quick: bool = False) -> dict[str, ssmscan.Result]:
    """Run the demonstration and return the results by name.

    Args:
        folder: where figures and netCDF go; made if absent, files of an earlier run are replaced.
        seed: of the one PRNG key.
        quick: a few draws from a short series, to see that everything runs; nothing converges.
    """
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    data = datasets.gbpusd()
    end = np.datetime64("1997-04" if quick else "1998-01")
    returns, days = data.values[data.time < end], data.time[data.time < end]
    check_key, filter_key = jax.random.split(jax.random.key(seed))

    ssm = ssmscan.trace(stochastic_volatility, returns)
    print(f"{data.description}, {days[0]} to {days[-1]}\n\n{ssm}\n", flush=True)

    check = ssmscan.cross_check(check_key, ssm, seconds=4 * SECONDS if quick else SECONDS, engines=_engines(quick))
    results, comparison = check.results, check.comparison
    print(f"[{time.perf_counter() - start:3.0f} s] {check}\n", flush=True)
    if comparison is None:
        return results
    for name, result in results.items():
        result.save(folder / f"{name}.nc")
    print(_largest(comparison))
    filtered = ssmscan.ParticleFilter(num_particles=10_000).run(filter_key, ssm, results["nuts"].mean())
    print(f"log likelihood at the posterior mean of NUTS: {filtered.log_likelihood:.2f}. {filtered.message()}\n")

    for name, axes in _figures(results, comparison, filtered, returns, days).items():
        axes.figure.savefig(folder / f"{name}.png", dpi=150)
    written = ", ".join(sorted(path.name for path in folder.iterdir()))
    print(f"[{time.perf_counter() - start:3.0f} s] in {folder}/: {written}\n")
    print("\n".join(wrapped(f"{name}: {_trust(result)}") for name, result in results.items()))
    return results


def _engines(quick: bool) -> dict[str, ssmscan.Engine]:
    if quick:
        return {
            "nuts": ssmscan.NUTS(num_warmup=20, num_samples=10, num_chains=2),
            "importance": ssmscan.ImportanceSampler(num_points=40, num_particles=20, num_paths=20),
        }
    return {
        "nuts": ssmscan.NUTS(num_warmup=500, target_accept=0.95, num_paths=500),
        "importance": ssmscan.ImportanceSampler(num_paths=500),
    }


def _trust(result: ssmscan.Result) -> str:
    """Return sentences on whether a result can be trusted."""
    if concerns := result.concerns():
        return f"not to be trusted as it is. {' '.join(concerns)}"
    found = result.summaries.values()
    rhat, ess = max(s.rhat for s in found), min(min(s.ess_bulk, s.ess_tail) for s in found)
    known = f"R-hat is at most {rounded(rhat, 0.01)}, the effective sample size at least {count(ess)}."
    return f"nothing speaks against it. {known}"


def _largest(comparison: Any) -> str:
    """Return a sentence on how far apart the engines are at most."""
    found = [(abs(d.estimate.value), d, pair.title) for pair in comparison.pairs for d in pair.differences]
    size, difference, pair = max(found, key=lambda item: item[0])
    mean, *_ = max((item for item in found if item[1].statistic == "mean"), key=lambda item: item[0])
    return (
        f"Posterior means differ by at most {mean:.2f} posterior sds, any statistic by {size:.2f} "
        f"({difference}, {pair})."
    )


def _figures(
    results: Mapping[str, ssmscan.Result], comparison: Any, filtered: Any, returns: Any, days: Any
) -> dict[str, Any]:
    """Draw each figure into its own Axes, by file name."""
    over_data = {"times": days, "observed": returns, "observed_on_the_right": True}
    return {
        "states": _two_states(results["nuts"], results["importance"], over_data),
        "filtered": plots.states(filtered, "h", **over_data),
        "ess": plots.ess(filtered),
        "agreement": plots.agreement(comparison),
        **{f"posterior-{name}": plots.posterior(results, name) for name in results["nuts"].draws},
    }


def _two_states(first: ssmscan.Result, second: ssmscan.Result, over_data: Mapping[str, Any]) -> Any:
    """Draw the smoothed log variance by two engines, the second as lines, with a legend that names the engines."""
    ax = plots.states(first, "h", **over_data)
    plots.states(second, "h", times=over_data["times"], ax=ax)
    medians = [line for line in ax.lines if line.get_gid() == "smoothed"]
    names = [f"{first.engine}: median, 50 and 90 %", f"{second.engine}: median and 90 %"]
    ax.legend(medians, names, frameon=False, fontsize="small", ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    ax.set_ylabel("log variance h, given all data")
    return ax

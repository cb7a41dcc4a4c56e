"""Every figure from small real results: ``python -m tests.results.figures FOLDER`` saves them to be looked at.

Each is drawn at the width of a column of a journal, 3.3 inches with letters of 8 points, and of a page, 7 inches with
9 points; each is saved in colour and as a printer without colour has it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.handlers import condition
from PIL import Image

import ssmscan
from ssmscan import datasets, plots

SIZES = {"column": (3.3, 8.0), "page": (7.0, 9.0)}
"""Width in inches and letters in points."""

Draw = Callable[[Any], Any]
THETA = {"sd": 38.0, "noise": 123.0}


def local_level(flow, future=0, scale=150.0):
    sd, noise = (numpyro.sample(name, dist.HalfNormal(scale)) for name in ("sd", "noise"))

    def transition(level, _):
        level = numpyro.sample("level", dist.Normal(level, sd))
        numpyro.sample("flow", dist.Normal(level, noise))
        return level, level

    with condition(data={"flow": flow}):
        scan(transition, 1100.0, None, length=len(flow) + future)


def regimes(growth):
    stay = numpyro.sample("stay", dist.Beta(18.0, 2.0))
    mean = numpyro.sample("mean", dist.Normal(jnp.array([-1.0, 0.5, 2.0]), 0.3).to_event(1))
    move = jnp.where(jnp.eye(3, dtype=bool), stay, (1.0 - stay) / 2.0)

    def transition(regime, y):
        regime = numpyro.sample("regime", dist.Categorical(move[regime]))
        numpyro.sample("growth", dist.Normal(mean[regime], 0.7), obs=y)
        return regime, None

    scan(transition, 1, growth)


def results() -> SimpleNamespace:
    """Run the engines: a local level on the first 80 years of the Nile, and regimes of made-up growth."""
    found, keys = SimpleNamespace(), iter(jax.random.split(jax.random.key(0), 20))
    nile = datasets.nile()
    found.years, found.flow, seen = nile.time.astype("datetime64[Y]"), nile.values, 80
    ssm = ssmscan.trace(local_level, nile.values[:seen]).with_labels(time=found.years[:seen])
    importance = ssmscan.ImportanceSampler(
        num_points=20_000, estimator=ssmscan.ExactLikelihood(), num_paths=200, progress=False
    )
    found.nuts = ssmscan.NUTS(num_warmup=300, num_samples=4000, num_paths=200, progress=False).run(next(keys), ssm)
    found.short = ssmscan.NUTS(num_warmup=300, num_samples=40, progress=False).run(next(keys), ssm)
    found.importance = importance.run(next(keys), ssm)
    found.compared = ssmscan.compare(NUTS=found.nuts, importance=found.importance, short=found.short)
    # another prior is another posterior
    other = ssmscan.trace(partial(local_level, scale=40.0), nile.values[:seen])
    found.other = importance.run(next(keys), other)
    found.disagree = ssmscan.compare(NUTS=found.nuts, importance=found.importance, other=found.other)
    longer = ssmscan.trace(local_level, nile.values[:seen], future=len(nile.values) - seen)
    longer = longer.with_labels(time=found.years)
    found.predicted = ssmscan.predict(next(keys), longer, found.nuts)

    pit = (ssmscan.Mean(), ssmscan.SD(), ssmscan.PIT())
    found.filtered = ssmscan.ParticleFilter(200, store=ssmscan.FullHistory(), summaries=pit).run(next(keys), ssm, THETA)
    found.few = ssmscan.ParticleFilter(40, store=ssmscan.Ancestry()).run(next(keys), ssm, THETA)
    found.starved = ssmscan.ParticleFilter(200, summaries=pit).run(next(keys), ssm, {"sd": 60.0, "noise": 8.0})
    found.wide = ssmscan.ParticleFilter(200, summaries=pit).run(next(keys), ssm, {"sd": 90.0, "noise": 250.0})
    many = jax.jit(jax.vmap(lambda key, theta: ssmscan.ParticleFilter(200).run(key, ssm, theta), (0, None)))
    sds = {f"sd {sd:g}": THETA | {"sd": sd} for sd in (38.0, 5.0, 150.0)}
    found.runs = {name: many(jax.random.split(next(keys), 20), theta) for name, theta in sds.items()}
    smc2 = ssmscan.SMC2(num_points=60, num_particles=30, num_runs=4, progress=False)
    found.running = ssmscan.SMC2.running(smc2.run(next(keys), ssm))

    truth = np.repeat([1, 2, 0, 1, 0, 2], 20)
    growth = np.array([-1.0, 0.5, 2.0])[truth] + 0.7 * np.random.default_rng(0).standard_normal(len(truth))
    quarters = np.datetime64("1990-01") + 3 * np.arange(len(truth))
    ssm = ssmscan.trace(regimes, growth).with_labels(time=quarters)
    found.regimes = ssmscan.NUTS(num_warmup=200, num_samples=200, num_chains=2, progress=False).run(next(keys), ssm)
    probabilities = ssmscan.ParticleFilter(1000, summaries=(ssmscan.Probabilities(3),))
    found.regimes_filtered = probabilities.run(next(keys), ssm, found.regimes.mean())
    found.regimes_at = ssmscan.Smoother(num_paths=200).run(next(keys), ssm, found.regimes.mean())
    return found


def figures(found: SimpleNamespace) -> dict[str, Draw]:
    """Return each figure by name, as a function of the Axes to draw into."""
    seen = found.years[: len(found.filtered.ess)]
    observed = found.flow[: len(seen)]
    both = {"NUTS": found.nuts, "importance": found.importance}
    pits = {"sd 38": found.filtered.summaries["pit"]["flow"], "sd 90": found.wide.summaries["pit"]["flow"]}
    return {
        "smoothed": lambda ax: plots.states(found.nuts, "level", observed=observed, ax=ax),
        "two engines": lambda ax: plots.states(found.importance, "level", ax=plots.states(found.nuts, "level", ax=ax)),
        "filtered": lambda ax: plots.states(
            found.filtered, "level", observed=observed, observed_on_the_right=True, ax=ax
        ),
        "forecast of data": lambda ax: plots.forecast(found.predicted, "flow", observed=found.flow, ax=ax),
        "forecast of a state": lambda ax: plots.forecast(found.predicted, "level", history=30, ax=ax),
        "ess": lambda ax: plots.ess(found.filtered, ax=ax),
        "ess, starved": lambda ax: plots.ess(found.starved, ax=ax),
        "evidence": lambda ax: plots.evidence(found.running, times=seen, ax=ax),
        "evidence of models": lambda ax: plots.evidence(found.runs, ax=ax),
        "genealogy": lambda ax: plots.genealogy(found.filtered, "level", ax=ax),
        "genealogy, few": lambda ax: plots.genealogy(found.few, "level", ax=ax),
        "pit": lambda ax: plots.pit(pits, ax=ax),
        "agreement": lambda ax: plots.agreement(found.compared, ax=ax),
        "agreement, another prior": lambda ax: plots.agreement(found.disagree, ax=ax),
        "posterior": lambda ax: plots.posterior(both | {"other prior": found.other}, "sd", ax=ax),
        "regimes": lambda ax: plots.states(found.regimes, "regime", ax=ax),
        "regimes, filtered": lambda ax: plots.states(found.regimes_filtered, "regime", ax=ax),
        "regimes, two engines": lambda ax: plots.states(
            found.regimes_at, "regime", ax=plots.states(found.regimes, "regime", ax=ax)
        ),
    }


def save(found: SimpleNamespace, folder: Path) -> None:
    """Draw and save every figure at both sizes, in colour and in grey."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in figures(found).items():
        for size, (width, points) in SIZES.items():
            with plt.rc_context({"font.size": points}):
                height = 4.2 if name.startswith("agreement") else 2.3
                _, ax = plt.subplots(figsize=(width, height), layout="constrained")
                draw(ax)
                path = folder / f"{name}, {size}.png"
                ax.figure.savefig(path, dpi=150)
                plt.close(ax.figure)
            Image.open(path).convert("L").save(folder / f"{name}, {size}, grey.png")


if __name__ == "__main__":
    save(results(), Path(sys.argv[1]))

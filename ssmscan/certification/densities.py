"""The parts against NumPyro: every factor of the density at a few draws, and the evidence against forward runs.

Both are those of `ssm.check`: here nothing is raised, sites that differ are named, and the threshold is that of the
whole certificate.  Densities are compared up to rounding, so that a single draw decides; evidence up to chance.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from ssmscan.model.statespace.checking import Check, compare_factors, compare_forward_runs
from ssmscan.model.statespace.forward_runs import MOST
from ssmscan.model.statespace.front import StateSpaceModel

FACTORS = {
    "sites": "the density of the sites",
    "prior": "log_prior",
    "transformed": "log_prior_unconstrained, which has a Jacobian",
    "law": "log_law_unconstrained",
    "reweighted": "log_law_unconstrained with what masks and scales add",
    "values": "evaluate and evaluate_start, which Gibbs and backward sampling use",
    "weights": "init and step, which weigh particles",
    "elements": "elements_at, which weighs the elements of a panel",
    "noise": "log_likelihood_given_noise, which gradient engines use",
}


class Densities(NamedTuple):
    """The worst of some draws.

    Attributes:
        share: the largest difference, as a share of what rounding explains.
        tolerance: the difference that rounding explains, in nats, at the draw where it is least.
        compared: how many numbers were.
        sites: names of the sites that differ.
        factors: names of the factors that differ.
    """

    share: float
    tolerance: float
    compared: int
    sites: tuple[str, ...]
    factors: tuple[str, ...]


def compare_densities(keys: list[jax.Array], models: list[StateSpaceModel]) -> Densities:
    """Compare all factors, and all sites, at a draw of each of some models.

    Raises:
        ModelError: NumPyro has no density of the model.
    """
    checks: list[Check] = []
    for key, ssm in zip(keys, models):
        assert ssm.source is not None
        checks.append(compare_factors(key, ssm, ssm.source))
    share, compared = 0.0, 0
    sites: set[str] = set()
    factors: set[str] = set()
    for check in checks:
        for table, wrong in ((check.sites, sites), (check.factors, factors)):
            for name, (parts, original) in table.items():
                compared += 1
                off = 0.0 if parts == original else abs(parts - original) / check.tolerance
                off = off if np.isfinite(off) else np.inf
                share = max(share, off)
                if off > 1.0:
                    wrong.add(name)
    return Densities(share, min(c.tolerance for c in checks), compared, tuple(sorted(sites)), tuple(sorted(factors)))


class Runs(NamedTuple):
    """The evidence by the parts and by forward runs: difference in standard errors, and what would have been seen."""

    z: float
    power: float
    visible: float
    effective: float
    num_runs: int


def compare_runs(key: jax.Array, ssm: StateSpaceModel, num_runs: int, threshold: float, quantile: float) -> Runs:
    """Compare the evidence with that of forward runs of NumPyro.

    Raises:
        ModelError: NumPyro cannot run the model forward.
    """
    assert ssm.source is not None
    found = compare_forward_runs(key, ssm, ssm.source, num_runs)
    return Runs(found.z, found.power, found.visible * (threshold + quantile) / MOST, found.effective, num_runs)

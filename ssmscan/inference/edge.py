"""Whether the draws of a parameter pile up at a bound of its support.

Let s be the distance from the bound within which 95 % of the draws lie.  Of a density that is level at the bound, s/20
holds 5 % of the draws; of one that has its top there and no slope, half of a normal law, 8 %; of one that falls away
from the bound, as an exponential law does, 14 %.  Above 11 % the data pull the parameter beyond the bound, and the
bound holds it: a prior that is too narrow, an effect or a noise that is not there, or a parameter that the data do not
know.  With 400 effective draws the share has a standard error of 1.7 %.

The draws are right all the same, so it is advice.  Families that may have such a peak at a bound by themselves say
nothing about the data, and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ssmscan.health import Condition, Reason, Section
from ssmscan.model.sites import Site
from ssmscan.results.table import significant

PILED = 0.11
"""Share of the draws in the nearest twentieth, above which they pile up."""

ENOUGH = 400
"""Fewer draws do not show it."""

PEAKED = ("Beta", "BetaProportion", "Chi2", "Exponential", "Gamma", "HalfCauchy", "Kumaraswamy", "Pareto", "Weibull")
"""Families that may have their own peak at a bound."""

_BOUND = r"{}_bound=(-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)[,)]"


def edge_advice(sites: Sequence[Site], draws: Mapping[str, np.ndarray]) -> tuple[Reason, ...]:
    """Return which parameters pile up at a bound.

    Args:
        sites: the parameters of the model.
        draws: by name, (chains, draws, *shape).
    """
    found = []
    for site in sites:
        if site.discrete or site.family in PEAKED or site.name not in draws:
            continue
        x = np.asarray(draws[site.name], float)
        number = x.shape[0] * x.shape[1]
        for side in ("lower", "upper"):
            if (bound := re.search(_BOUND.format(side), site.support)) and number >= ENOUGH:
                distance = np.abs(x.reshape(number, -1) - float(bound[1]))
                shares = np.mean(distance < np.quantile(distance, 0.95, axis=0) / 20, axis=0)
                if len(shares) and shares.max() > PILED:
                    found.append(_reason(site, side, bound[1], shares))
    return tuple(found)


def _reason(site: Site, side: str, bound: str, shares: np.ndarray) -> Reason:
    worst = int(np.argmax(shares))
    index = np.unravel_index(worst, site.shape) if site.shape else ()
    label = f"{site.name}[{','.join(map(str, index))}]" if site.shape else site.name
    return Reason(
        f"The draws of {label} pile up at its {side} bound {bound}: {significant(100 * float(shares[worst]))} % of "
        "them are in the nearest twentieth, and a density that is level there has 5 %.",
        "If the bound is no fact, give a wider prior; if it is one, the model may not need the parameter: compare the "
        "log_evidence of both, and report quantiles.",
        Section.EDGE,
        Condition.SOUND,
    )

r"""What the user's function proposes: one NumPyro distribution for each site, checked while the filter is traced.

A proposal must be able to draw whatever the model can, or part of the integral is missing and the estimate of the
likelihood is too low without a sign of it.  Supports are compared as far as NumPyro and the table of sites know them:
intervals of the line and of the integers by their bounds where these are numbers, other sets by their names.  A
support that is larger than the model's is fine: what the model cannot draw has weight zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpyro.distributions as dist
from numpyro.distributions import Distribution

from ssmscan.arguments import refusal, require_names
from ssmscan.model.noise.families import WRAPPERS
from ssmscan.model.sites import Site

Laws = dict[str, Distribution]

_LINE = {"Real", "RealVector", "RealMatrix"}
_BOUNDED_BELOW = {"Positive", "Nonnegative", "GreaterThan", "GreaterThanEq", "SoftplusPositive"}
_BOUNDED_ABOVE = {"LessThan", "LessThanEq"}
_INTERVALS = {"Interval", "OpenInterval", "UnitInterval", "Circular"}
_INTEGERS_BELOW = {"IntegerNonnegative", "IntegerPositive", "IntegerGreaterThan"}
_INTEGER_INTERVALS = {"IntegerInterval", "Boolean"}
_SOLID = {"OrderedVector", "PositiveOrderedVector", "L1Ball"}


class Support(NamedTuple):
    """A set of values.

    Attributes:
        kind: "numbers", "integers", or the name of a set of another kind.
        low, high: its bounds, NaN where one is finite and not known.
    """

    kind: str
    low: float
    high: float

    def __str__(self) -> str:
        if self.kind not in ("numbers", "integers"):
            return f"'{self.kind}'"
        if (self.low, self.high) == (-math.inf, math.inf):
            return "the real line"
        low, high = ("?" if math.isnan(bound) else f"{bound:g}" for bound in (self.low, self.high))
        return f"{self.kind} from {low} to {high}"

    def lacks(self, other: Support) -> bool:
        """Return whether the other set certainly has values that this one lacks."""

        def short(own: float, wanted: float) -> bool:
            return own < wanted or (math.isnan(own) and wanted == math.inf)

        return self.kind != other.kind or short(self.high, other.high) or short(-self.low, -other.low)


def support_of(printed: str) -> Support:
    """Read a constraint as NumPyro prints it."""
    name = re.sub(r"^IndependentConstraint\((.*), \d+\)$", r"\1", printed)
    kind = name.split("(")[0]
    if kind in _LINE:
        return Support("numbers", -math.inf, math.inf)
    if kind == "Boolean":
        return Support("integers", 0, 1)
    low, high = (_bound(name, which) for which in ("lower", "upper"))
    if kind in _BOUNDED_BELOW | _INTEGERS_BELOW:
        return Support("numbers" if kind in _BOUNDED_BELOW else "integers", low, math.inf)
    if kind in _BOUNDED_ABOVE:
        return Support("numbers", -math.inf, high)
    if kind in _INTERVALS | _INTEGER_INTERVALS:
        return Support("numbers" if kind in _INTERVALS else "integers", low, high)
    return Support("numbers" if kind in _SOLID else kind.removesuffix("()"), math.nan, math.nan)


def _bound(printed: str, which: str) -> float:
    found = re.search(rf"{which}_bound=([-+.\deE]+|-?inf)(?=[,)])", printed)
    return float(found[1]) if found else math.nan


def checked_laws(argument: str, found: Any, sites: Sequence[Site]) -> Laws:
    """Return what a function proposed, by site, each law as the site needs it.

    Args:
        argument: the name of the function.
        found: what it returned: a dict of distributions by site, or one distribution where there is one site.
        sites: what is to be drawn.

    Raises:
        TypeError: it is neither, or holds what is not a distribution.
        ValueError: a site is missing or unknown, a distribution has another shape, has no density that could be
            divided by, or cannot draw what the model can.
    """
    names = [site.name for site in sites]
    if isinstance(found, Distribution) and len(sites) == 1:
        found = {names[0]: found}
    if not isinstance(found, Mapping):
        one = "one NumPyro distribution, or a" if len(sites) == 1 else "a"
        raise TypeError(refusal(argument, f"{one} dict with a distribution for each of the sites {names}", found))
    require_names(argument, found, names, "sites", advice="Give a NumPyro distribution for each of these sites.")
    return {site.name: _checked_law(f"{argument}['{site.name}']", found[site.name], site) for site in sites}


def _checked_law(argument: str, law: Any, site: Site) -> Distribution:
    if isinstance(law, type) or not isinstance(law, Distribution):
        raise TypeError(refusal(argument, "a NumPyro distribution, such as dist.Normal(0.0, 1.0)", law))
    shape = tuple(law.batch_shape) + tuple(law.event_shape)
    if shape != tuple(site.shape) and not shape and math.prod(site.shape) == 1:
        law, shape = law.expand(site.shape), tuple(site.shape)  # one number, such as that of one element of a panel
    if shape != tuple(site.shape):
        raise ValueError(
            f"{argument}: expected a distribution of values of shape {tuple(site.shape)}, as site '{site.name}' has at "
            f"one step of one particle, got {type(law).__name__} of shape {shape}. Give it parameters of that shape, "
            "or use .expand."
        )
    inner = law
    while isinstance(inner, WRAPPERS):
        if isinstance(inner, dist.MaskedDistribution):
            raise ValueError(
                f"{argument}: expected a distribution with the density of what it draws, got one that is masked. Give "
                "the distribution without the mask."
            )
        inner = inner.base_dist
    if isinstance(inner, dist.Delta | dist.ImproperUniform | dist.Unit):
        raise ValueError(
            f"{argument}: expected a distribution with a density, got {type(inner).__name__}, which has none. Give one "
            "that draws from all of the support."
        )
    if law.is_discrete != site.discrete:
        wanted, got = ("discrete", "continuous") if site.discrete else ("continuous", "discrete")
        raise ValueError(
            f"{argument}: expected a {wanted} distribution, as that of site '{site.name}' ({site.family}), got "
            f"{type(law).__name__}, which is {got}."
        )
    own, wanted = support_of(str(law.support)), support_of(site.support)
    if own.lacks(wanted):
        raise ValueError(
            f"{argument}: {type(law).__name__} draws from {own}, and site '{site.name}' ({site.family}) has the "
            f"support {wanted}: what lies outside could never be drawn, and the likelihood would be too low. Give a "
            "distribution that draws from all of the support."
        )
    return law

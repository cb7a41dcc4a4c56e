r"""Whether a loop is linear and Gaussian, proved from what was staged of it.

With carry c and base noise e of all sites, one particle moves by c' = f(c, e) and is weighed by l(c, e).  Where f is
affine and l quadratic in (c, e) *together*, carries, noise and data are jointly normal given the parameters: one pass
of the Gaussian approximation is the Kalman filter and smoother, and its likelihood is exact.

The proof follows degrees (`jaxprs.degree`) through the start and the step.  A leaf of the carry has at the start the
degree in its noise that the start gives it, and then the largest that a step gives it: with three values a fixpoint
is there after a few rounds.  What no noise reaches (a clock, lagged data) has degree 0, and a leaf that is no affine
function counts where a density reads it.  It is a fact of the program, whatever data and parameters are, and computed
where somebody asks.

What is almost linear is not: no value is looked at.  What is linear only because a number is zero, or a branch is
never taken, is not called so either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from ssmscan.model.jaxprs.degree import AFFINE, CONSTANT, MORE, Degree, degree_leaves, degrees_staged, fixpoint, largest
from ssmscan.model.noise.families import MapKind
from ssmscan.model.sites import Role
from ssmscan.model.statespace.loop_functions import LoopFunctions


class Exactness(NamedTuple):
    """Whether a loop is linear and Gaussian.

    Attributes:
        exact: whether it is.
        why: a clause that says what is not, empty if it is.
    """

    exact: bool
    why: str = ""


LINEAR_GAUSSIAN = Exactness(True)


@lru_cache(maxsize=256)
def exactness(loop: LoopFunctions) -> Exactness:
    """Decide whether a loop is linear and Gaussian in its states at given parameters."""
    if refusal := loop.post_loop.refusal():
        return Exactness(False, refusal.partition(". ")[0])
    traced = {site.name: site for site in (*loop.plan.outside, *loop.plan.inside)}
    for name in (*loop.initial, *loop.names(Role.INNOVATION)):
        site = traced[name]
        if site.particle != site.smooth or site.particle is None or site.particle.kind is not MapKind.EXACT:
            return Exactness(False, f"'{name}' ({site.family}) is not normal")
    return _Follow(loop).exactness()


class _Follow:
    """Degrees of the carry, the values and the densities of a loop in the noise."""

    def __init__(self, loop: LoopFunctions):
        self.loop = loop
        noise = loop.particles.start.argument("noise")
        self.start = degrees_staged(loop.particles.start, noise=dict.fromkeys(noise, AFFINE))
        begun = [_of_leaf(degree) for degree in degree_leaves(self.start["carry"])]
        self.step = self._step(fixpoint(lambda carry: degree_leaves(self._step(carry)["carry"]), begun))

    def _step(self, carry: list[Degree]) -> dict:
        """Follow one step; degrees of the leaves of a carry are those of its inputs afterwards."""
        noise = self.loop.particles.step.argument("noise")
        found = degrees_staged(self.loop.particles.step, carry=carry, noise=dict.fromkeys(noise, AFFINE))
        return {**found, "carry": [_of_leaf(degree) for degree in degree_leaves(found["carry"])]}

    def exactness(self) -> Exactness:
        """Look at the densities: of the start, of the steps, and of what is observed of both after the loop."""
        loop = self.loop
        observed = self.start["log_observation"]
        rows = loop.densities.start_rows
        outside = {**dict.fromkeys(rows.argument("outside"), CONSTANT), **self.start["values"]}
        after = degrees_staged(loop.post_loop.step, y=self.step["y"])["log_prob"]
        blamed = (
            self._blame({name: observed[name] for name in loop.names(Role.START_OBSERVATION)})
            or self._blame(degrees_staged(rows, outside=outside)["log_prob"])
            or self._blame(self._by_site() if self.step["log_weight"].order >= MORE else {})
            or self._blame(after)
            or self._blame({"": largest([self.start["log_excess"], self.step["log_weight"]])})
        )
        return blamed or LINEAR_GAUSSIAN

    def _by_site(self) -> dict[str, Degree]:
        """Follow the log-densities of the observations of a step, one by one."""
        evaluate = self.loop.evaluate.select("log_observation")
        values = {name: self.step["values"][name] for name in evaluate.argument("values")}
        return degrees_staged(evaluate, carry=self.step["carry"], values=values)["log_observation"]

    def _blame(self, densities: Mapping[str, Degree]) -> Exactness | None:
        """Blame the first density that is not quadratic, None where all are."""
        families = {site.name: site.family for site in self.loop.sites}
        for name, degree in densities.items():
            if degree.order >= MORE:
                what = (
                    f"the log-density of '{name}' ({families[name]})" if name else "the scaled log-density of a state"
                )
                why = next((f"'{n}' ({families[n]}) is not normal" for n in self._bent(degree)), f"of {degree.origin}")
                return Exactness(False, f"{what} is not quadratic in the noise, because {why}")
        return None

    def _bent(self, degree: Degree) -> Iterator[str]:
        """Yield the sites that are no affine function of their own noise, and to blame for a degree."""
        for staged in (self.loop.particles.start, self.loop.particles.step):
            for name in (noise := staged.argument("noise")):
                alone = {other: AFFINE if other == name else CONSTANT for other in noise}
                value = degrees_staged(staged, noise=alone)["values"][name]
                if value.blamed and value.blamed[0] is degree.blamed[0]:
                    yield name


def _of_leaf(degree: Degree) -> Degree:
    """Return the degree that a leaf of the carry has as an input: affine, or no polynomial that products may extend."""
    return degree._replace(order=MORE) if degree.order > AFFINE.order else degree

"""Noise of a loop by site, and of each element of a panel: from one to the other."""

from __future__ import annotations

from collections.abc import Mapping

from ssmscan.model.gaussian.vectors import Coordinates
from ssmscan.model.protocols import Model, Values
from ssmscan.model.statespace.element_dynamics import join
from ssmscan.particles.panels import split


def split_noise(noise: Values, ssm: Model) -> Values:
    """Return the noise of each element, elements in front; of a loop that is no panel, what it is."""
    if ssm.panel is None:
        return noise
    initial = {site.name for site in ssm.initial}
    places = dict(ssm.panel.noise)
    backs = {name: places[name] - (x.ndim - (name not in initial)) for name, x in noise.items()}
    return {name: split(x, backs[name], ssm.panel.size) for name, x in noise.items()}


def joined_noise(noise: Values, ssm: Model, coordinates: Coordinates) -> Values:
    """Undo `split_noise`; the coordinates are of one element."""
    if ssm.panel is None:
        return noise
    backs = _backs(ssm, dict(coordinates.initial + coordinates.step))
    return {name: join(x, backs[name]) for name, x in noise.items()}


def _backs(ssm: Model, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return where the elements are in the noise of each site, from the end."""
    assert ssm.panel is not None
    places = dict(ssm.panel.noise)
    return {name: places[name] - len(shape) for name, shape in shapes.items()}

"""The staged functions of one element of a panel; made by `element_proof`."""

from __future__ import annotations

from typing import NamedTuple

from ssmscan.model.jaxprs.dataflow import Staged
from ssmscan.model.protocols import NoiseSpec, Panel


class ElementsInteract(Exception):
    """Elements interact; the message is a clause that says how."""


class OneElement(NamedTuple):
    """What moves and weighs one particle of one element under some maps.

    Attributes:
        start: theta, m, noise -> carry, log_weight, log_rough, values.
        step: theta, m, carry, x, noise -> carry, log_weight, log_rough, values, cdf.
        noise: base noise of one element, by innovation and initial site.
        held: by site whose noise is held at zero, why.
    """

    start: Staged
    step: Staged
    noise: dict[str, NoiseSpec]
    held: dict[str, str]


class ElementFunctions(NamedTuple):
    """Staged functions of one element, number m; its arrays keep the axis at size one.

    Attributes:
        panel: where the elements are.
        particles: one element under the maps for particles.
        guided, surrogate: the same under others, see `one_particle`; equal choices are one object.
        moved: names of the sites with a smooth map that is used in `guided`.
        evaluate_start: theta, m, values -> carry, log_initial, log_observation, log_excess.
        evaluate: theta, m, carry, x, values -> carry, log_transition, log_observation, deterministic, log_excess.
        invertible: names of the sites whose values tell their noise, element by element.
        start_noise_of, noise_of: theta, m, [carry, x,] values -> their noise by site.
        cdf: theta, m, carry, x, values -> cdf.
        observed: m, x -> observed, by site, at the step after the loop too.
    """

    panel: Panel
    particles: OneElement
    guided: OneElement
    surrogate: OneElement
    moved: tuple[str, ...]
    evaluate_start: Staged
    evaluate: Staged
    invertible: tuple[str, ...]
    start_noise_of: Staged
    noise_of: Staged
    cdf: Staged
    observed: Staged

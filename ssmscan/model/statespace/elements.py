r"""Panels: elements of a plate, or of any axis, that have nothing to do with each other.

Where no particle of one element acts on another,

.. math::  p(y_{1:T} | \theta) = \prod_m p(y^m_{1:T} | \theta),

so each element can have a filter of its own, and the variances of the log estimates add instead of
the dimensions.  A joint filter of 64 series keeps one particle of a thousand.

The proof is by following the axis of the elements, of size M, through the staged start and step
(`jaxprs.axes`): every innovation and initial site has it, each leaf of the carry has it or depends on no
noise, the same after a step as before (a fixpoint over the leaves), and every log-density is a sum
over it.  The interpreter that proves it also evaluates one element, at the cost of one.
"""

from __future__ import annotations

from ssmscan.model.noise.families import MapKind
from ssmscan.model.staging.user_model import UserModel
from ssmscan.model.statespace.element_functions import ElementFunctions, ElementsInteract
from ssmscan.model.statespace.element_proof import Proof, latent_noise
from ssmscan.model.statespace.loop_functions import LoopFunctions


def find_elements(user_model: UserModel, loop: LoopFunctions) -> ElementFunctions | str:
    """Prove that elements do not interact.

    Returns:
        The staged functions of one element; or why the elements are filtered jointly, empty if there are none.
    """
    specs = latent_noise(loop, loop.particles)
    # A key has no axes; what is drawn with it has.
    innovations = {
        name: set(site.shape if specs[name].is_key else specs[name].shape) - {0, 1}
        for name, site in user_model.innovations.items()
    }
    if not any(innovations.values()) or loop.post_loop.mixing:
        return ""
    sizes = set.intersection(*innovations.values())
    if not sizes:
        return f"filtered jointly: '{min(innovations, key=lambda n: len(innovations[n]))}' is common to all elements"
    why = ""
    for size in sorted(sizes, reverse=True):
        for last in (True, False):
            try:
                return _elements(user_model, loop, size, last=last)
            except ElementsInteract as reason:
                why = why or f"filtered jointly: {reason}"
    return why


def _elements(user_model: UserModel, loop: LoopFunctions, size: int, *, last: bool) -> ElementFunctions:
    """Prove that elements do not interact under the maps for particles, and stage one element under all maps."""
    proof = Proof(user_model, loop, loop.one_particle(loop.particles), size, last=last)
    for name in latent_noise(loop, loop.particles):
        site = user_model.innovations.get(name) or user_model.outside[name]
        if site.particle is not None and site.particle.kind is MapKind.REJECTION:
            raise ElementsInteract(f"'{name}' is drawn by rejection, for all elements at once")
    particles = guided = proof.one_element()
    moved = loop.moved
    if loop.guided is not loop.particles:
        try:
            guided = Proof(user_model, loop, loop.one_particle(loop.guided), size, last=last).one_element()
        except ElementsInteract:
            moved = tuple(n for n in moved if loop.guided.specs[n] == loop.particles.specs[n])
    surrogate = guided._replace(held=loop.surrogate.held) if loop.surrogate.held else guided
    if loop.surrogate.maps is not loop.guided:
        try:
            surrogate = Proof(user_model, loop, loop.surrogate, size, last=last).one_element()
        except ElementsInteract as reason:
            surrogate = guided._replace(held=dict.fromkeys(set(loop.guided.specs) - set(moved), str(reason)))
    return proof.elements(particles, guided, surrogate, moved)

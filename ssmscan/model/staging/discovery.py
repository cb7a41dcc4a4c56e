"""Meet the model once, abstractly: which sites and loops it has, and their shapes.

The run happens under `jax.eval_shape`: no number is computed, data are abstract, and whatever the
model asks of a concrete value (`np.asarray(regime)`, a shape) shows here and is made static by the
caller.  NumPyro's own scan runs too, for the shape of its outputs and so that a model which NumPyro
refuses is refused with NumPyro's reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro import distributions as dist

from ssmscan.errors import ModelError
from ssmscan.model.handlers.messages import SiteMessage, is_masked, simulated
from ssmscan.model.handlers.missing import Gaps, only_whole
from ssmscan.model.handlers.names import SiteNames
from ssmscan.model.handlers.params import Constants
from ssmscan.model.handlers.running import run_model, run_step
from ssmscan.model.handlers.scans import Loop, SeveralLoops, Simulated
from ssmscan.model.handlers.stand_ins import placeholder
from ssmscan.model.handlers.substitutions import Handled
from ssmscan.model.noise.families import NoiseMap, particle_map
from ssmscan.model.noise.in_place import InPlace, gradient_map
from ssmscan.model.noise.moments import StandIn, stand_in
from ssmscan.model.noise.samplers import has_sampler
from ssmscan.model.noise.support import finite_support

PyTree = Any
Shape = jax.ShapeDtypeStruct


class NoLoop(ModelError):
    """The model has no loop that NumPyro sees."""


class TracedSite(NamedTuple):
    """Static facts of one site.

    Attributes:
        name: clean, unique name.
        family: name of the distribution class under its wrappers, empty for a deterministic.
        shape: shape of one value.
        dtype: dtype of the value.
        support: the constraint, printed.
        discrete: whether the values are discrete.
        latent, observed: whether the site is drawn, and whether its value is given.
        loop: loops met before the site, for sites outside loops.
        particle: noise map for particles, None unless latent.
        smooth: what gradient engines move, noise or the value itself; None where there is nothing.
        has_cdf: whether the family has a distribution function.
        scaled: whether a handler scales its log-probability.
        gaps: whether elements of the observed value are missing; of a latent site, whether it holds those.
        joint: number of trailing axes that can only be missing together.
        simulated: whether it stands in a later loop that is only simulated.
        values: for a drawn discrete site, the values of one element; empty where they are not known at trace.
        plates: name and size of the plates it stands in, and the axis of the value, counted from its end.
        masked: whether a mask may leave elements of a draw out of the density.
        masked_data: the same of elements of an observed value.
        reweighted: whether it counts, as a parameter, otherwise than by the law that it is drawn from.
        drawable: whether its distribution has a sampler.
        stand_in: what stands for it in the Gaussian approximation where no map from noise is smooth, or why it is held
            at one value there; else None.
    """

    name: str
    family: str
    shape: tuple[int, ...]
    dtype: Any
    support: str
    discrete: bool
    latent: bool
    observed: bool
    loop: int
    particle: NoiseMap | None
    smooth: NoiseMap | InPlace | None
    has_cdf: bool
    scaled: bool = False
    gaps: bool = False
    joint: int = 0
    simulated: bool = False
    values: tuple[float, ...] = ()
    plates: tuple[tuple[str, int, int], ...] = ()
    masked: bool = False
    reweighted: bool = False
    drawable: bool = True
    stand_in: StandIn | None = None
    masked_data: bool = False

    @property
    def num_values(self) -> int:
        """Number of values of one element, zero where they are not known."""
        return len(self.values)


class Plan(NamedTuple):
    """What the model consists of.

    Attributes:
        main: index of the loop that engines step through.
        length: its number of steps T.
        outside: sites outside loops (and those of noise-free loops), in order.
        inside: sites of the main loop, in order of appearance.
        carry: shapes of the carry, strongly typed.
        x: shapes of the user's input at one step.
        ys: shapes of the stacked outputs.
        horizons: indices of the other loops with noise, which are simulated here: later ones without data, or those
            that are parts of their own.
        keyed: whether the model asks for keys with `numpyro.prng_key()`.
        drawn_after: sites drawn after the loop from its states, which nothing observed depends on; simulated.
        noise_free: indices of the loops without noise before a loop with noise that observes nothing.
        taken: plain names of sites, where a name with a traced index would otherwise be one of them.
    """

    main: int
    length: int
    outside: tuple[TracedSite, ...]
    inside: tuple[TracedSite, ...]
    carry: PyTree
    x: PyTree
    ys: PyTree
    horizons: frozenset[int] = frozenset()
    keyed: bool = False
    drawn_after: frozenset[str] = frozenset()
    noise_free: tuple[int, ...] = ()
    taken: frozenset[str] = frozenset()


def discover(
    call: Callable[[list], Any],
    data: list,
    gaps: Gaps,
    main: int | None = None,
    drawn_after: frozenset[str] = frozenset(),
    taken: frozenset[str] = frozenset(),
) -> Plan:
    """Run the model abstractly and describe it.

    Args:
        call: the model as a function of its array arguments.
        data: shapes of the array arguments.
        gaps: which observed sites have missing elements.
        main: index of the loop to step through, in one part of a model of several loops; the other loops with noise
            count as simulated.
        drawn_after, taken: as in the plan.

    Raises:
        ModelError: no usable loop, or something inference cannot see; the message says what to do.
        SeveralLoops: data are observed in more than one loop with noise, and no loop was given.
    """
    loops: list[dict] = []
    found: list[TracedSite] = []

    def run(data):
        def at_loop(index: int, loop: Loop):
            try:
                ((_, _, last), (sites, ys)) = result = loop.default()
            except (jax.errors.UnexpectedTracerError, NotImplementedError):
                # A hidden site leaked from NumPyro's run, or has no sampler; a run of our own names it.
                _describe_loop(loop, None, Handled())
                raise
            loops.append(_describe_loop(loop, ys, handled))
            noisy = [loop for loop in loops if _drawn(loop)]
            if loops[-1] not in noisy:
                return result
            stepped = (len(noisy) == 1 or _observed(loops[-1])) if main is None else index == main
            return (last, ys) if stepped else Simulated(result)

        def model():
            with handled:
                return call(data)

        messages, _ = run_model(model, placeholder, at_loop, gaps=gaps, constants=constants, names=names)
        messages = simulated(messages, drawn_after)
        found.extend(_describe(message, outside=True) for message in messages)
        replays.extend(message.replayed for message in messages)
        return 0

    replays: list[int | None] = []
    constants, handled, names = Constants(), Handled(), SiteNames(taken)
    jax.eval_shape(run, data)
    if names.collide and not taken:
        return discover(call, data, gaps, main, drawn_after, frozenset(names.plain))
    handled.refuse_unmet()
    if not loops:
        raise NoLoop(_no_loop(found))
    noise_free = _noise_free(loops) if main is None else ()
    main, horizons = _choose_main(loops, main)
    outside = [site for site, replayed in zip(found, replays) if replayed != main]
    _check_names([*outside, *loops[main]["inside"]])
    facts = {k: loops[main][k] for k in FACTS}
    asks = constants.requests > 0
    return Plan(
        main,
        outside=tuple(outside),
        **facts,
        horizons=horizons,
        keyed=asks,
        drawn_after=drawn_after,
        noise_free=noise_free,
        taken=taken,
    )


FACTS = ("length", "inside", "carry", "x", "ys")


def _drawn(loop: dict) -> list[str]:
    """Return the noise of a loop, without the missing elements of what it observes: these are not a state."""
    return [site.name for site in loop["inside"] if site.latent and not site.gaps]


def _observed(loop: dict) -> list[str]:
    return [site.name for site in loop["inside"] if site.observed]


def _describe_loop(loop: Loop, ys: PyTree, handled: Handled) -> dict:
    carry = jax.tree.map(_shape_of, loop.init)
    x = jax.tree.map(lambda a: Shape(jnp.shape(a)[1:], jnp.result_type(a)), loop.xs)
    sites: list[TracedSite] = []

    def transition(carry, x):
        with handled:
            return loop.f(carry, x)

    def body(t, carry, x):
        step = loop._replace(f=transition)
        new, _, messages = run_step(step, t, carry, x, lambda _, name, fn: placeholder(name, fn))
        handled.around(loop, [message.written for message in messages if message.fn is not None and message.written])
        sites[:] = [_describe(message) for message in messages]
        return new

    # lax.scan gives weakly typed starts (Python numbers) the type that the step returns.
    for _ in range(4):
        new = jax.eval_shape(body, Shape((), jnp.int32), carry, x)
        settled = jax.tree.map(lambda a, b: Shape(b.shape, b.dtype), carry, new)
        if settled == carry:
            break
        carry = settled
    if any(site.latent for site in sites):
        _refuse_variants(loop)
    facts = {"length": loop.length, "inside": tuple(sites), "carry": carry, "x": x}
    return {**facts, "ys": jax.tree.map(_shape_of, ys)}


def _describe(message: SiteMessage, *, outside: bool = False) -> TracedSite:
    name, value = message.name, message.shape
    if message.fn is None:
        facts = ("", value.shape, value.dtype, "", False, False, False, message.loop, None, None, False)
        return TracedSite(name, *facts, simulated=message.simulated, plates=message.plates)
    fn, latent = message.fn, message.latent
    smooth = gradient_map(fn) if latent else None
    return TracedSite(
        name,
        family_of(fn),
        value.shape,
        value.dtype,
        str(fn.support).removesuffix("()"),
        bool(fn.is_discrete),
        latent,
        message.observed,
        message.loop,
        particle_map(fn) if latent else None,
        smooth,
        bool(message.observed and not outside and _has_cdf(fn, message.value)),
        scaled=message.scale is not None,
        gaps=message.present is not None,
        joint=only_whole(fn),
        values=finite_support(fn) if latent else (),
        plates=message.plates,
        masked=message.masked,
        reweighted=message.reweighted,
        drawable=not latent or isinstance(smooth, NoiseMap) or has_sampler(fn),
        stand_in=stand_in(fn, smooth) if latent else None,
        masked_data=message.observed and is_masked(fn),
    )


def _has_cdf(fn: dist.Distribution, value) -> bool:
    if fn.event_shape:
        return False
    try:
        jax.eval_shape(lambda v: fn.cdf(v), value)
    except (NotImplementedError, AttributeError, ImportError, TypeError):
        return False
    return True


def family_of(fn: dist.Distribution) -> str:
    """Return the name of the class of a distribution under its wrappers."""
    while isinstance(fn, dist.Independent | dist.MaskedDistribution | dist.ExpandedDistribution):
        fn = fn.base_dist
    return type(fn).__name__


def _shape_of(a) -> Shape:
    dtype = a.dtype if hasattr(a, "dtype") else jnp.result_type(a)
    return Shape(jnp.shape(a), dtype)


def _noise_free(loops: list[dict]) -> tuple[int, ...]:
    """Return the loops before all noise, where no loop with noise observes anything; see `program.stage_by_value`."""
    noisy = [i for i, loop in enumerate(loops) if _drawn(loop)]
    return () if any(_observed(loops[i]) for i in noisy) else tuple(range(noisy[0] if noisy else 0))


def _choose_main(loops: list[dict], main: int | None) -> tuple[int, frozenset[int]]:
    """Choose the loop that engines step through; the others with noise are simulated."""
    noisy = [i for i, loop in enumerate(loops) if _drawn(loop)]
    if main is not None:
        return main, frozenset(noisy) - {main}
    if any(_observed(loops[i]) for i in noisy[1:]):
        raise SeveralLoops(tuple(noisy))
    observing = [i for i, loop in enumerate(loops) if _observed(loop)]
    return (noisy or observing or [0])[0], frozenset(noisy[1:])


def _refuse_variants(loop: Loop) -> None:
    if loop.reverse:
        raise ModelError(
            "the scan runs with reverse=True and draws noise; particles move forward in time. Reverse the inputs "
            "and the transition instead."
        )
    if not loop.length:
        raise ModelError("the scan has no steps; give it at least one.")


def _no_loop(found: list[TracedSite]) -> str:
    numbered = sum(site.name.rstrip("0123456789") != site.name for site in found)
    loop = f" It has {numbered} numbered sites: a Python loop is unrolled and cannot be stepped through." * (
        numbered > 2
    )
    return (
        f"the model has no numpyro.contrib.control_flow.scan (sites found: "
        f"{', '.join(site.name for site in found) or 'none'}).{loop} Write the time loop as "
        "scan(transition, init, xs) with the sample statements inside the transition; a jax.lax.scan hides its "
        "sites, and a handlers.block around the loop hides the loop."
    )


def _check_names(sites: list[TracedSite]) -> None:
    twice = [name for name, count in Counter(site.name for site in sites).items() if count > 1]
    if twice:
        raise ModelError(f"site name(s) {', '.join(map(repr, twice))} are used more than once; give each site its own.")

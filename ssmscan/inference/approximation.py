r"""`gaussian_approximation`: the smoothing law of a model at given parameters as a Gaussian law of its noise.

    path = gaussian_approximation(ssm, theta)
    path.log_likelihood, path.word, path.mean["level"], path.sd["level"], path.sample(key, 100)

How it is computed, and what its three words mean, is in `ssmscan.model.gaussian`.  For a linear Gaussian model it is
the Kalman filter and smoother; elsewhere it is the mode of the noise and the curvature there, to be looked at with
`path.message()`.  A particle filter that draws from it and corrects it is `ParticleFilter(proposal=LookAhead())`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmscan.arguments import refusal, require_integer
from ssmscan.inference.element_noise import joined_noise, split_noise
from ssmscan.labels import Labels, labels_of
from ssmscan.model.gaussian.fit import MAX_PASSES, fit_vectors
from ssmscan.model.gaussian.law import Fit
from ssmscan.model.gaussian.moments import Moments, draw_path, moments
from ssmscan.model.gaussian.vectors import Coordinates, in_vectors
from ssmscan.model.keys import loop_keys, one_key
from ssmscan.model.protocols import Dynamics, Model, Theta, Values
from ssmscan.model.statespace.element_dynamics import join_values
from ssmscan.model.statespace.requirements import require_observed
from ssmscan.particles.panels import each_filter
from ssmscan.particles.printing import known

EXACT, LAPLACE, SURROGATE = 0, 1, 2
WORDS = ("exact", "Laplace", "surrogate")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "log_likelihood",
        "kind",
        "mean",
        "sd",
        "covariance",
        "noise",
        "noise_sd",
        "converged",
        "finite",
        "passes",
        "fits",
        "ssm",
        "theta",
    ],
    meta_fields=["replaced"],
)
@dataclass(frozen=True, eq=False, repr=False)
class GaussianPath:
    """A Gaussian approximation of the states given data and parameters.

    Sites of the loop have time in front.  A panel has its elements where the model has them; covariances, which are of
    one element, have them after time.

    Attributes:
        log_likelihood: () log p(y | theta), everything observed included: what it is, `word` says; NaN where no mode
            was found.
        kind: () int32, place of the word in `WORDS`.
        mean: by state, innovations, initial states and deterministics of the loop: exact where the model is linear
            and Gaussian, else the value at the mode.
        sd: by state: exact where the mean is, else by the delta method.
        covariance: by state, (T, k, k) of the k numbers of one value.
        noise: mean of the noise, by site.
        noise_sd: its standard deviation.
        converged: () bool, whether the path is the mode to rounding.
        finite: () bool, whether a path with a finite density was found.
        passes: () int32, how many it took; of several loops or elements the most.
        fits: gains, value functions and increments of each loop; elements of a panel in front.
        ssm: the model.
        theta: the parameters.
        replaced: names of the states that are no smooth functions of noise, for which others of the same mean and
            variance stand, or their median.
    """

    log_likelihood: Array
    kind: Array
    mean: Values
    sd: Values
    covariance: Values
    noise: Values
    noise_sd: Values
    converged: Array
    finite: Array
    passes: Array
    fits: tuple[Fit, ...]
    ssm: Any = field(repr=False)
    theta: Theta = field(repr=False)
    replaced: tuple[str, ...]

    @property
    def labels(self) -> Labels:
        """Names of the axes and what stands along them; on the host only, absent inside jit."""
        return labels_of(self.ssm)

    @property
    def word(self) -> str:
        """*exact*, *Laplace* or *surrogate*; on the host, for one path."""
        if not known(self.kind) or np.ndim(self.kind):
            raise ValueError("word and message() describe one path with values: return it from jit, and index a batch.")
        return WORDS[int(self.kind)]

    def message(self) -> str:
        """Return what the approximation is worth, in sentences; on the host, for one path."""
        word, passes = self.word, int(self.passes)
        if word == "exact":
            return "The model is linear and Gaussian: log likelihood, means and covariances are exact."
        if not bool(self.finite):
            return (
                "No path with a finite log density was found, and the log likelihood is not known: look for data "
                "outside the support of their distribution at these parameters, or pass noise with a finite density as "
                "start=."
            )
        if not bool(self.converged):
            return (
                f"The search for the mode has not settled after {passes} passes, and the log likelihood is not known: "
                "states and draws are around another path. Allow for more with max_passes=, pass the noise of a better "
                "path as start=, or use ParticleFilter, which needs no mode."
            )
        if self.replaced:
            listed = ", ".join(repr(name) for name in self.replaced)
            return (
                f"The mode was found in {passes} passes, of a model in which a normal law, or its median, stands for "
                f"{listed}: the log likelihood is that of a surrogate. ParticleFilter estimates it without bias."
            )
        if word == "surrogate":
            return (
                f"A path was found in {passes} passes at which the curvature is not that of a maximum: the log "
                "likelihood is one of a wider law, no Laplace approximation. ParticleFilter estimates it without bias."
            )
        return (
            f"The mode was found in {passes} passes: the log likelihood is Laplace's approximation, and says nothing "
            "of other modes. ParticleFilter(proposal=LookAhead()) corrects it."
        )

    def sample(self, key: Array, num_draws: int) -> Values:
        """Draw state paths from the approximation; exact draws where the model is linear and Gaussian.

        Args:
            key: one PRNG key.
            num_draws: number of paths.

        Returns:
            Values by site, (num_draws, T, ...) for those of the loop; a value without a smooth map from noise is the
            real one that stands for it.
        """
        require_integer("num_draws", num_draws, at_least=1)
        return _draws(one_key(key), self.ssm, self.theta, self.fits, num_draws=num_draws)

    def __repr__(self) -> str:
        if not known(self.log_likelihood, self.kind) or np.ndim(self.kind):
            return f"GaussianPath of {', '.join(self.mean)}, log likelihood {self.log_likelihood!r}"
        return (
            f"Gaussian approximation ({self.word}) of {', '.join(self.mean)}\n"
            f"log likelihood {float(self.log_likelihood):.8g}\n{self.message()}"
        )


class _Loop(NamedTuple):
    found: Fit
    moments: Moments


def gaussian_approximation(
    ssm: Model, theta: Mapping[str, Any], *, start: Mapping[str, Any] | None = None, max_passes: int = MAX_PASSES
) -> GaussianPath:
    """Approximate the states given data and parameters by a Gaussian law of their noise.

    Pure: it works under jit, vmap and grad.  Derivatives are those of the approximation at its mode, by the implicit
    function theorem.  A pass costs O(T (d + m)^3), with d numbers in the carry that noise reaches and m of noise.

    Args:
        ssm: what `ssmscan.trace` returned.
        theta: value of every parameter by name.
        start: noise by site from which to search, (T, ...) for sites of the loop, such as `GaussianPath.noise` of other
            parameters; None is the path of the prior moved a little.
        max_passes: largest number of passes.

    Returns:
        A `GaussianPath`; whether it is to be trusted, `message()` says.

    Raises:
        ModelError: no state is a smooth function of noise, or carry and noise are too many numbers for dense algebra.
        ValueError: if theta or start lacks a name or has a wrong shape.
    """
    require_observed(ssm)
    require_integer("max_passes", max_passes, at_least=1)
    theta = ssm.canonical(theta)
    found = [_approximated(loop, theta, _own(loop, start), max_passes=max_passes) for loop in ssm.loops]
    total = sum((loop.log_likelihood for loop in found[1:]), found[0].log_likelihood)

    def union(name: str) -> Values:
        return {site: x for loop in found for site, x in getattr(loop, name).items()}

    return GaussianPath(
        log_likelihood=total + ssm.log_static(theta),
        kind=jnp.stack([loop.kind for loop in found]).max(),
        **{name: union(name) for name in ("mean", "sd", "covariance", "noise", "noise_sd")},
        converged=jnp.stack([loop.converged for loop in found]).all(),
        finite=jnp.stack([loop.finite for loop in found]).all(),
        passes=jnp.stack([loop.passes for loop in found]).max(),
        fits=tuple(loop.fits[0] for loop in found),
        ssm=ssm,
        theta=theta,
        replaced=tuple(name for loop in found for name in loop.replaced),
    )


@partial(jax.jit, static_argnames=("max_passes",))
def _approximated(ssm: Model, theta: Theta, start: Values | None, *, max_passes: int) -> GaussianPath:
    """Approximate one loop; without the likelihood that no state reaches."""
    kept: list[tuple[Coordinates, bool, tuple[str, ...]]] = []

    def run(_: None, dynamics: Dynamics, noise: Values | None) -> _Loop:
        model = in_vectors(dynamics)
        kept.append((model.coordinates, model.exact, model.replaced))
        found = fit_vectors(model, start=noise, max_passes=max_passes)
        return _Loop(found, moments(model, found))

    noise = None if start is None else split_noise(start, ssm)
    of_element = () if noise is None or ssm.panel is None else (noise,)
    one = run if of_element else partial(run, noise=noise)
    found, of = each_filter(one, ssm, theta, None, *of_element, together=True)
    coordinates, exact, replaced = kept[-1]
    laplace = jnp.all(found.converged & found.definite) & (not replaced)
    kind = jnp.where(exact & jnp.all(found.finite), EXACT, jnp.where(laplace, LAPLACE, SURROGATE)).astype(np.int32)
    one_each = {name: jnp.sqrt(_diagonal(x)) for name, x in of.covariance.items()}
    sd = {name: x.reshape(of.mean[name].shape) for name, x in one_each.items()}
    noise_sd = {name: jnp.sqrt(_diagonal(x)).reshape(of.noise[name].shape) for name, x in of.noise_covariance.items()}
    log_likelihood = jnp.where(found.finite & (exact | found.converged), found.log_likelihood, jnp.nan)
    return GaussianPath(
        log_likelihood=jnp.sum(log_likelihood),
        kind=kind,
        mean=join_values(of.mean, ssm.panel),
        sd=join_values(sd, ssm.panel),
        covariance=of.covariance if ssm.panel is None else {n: _after_time(x) for n, x in of.covariance.items()},
        noise=joined_noise(of.noise, ssm, coordinates),
        noise_sd=joined_noise(noise_sd, ssm, coordinates),
        converged=jnp.all(found.converged),
        finite=jnp.all(found.finite),
        passes=jnp.max(found.passes),
        fits=(found,),
        ssm=None,
        theta={},
        replaced=replaced,
    )


@partial(jax.jit, static_argnames=("num_draws",))
def _draws(key: Array, ssm: Model, theta: Theta, fits: tuple[Fit, ...], *, num_draws: int) -> Values:
    out: Values = {}
    for own, loop, found in zip(loop_keys(key, len(ssm.loops)), ssm.loops, fits):

        def paths(key: Array | None, dynamics: Dynamics, found: Fit) -> Values:
            assert key is not None
            model = in_vectors(dynamics)
            return jax.vmap(lambda k: draw_path(k, model, found)[0])(jax.random.split(key, num_draws))

        if loop.panel is None:
            out |= each_filter(partial(paths, found=found), loop, theta, own)
        else:
            out |= join_values(each_filter(paths, loop, theta, own, found, together=True), loop.panel)
    return out


def _diagonal(x: Array) -> Array:
    """Return the diagonals of (..., k, k) covariances; rounding may leave one below zero."""
    return jnp.maximum(jnp.diagonal(x, axis1=-2, axis2=-1), 0.0)


def _after_time(x: Array) -> Array:
    """Move elements behind time, (M, T, k, k) -> (T, M, k, k); a start has no time."""
    return jnp.moveaxis(x, 0, 1) if x.ndim == 4 else x


def _own(loop: Model, start: Mapping[str, Any] | None) -> Values | None:
    """Return the noise of the sites of one loop."""
    if start is None:
        return None
    names = [site.name for site in (*loop.initial, *loop.innovations)]
    if missing := [name for name in names if name not in start]:
        raise ValueError(refusal("start", f"noise of the sites {names}", start, f"It lacks {missing}."))
    return {name: jnp.asarray(start[name], float) for name in names}

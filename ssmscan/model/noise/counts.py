r"""Counts by inversion: the Poisson, binomial and geometric quantile of Phi(eps), in a fixed number of operations.

With eps ~ N(0, 1) the value is the only k with

    P(X <= k - 1) < Phi(eps) <= P(X <= k).

The geometric is a logarithm.  For the others P(X < w) is, as a function of a real w, an incomplete gamma or beta
function of w, and its normal score is known to order w^(-3/2) (Barndorff-Nielsen 1990, JRSS B 52, 485-496; Temme
1982, SIAM J. Math. Anal. 13, 239-253):

    Phi^{-1} P(X < w) ~ -(r + log(v / r) / r),     r = sign(m - w) sqrt(2 D),     v = (m - w) / s,

with the deviance D = w log(w/m) + m - w, s^2 = w for a mean m; and for n trials, with N = n + 1, m = N p and b = N - w,
D = w log(w/m) + b log(b/(N - m)), s^2 = w b / N.

*Search.*  A Cornish-Fisher guess and two Newton steps on that score find w within 0.02, for any mean up to 1e9 and
|eps| <= 8: the value is j - 1 or j with j = round(w).

*Decision.*  P(X < j), or P(X >= j) if eps > 0 so that neither tail cancels, is the sum of the 25 probabilities outwards
from j (65 in float64), by their ratios, plus the score's probability of the rest.  Where the score is poor the rest is
nothing, and where there is much of the rest the score is good: values change at the right eps to 3e-6 max(1, |eps|) in
float32 and 1e-7 in float64, far into both tails.  Rounding of float32 parameters does more when the mean is above 1e5.

There is no loop: one expression, which fuses, costs the same for all particles, and keeps elements of a plate apart.
Walking from the mode or from zero takes as many rounds as the slowest particle of the cloud (40 for a mean of 10, 4,000
for a mean of 1e6), and loses the upper tail in float32.  Rejection (Hormann 1993, "The transformed rejection method for
generating Poisson random variables") takes rounds too, and is no monotone function of one normal.

Means above 2^30 count as 2^30 (2^53 where integers have 64 bits).  A parameter that is NaN or out of its range gives
-1, and the weight of the particle becomes NaN (`NoiseMap.fault`).  Mixtures such as the negative binomial draw their
mixing variable first, see `gammas`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from ssmscan.model.noise.quantiles import SQRT_2, cast, log_tails

# Binet's function as a continued fraction (Stieltjes): log Gamma(a) - (a - 1/2) log a + a - log(2 pi) / 2.
_BINET = (1 / 12, 1 / 30, 53 / 210, 195 / 371, 22999 / 22737, 29944523 / 19733142, 109535241009 / 48264275462)
_BINET_OF_ONE = 1.0 - 0.5 * math.log(2.0 * math.pi)
# w stays this far inside its range.
_MARGIN = 0.3
# A mean of this never gives a count of one.
_TINY = 1e-18


class _Law(NamedTuple):
    """A Poisson law, or a binomial one with p <= 1/2.

    Attributes:
        mean: m, positive.
        trials: n, N p, N (1 - p) and p / (1 - p) as below; None for a Poisson.
    """

    mean: Array
    trials: _Trials | None


class _Trials(NamedTuple):
    """What a binomial law has and a Poisson lacks: N = n + 1, N (1 - p), p, p / (1 - p)."""

    size: Array
    failures: Array
    probability: Array
    odds: Array


def _precise(array: Array) -> bool:
    return array.dtype == jnp.float64


def _deviance(w: Array, mean: Array, delta: Array) -> tuple[Array, Array]:
    """Return w log(w/mean) + mean - w and log(mean/w), where delta = mean - w.

    Near the mean as a series in t = delta / (w + mean), log(mean/w) = 2 artanh t (Loader 2000, "Fast and accurate
    computation of binomial probabilities", section 4).
    """
    t = delta / (w + mean)
    square = jnp.where(jnp.abs(t) < 0.2, t * t, 0.0)
    tail = jnp.zeros_like(t)
    for k in range(11 if _precise(t) else 5, 0, -1):
        tail = square * (tail + 1.0 / (2 * k + 1))
    log_ratio = jnp.log(mean / w)
    return jnp.where(jnp.abs(t) < 0.2, t * (delta - 2.0 * w * tail), delta - w * log_ratio), log_ratio


def _total_deviance(law: _Law, w: Array, delta: Array) -> tuple[Array, Array]:
    """Return D and -dD/dx."""
    deviance, slope = _deviance(w, law.mean, delta)
    if law.trials is None:
        return deviance, slope
    other, other_slope = _deviance(law.trials.size - w, law.trials.failures, -delta)
    return deviance + other, slope - other_slope


def _score(law: _Law, w: Array, delta: Array) -> tuple[Array, Array]:
    """Return the normal score of P(X < w) and its derivative in w, for real w; delta = mean - w."""
    deviance, slope = _total_deviance(law, w, delta)
    if law.trials is None:
        variance, skewness = w, jnp.ones_like(w)
    else:
        size = law.trials.size
        variance, skewness = w * (1.0 - w / size), 1.0 - 2.0 * w / size
    root = lax.rsqrt(variance)
    r = jnp.sign(delta) * jnp.sqrt(2.0 * jnp.maximum(deviance, 0.0))
    near = jnp.abs(r) < 0.1
    far = jnp.where(near, 1.0, r)
    # The limit of the second term at r = 0, of which it moves by less than 1 / (360 variance) here.
    second = jnp.where(near, skewness * root / 3.0, jnp.log(jnp.where(near, 1.0, delta * root / far)) / far)
    return -r - second, jnp.where(near, root, slope / far)


def _log_binet(a: Array) -> Array:
    """Return Binet's function of integers a >= 1."""
    value = a
    for coefficient in _BINET[:0:-1]:
        value = a + coefficient / value
    return jnp.where(a < 1.5, _BINET_OF_ONE, _BINET[0] / value)


def _probability(law: _Law, j: Array, delta: Array) -> Array:
    """Return P(X = j) for integers j >= 1: Stirling's formula around the deviance, of which nothing cancels."""
    deviance, _ = _total_deviance(law, j, delta)
    log_p, square = -deviance - _log_binet(j), j
    if law.trials is not None:
        size, failures, _, _ = law.trials
        rest = size - j
        log_p, square = log_p + _log_binet(size) - _log_binet(rest), j / rest * (failures / size) * failures
    return jnp.exp(log_p) * lax.rsqrt(2.0 * math.pi * square)


def _upper(eps: Array) -> Array:
    """Return Phi(-eps)."""
    return 0.5 * lax.erfc(eps / SQRT_2)


def _outward(law: _Law, j: Array, delta: Array, up: Array) -> Array:
    """Return P(X >= j) where up, else P(X < j), for integers 1 <= j <= n."""
    terms = 64 if _precise(j) else 24
    if law.trials is None:
        other, odds, room = law.mean, jnp.zeros_like(j), jnp.full_like(j, jnp.inf)
    else:
        room, odds = law.trials.size - j, law.trials.odds
        other = room * odds
    # Ratio of the i-th probability to the one before: (other - i odds) / (j + i) up, (j - i) / (other + i odds) down.
    top, top_step = jnp.where(up, other, j), jnp.where(up, odds, 1.0)
    bottom, bottom_step = jnp.where(up, j, other), jnp.where(up, 1.0, odds)
    total = jnp.zeros_like(j)
    for i in range(terms, 0, -2):
        # Two terms with one division.
        first, second = (jnp.maximum(top - k * top_step, 0.0) for k in (i - 1, i))
        below, below_second = bottom + (i - 1) * bottom_step, bottom + i * bottom_step
        total = (below_second + (1.0 + total) * second) * first / (below * below_second)
    start = _probability(law, j, delta) * jnp.where(up, 1.0, j / other)
    shift = jnp.where(up, terms + 1.0, -(terms + 1.0))
    inside = jnp.where(up, room, j) > terms + 1.0
    shift = jnp.where(inside, shift, 0.0)
    rest, _ = _score(law, j + shift, delta - shift)
    return start * (1.0 + total) + jnp.where(inside, _upper(jnp.where(up, rest, -rest)), 0.0)


def _invert(law: _Law, eps: Array) -> Array:
    """Return the count of each normal, integers of the default dtype."""
    whole = jnp.floor(law.mean)
    fraction = law.mean - whole
    # Everything is relative to the whole part of the mean: a float32 does not hold a large w to a tenth.
    lowest, highest = _MARGIN - whole, jnp.inf
    offset = fraction + (eps * eps + 2.0) / 6.0
    variance = law.mean
    if law.trials is not None:
        size, failures, p, _ = law.trials
        highest = (size - whole) - _MARGIN
        offset = fraction - p + (1.0 - 2.0 * p) * (eps * eps - 1.0) / 6.0 + 0.5
        variance = law.mean * (failures / size)
    offset = offset + eps * jnp.sqrt(variance)
    # For small means that is far too large: better is one step to w (log(w / mean) - 1) = eps^2 / 2.
    growth = jnp.log(jnp.maximum(offset, 0.3) / law.mean) - 1.0
    small = 0.5 * eps * eps / jnp.maximum(growth, 0.5) + 0.3
    offset = jnp.where(law.mean < 1.0, jnp.minimum(offset, small), offset)
    offset = jnp.clip(offset, lowest, highest)
    for _ in range(2):
        score, slope = _score(law, whole + offset, fraction - offset)
        offset = jnp.clip(offset + (eps - score) / slope, lowest, highest)
    last = jnp.inf if law.trials is None else (law.trials.size - whole) - 1.0
    offset = jnp.clip(jnp.round(offset), 1.0 - whole, last)
    up = eps >= 0.0
    probability = _outward(law, jnp.maximum(whole + offset, 1.0), fraction - offset, up)
    tail = _upper(jnp.abs(eps))
    less = jnp.where(up, tail >= probability, tail <= probability)
    integer = jnp.result_type(int)
    count = whole.astype(integer) + offset.astype(integer) - less.astype(integer)
    return jnp.maximum(count, 0)


def poisson(eps: Array, mean: Array) -> Array:
    """Return the Poisson quantile of Phi(eps); arguments of one shape and dtype."""
    largest = 2.0 ** (53 if jnp.result_type(int) == jnp.int64 else 30)
    safe = jnp.where(mean >= _TINY, jnp.minimum(mean, largest), 1.0)
    count = _invert(_Law(safe, None), eps)
    return jnp.where(mean >= _TINY, count, jnp.where(mean >= 0.0, 0, -1))


def binomial(eps: Array, total: Array, p: Array, q: Array) -> Array:
    """Return the binomial quantile of Phi(eps); arguments of one shape and dtype, p + q = 1."""
    flipped = p > q
    valid = (total >= 0.0) & (p >= 0.0) & (q >= 0.0)
    rare, other = jnp.minimum(p, q), jnp.maximum(p, q)
    size = total + 1.0
    certain = ~((size * rare >= _TINY) & (total >= 1.0))
    rare, other = (jnp.where(certain, 0.5, p) for p in (rare, other))
    size = jnp.where(certain, 2.0, size)
    law = _Law(size * rare, _Trials(size, size * other, rare, rare / other))
    count = jnp.where(certain, 0, _invert(law, jnp.where(flipped, -eps, eps)))
    integers = jnp.where(valid, total, 0.0).astype(count.dtype)
    count = jnp.minimum(count, integers)
    return jnp.where(valid, jnp.where(flipped, integers - count, count), -1)


def poisson_value(fn: Any, noise: Array) -> Array:
    """Map noise to a Poisson count."""
    eps, rate = lax.stop_gradient(cast(noise, fn.rate))
    return poisson(eps, rate)


def poisson_valid(fn: Any) -> Array:
    """Return where the mean is valid."""
    return jnp.asarray(fn.rate) >= 0


def binomial_probs_value(fn: Any, noise: Array) -> Array:
    """Map noise to a binomial count, given its probability."""
    eps, total, p = lax.stop_gradient(cast(noise, fn.total_count, fn.probs))
    return binomial(eps, total, p, 1.0 - p)


def binomial_probs_valid(fn: Any) -> Array:
    """Return where the number of trials and the probability are valid."""
    p = jnp.asarray(fn.probs)
    return (jnp.asarray(fn.total_count) >= 0) & (p >= 0) & (p <= 1)


def binomial_logits_value(fn: Any, noise: Array) -> Array:
    """Map noise to a binomial count, given its log-odds."""
    eps, total, logits = lax.stop_gradient(cast(noise, fn.total_count, fn.logits))
    return binomial(eps, total, lax.logistic(logits), lax.logistic(-logits))


def binomial_logits_valid(fn: Any) -> Array:
    """Return where the number of trials and the log-odds are valid."""
    logits = jnp.asarray(fn.logits)
    return (jnp.asarray(fn.total_count) >= 0) & (logits == logits)


def _geometric(eps: Array, log_failure: Array) -> Array:
    """Return floor(log Phi(-eps) / log(1 - p)), in NumPyro's dtype for it, which is real."""
    return jnp.floor(log_tails(eps)[1] / log_failure)


def geometric_probs_value(fn: Any, noise: Array) -> Array:
    """Map noise to a number of failures, given the probability of success."""
    eps, p = lax.stop_gradient(cast(noise, fn.probs))
    return _geometric(eps, jnp.log1p(-p))


def geometric_logits_value(fn: Any, noise: Array) -> Array:
    """Map noise to a number of failures, given the log-odds of success."""
    eps, logits = lax.stop_gradient(cast(noise, fn.logits))
    return _geometric(eps, -jnp.logaddexp(logits, 0.0))

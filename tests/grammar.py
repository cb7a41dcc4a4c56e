"""Models from a seeded grammar, each against linear algebra or enumeration, or refused.

    python -m tests.grammar [number] [seed]
    python -m tests.grammar styles [part of a name]

A model is a choice of carry x inputs x family x way to observe x missing values x further scans.  The likelihood of the
filter, averaged over keys, must be the exact one (family error 1e-4 over all models), and `ssm.check` must pass.
What is refused is listed by its sentence.  The styles of `grammar_styles` and `grammar_more` are judged in the same
way, each against what NumPyro's own density gives; and states and parameters must be those that the style has.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm, t

import ssmscan
from tests.contract import values
from tests.grammar_more import cases
from tests.grammar_styles import Case
from tests.truth import ERROR_RATE

STEPS, KEYS = 7, 48
LAGS = np.array([0.6, -0.3, 0.2])
RNG = np.random.default_rng(0)
Y = RNG.normal(size=STEPS).cumsum()
X = RNG.normal(size=STEPS)
TRANSITION = np.array([[0.8, 0.2], [0.3, 0.7]])
LEVELS = np.array([-1.0, 1.5])
Q, R = 0.8, 0.6

CHOICES = {
    "family": ("walk", "lags", "regime"),
    "carry": ("leaf", "tuple", "list", "dict", "counter"),
    "inputs": ("data", "index", "tree", "length"),
    "observe": ("obs", "condition", "around", "after", "rows", "scan"),
    "missing": ("none", "nan", "fed back"),
    "further": ("none", "covariate", "horizon", "second"),
}


class Spec(NamedTuple):
    """One model of the grammar, by the choices above."""

    family: str
    carry: str
    inputs: str
    observe: str
    missing: str
    further: str


def data(spec: Spec) -> np.ndarray:
    y = Y.copy()
    if spec.missing != "none":
        y[[1, 4]] = np.nan
    return y


def pack(spec: Spec, state, last, step):
    """The state, the last observation and the number of the step as the carry."""
    window = state if isinstance(state, tuple) else (state,)
    return {
        "leaf": lambda: jnp.stack([*window, last, jnp.asarray(step, float)]),
        "tuple": lambda: (*window, last, step),
        "list": lambda: [*window, last, step],
        "dict": lambda: {"state": window, "last": last, "n": step},
        "counter": lambda: (step, jnp.stack(window), last),
    }[spec.carry]()


def unpack(spec: Spec, carry):
    if spec.carry == "dict":
        return carry["state"], carry["last"], carry["n"]
    if spec.carry == "counter":
        return tuple(carry[1]), carry[2], carry[0]
    return tuple(carry[i] for i in range(len(carry) - 2)), carry[-2], carry[-1]


def build(spec: Spec):
    """The model as a NumPyro function of (y, x)."""
    size = 3 if spec.family == "lags" else 1
    fed = 0.4 if spec.missing == "fed back" else 0.0
    inside = spec.observe in ("obs", "condition", "around")

    def model(y, x):
        q = numpyro.sample("q", dist.HalfNormal(1.0))
        if spec.further == "covariate":
            _, x = scan(lambda c, v: (0.5 * c + v, 0.5 * c + v), 0.0, x)

        def transition(carry, v):
            window, last, n = unpack(spec, carry)
            if spec.inputs == "data":
                y_t, x_t = v
            elif spec.inputs == "tree":
                y_t, x_t = v["y"], v["x"][0]
            else:
                now = v if spec.inputs == "index" else jnp.asarray(n, int)
                y_t, x_t = y[now], x[now]
            if spec.family == "regime":
                probs = jnp.asarray(TRANSITION)[jnp.asarray(window[0], int)]
                z = numpyro.sample("z", dist.Categorical(probs))
                new, mean = (jnp.asarray(z, float),), jnp.asarray(LEVELS)[z]
            else:
                shift = sum(a * w for a, w in zip(LAGS, window)) if size > 1 else window[0]
                z = numpyro.sample("z", dist.Normal(shift, q))
                new, mean = (z, *window[:-1]), z
            mean = mean + 0.3 * x_t + fed * last
            if inside:
                observed = y_t if spec.observe == "obs" else None
                last = numpyro.sample("y", dist.Normal(mean, R), obs=observed)
            return pack(spec, new, last if inside else 0.0 * mean, n + 1), mean

        inputs = {"data": (y, x), "index": jnp.arange(STEPS), "tree": {"y": y, "x": [x]}, "length": None}
        start = pack(spec, tuple(jnp.zeros(()) for _ in range(size)), jnp.zeros(()), 0)
        condition = handlers.condition(data={"y": y}) if spec.observe == "condition" else handlers.condition(data={})
        with condition:
            end, means = scan(transition, start, inputs[spec.inputs], length=STEPS)
        if spec.observe == "after":
            numpyro.sample("y", dist.Normal(means, R), obs=y)
        if spec.observe == "rows":
            rows = jnp.concatenate([jnp.zeros(1), means])
            numpyro.sample("y", dist.Normal(rows, R).to_event(1), obs=jnp.concatenate([jnp.zeros(1), y]))
        if spec.observe == "scan":
            scan(lambda c, v: (c, numpyro.sample("y", dist.Normal(v[0], R), obs=v[1])), None, (means, y))
        if spec.further == "horizon":
            level = unpack(spec, end)[0][0]
            scan(lambda c, _: (numpyro.sample("ahead", dist.Normal(c, q)), c), level, jnp.arange(3))
        if spec.further == "second":
            _, other = scan(lambda c, _: (numpyro.sample("other", dist.Normal(c, q)),) * 2, 0.0, x)
            numpyro.sample("x", dist.Normal(other, R), obs=x)

    if spec.observe == "around":
        return lambda y, x: handlers.condition(model, data={"y": y})(y, x)
    return model


def exact(spec: Spec) -> float:
    """The log likelihood at q = Q by dense linear algebra, or by summing over all regimes."""
    y, x = data(spec), X.copy()
    if spec.further == "covariate":
        for i in range(1, STEPS):
            x[i] += 0.5 * x[i - 1]
    fed = 0.4 if spec.missing == "fed back" else 0.0
    echo = np.linalg.inv(np.eye(STEPS) - fed * np.eye(STEPS, k=-1))
    there = ~np.isnan(y)
    extra = norm.logpdf(0, 0, R) if spec.observe == "rows" else 0.0
    if spec.further == "second":
        steps = np.arange(1, STEPS + 1)
        extra += multivariate_normal(cov=Q**2 * np.minimum.outer(steps, steps) + R**2 * np.eye(STEPS)).logpdf(X)

    def density(mean, covariance):
        mean, covariance = echo @ mean, echo @ covariance @ echo.T
        return multivariate_normal(mean[there], covariance[np.ix_(there, there)]).logpdf(y[there]) + extra

    if spec.family == "regime":
        total = -np.inf
        for path in itertools.product(range(2), repeat=STEPS):
            prior = np.prod([TRANSITION[a, b] for a, b in zip((0, *path), path)])
            value = density(LEVELS[list(path)] + 0.3 * x, R**2 * np.eye(STEPS))
            total = np.logaddexp(total, np.log(prior) + value)
        return total
    lags = LAGS if spec.family == "lags" else np.array([1.0])
    operator = np.eye(STEPS) - sum(a * np.eye(STEPS, k=-k) for k, a in enumerate(lags, 1))
    inverse = np.linalg.inv(operator)
    return density(0.3 * x, Q**2 * inverse @ inverse.T + R**2 * np.eye(STEPS))


def specs(number: int, seed: int) -> list[Spec]:
    """Distinct specifications that make sense: what is observed after the loop cannot be fed back."""
    rng = np.random.default_rng(seed)
    found: dict[Spec, None] = {}
    while len(found) < number:
        spec = Spec(*(str(rng.choice(options)) for options in CHOICES.values()))
        if spec.missing == "fed back" and spec.observe in ("after", "rows", "scan"):
            continue
        found[spec] = None
    return list(found)


def judge(spec: Spec, comparisons: int) -> str:
    """`right`, `refused: ...` or what is wrong."""
    try:
        ssm = ssmscan.trace(build(spec), jnp.asarray(data(spec)), jnp.asarray(X))
    except ssmscan.ModelError as error:
        return f"refused: {error}"
    if not ssm.check(jax.random.key(0)).passed:
        return "WRONG: the parts do not add up"
    log_likelihood = jax.jit(jax.vmap(lambda key: ssmscan.log_likelihood(key, ssm, {"q": Q}, num_particles=500)))
    try:
        found = np.asarray(log_likelihood(jax.random.split(jax.random.key(0), KEYS)), float)
    except ssmscan.ModelError as error:
        return f"refused to particles: {error}"
    ratio = np.exp(found - exact(spec))
    z = (ratio.mean() - 1) / (ratio.std(ddof=1) / np.sqrt(KEYS))
    return "right" if abs(z) < t.isf(ERROR_RATE / (2 * comparisons), KEYS - 1) else f"WRONG: z = {z:.1f}"


def enumerated(case: Case) -> values.Value:
    """The likelihood of a case by NumPyro's density at all values of its discrete sites."""
    run = lambda: case.model(*case.args)  # noqa: E731
    trace = handlers.trace(handlers.seed(handlers.substitute(run, data=case.theta), 0)).get_trace()
    shapes = {name: trace[name]["value"] for name in case.discrete}
    sizes = [case.discrete[name] for name, value in shapes.items() for _ in range(value.size)]
    grid = jnp.asarray(list(itertools.product(*map(range, sizes))))

    def log_joint(row):
        data, start = dict(case.theta), 0
        for name, value in shapes.items():
            data[name] = row[start : start + value.size].reshape(value.shape).astype(value.dtype)
            start += value.size
        return values.log_terms(
            handlers.trace(handlers.substitute(run, data=data)).get_trace(), case.theta, observed=False
        )

    return values.Value(float(logsumexp(np.asarray(jax.jit(jax.vmap(log_joint))(grid), float))), 0.0, "enumeration")


def truth(case: Case) -> values.Value:
    """The likelihood of a case, by NumPyro alone."""
    run = lambda: (case.twin or case.model)(*case.args)  # noqa: E731
    if case.truth == "gauss":
        return values.linear_gaussian(run, case.theta)
    if case.truth == "sum":
        return enumerated(case)
    if case.truth == "none":
        return values.without_noise(run, case.theta)
    return values.monte_carlo(run, case.theta, error=0.02, most=400_000)


def sums_everything(ssm: ssmscan.StateSpaceModel) -> bool:
    """Whether all states of a model are summed out."""
    try:
        return not ssm.smooth_noise and bool(ssm.summed_out)
    except ssmscan.ModelError:
        return False


def judge_case(case: Case, comparisons: int) -> str:
    """`right`, `refused: ...`, `kept as parameters: ...` or what is wrong."""
    try:
        ssm = ssmscan.trace(case.model, *case.args)
    except ssmscan.ModelError as error:
        return f"refused: {error}"  # a trace that fails its own check says so too
    extra = {site.name for site in ssm.parameters} ^ set(case.theta)
    if extra:
        return f"other parameters: {sorted(extra)}"
    theta = {name: jnp.asarray(value, float) for name, value in case.theta.items()}
    known = truth(case)
    rounding = 1e-5 * (10 + abs(known.log_likelihood))
    if case.truth == "sum" and sums_everything(ssm):
        summed = float(ssm.log_likelihood_given_noise(theta, {}))
        if abs(summed - known.log_likelihood) > rounding:
            return f"WRONG: summed to {summed:.4f}, enumerated {known.log_likelihood:.4f}"
    log_likelihood = jax.jit(jax.vmap(lambda key: ssmscan.log_likelihood(key, ssm, theta, num_particles=1000)))
    try:
        logs = np.asarray(log_likelihood(jax.random.split(jax.random.key(0), KEYS)), float)
    except ssmscan.ModelError as error:
        return f"refused to particles: {error}"
    ours = values.averaged(logs, "particles")
    z = (ours.log_likelihood - known.log_likelihood) / math.hypot(ours.error, known.error, rounding)
    return "right" if abs(z) < t.isf(ERROR_RATE / (2 * comparisons), KEYS - 1) else f"WRONG: z = {z:.1f}"


def report(judged: Iterable[tuple[str, Callable[[], str]]]) -> None:
    """Print what is not right, each sentence once, and how many of each there are."""
    began, verdicts, said = time.perf_counter(), Counter(), set()
    for name, judgement in judged:
        try:
            verdict = judgement()
        except Exception as error:  # a crash is a verdict too
            verdict = f"CRASH: {type(error).__name__}: {error}"
        verdict = verdict.splitlines()[0]
        if verdict != "right":
            print(name, "->", verdict if verdict not in said else f"{verdict[:60]}... (as above)", flush=True)
        said.add(verdict)
        verdicts[verdict.split(":")[0]] += 1
    print(dict(verdicts), f"{time.perf_counter() - began:.0f} s")


def main(number: int = 100, seed: int = 0) -> None:
    report((" ".join(spec), partial(judge, spec, number)) for spec in specs(number, seed))


def main_styles(wanted: str = "") -> None:
    chosen = [case for case in cases() if wanted in case.name]
    print(len(chosen), "models")
    report((case.name, partial(judge_case, case, len(chosen))) for case in chosen)


if __name__ == "__main__":
    if sys.argv[1:2] == ["styles"]:
        main_styles(*sys.argv[2:3])
    else:
        main(*map(int, sys.argv[1:]))

"""Random programs that make a log-density of a path, some parameters and data; see `after_loop`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax

T, D, LARGEST = 5, 2, 60

Env = dict[str, Any]
Change = Callable[[jax.Array, Env], jax.Array]


class Program:
    """A random program, written while its shapes are computed.

    Attributes:
        steps: names of what it does.
        data: arguments by name: integers are indices, of which the bound is kept.
    """

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        self.steps: list[str] = []
        self.changes: list[Change] = []
        self.data: dict[str, tuple[tuple[int, ...], int | None]] = {}
        self.shape: tuple[int, ...] = (T, D)
        for _ in range(self.random.integers(1, 6)):
            name = str(self.random.choice(NAMES, p=WEIGHTS))
            change = MOVES[name](self)
            if change is not None:
                self._take(name, change)
        name = str(self.random.choice(list(ENDS)))
        self.end = ENDS[name](self)
        self.steps.append(name)

    def _take(self, name: str, change: Change) -> None:
        env = {n: jax.ShapeDtypeStruct(s, "int32" if b is not None else float) for n, (s, b) in self.data.items()}
        made = jax.eval_shape(change, jax.ShapeDtypeStruct(self.shape, float), {**env, **FIXED}).shape
        if 0 < np.prod(made, dtype=int) <= LARGEST and len(made) < 5:
            self.shape = made
            self.changes.append(change)
            self.steps.append(f"{name}{list(made)}")

    def new(self, shape: tuple[int, ...], bound: int | None = None) -> str:
        """Name new data."""
        name = f"d{len(self.data)}"
        self.data[name] = shape, bound
        return name

    def axis(self) -> int:
        """Choose an axis, time more often than others."""
        return int(self.random.integers(len(self.shape))) if self.shape else 0

    def draw(self, random: np.random.Generator) -> Env:
        """Draw data."""
        return {
            name: jnp.asarray(random.integers(0, bound, shape) if bound is not None else random.normal(size=shape))
            for name, (shape, bound) in self.data.items()
        }

    def __call__(self, path: jax.Array, env: Env) -> jax.Array:
        value = path
        for change in self.changes:
            value = change(value, env)
        return self.end(value, env)


FIXED = {"x0": jax.ShapeDtypeStruct((D,), float), "theta": jax.ShapeDtypeStruct((), float)}


# ---- what a program does ------------------------------------------------------------------------------


def _indexed(axis: int, key: Any) -> Change:
    return lambda a, _: a[(slice(None),) * axis + (key,)]


def _slice(p: Program) -> Change | None:
    k = p.axis()
    n = p.shape[k] if p.shape else 0
    first = int(p.random.integers(0, max(n, 1)))
    last = int(p.random.integers(first + 1, n + 1)) if n else 0
    return _indexed(k, slice(first, last, int(p.random.integers(1, 3)))) if n else None


def _reverse(p: Program) -> Change | None:
    return _indexed(p.axis(), slice(None, None, -1)) if p.shape else None


def _roll(p: Program) -> Change | None:
    k, by = p.axis(), int(p.random.integers(-3, 4))
    return (lambda a, _: jnp.roll(a, by, k)) if p.shape else None


def _gather(p: Program) -> Change | None:
    k = p.axis()
    index = p.random.integers(0, p.shape[k], p.random.integers(1, 7)) if p.shape else None
    return None if index is None else _indexed(k, index)


def _row(p: Program) -> Change | None:
    k = p.axis()
    return _indexed(k, int(p.random.integers(p.shape[k]))) if p.shape else None


def _mask(p: Program) -> Change | None:
    k = p.axis()
    return _indexed(k, p.random.random(p.shape[k]) < 0.7) if p.shape else None


def _take(p: Program) -> Change | None:
    if not p.shape:
        return None
    k = p.axis()
    name = p.new((int(p.random.integers(1, 7)),), p.shape[k])
    mode = p.random.choice(["clip", "fill", "index"])
    if mode == "index":
        return lambda a, env: a[(slice(None),) * k + (env[name],)]
    return lambda a, env: jnp.take(a, env[name], axis=k, mode=str(mode))


def _element(p: Program) -> Change | None:
    """One place in time and series for each observation."""
    if len(p.shape) < 2:
        return None
    n = int(p.random.integers(1, 7))
    rows, columns = p.new((n,), p.shape[0]), p.new((n,), p.shape[1])
    return lambda a, env: a[env[rows], env[columns]]


def _dynamic(p: Program) -> Change | None:
    if not p.shape:
        return None
    k, name = p.axis(), p.new((), p.shape[p.axis()])
    return lambda a, env: lax.dynamic_index_in_dim(a, env[name], k, keepdims=False)


def _along(p: Program) -> Change | None:
    if not p.shape:
        return None
    k = p.axis()
    shape = list(p.shape)
    shape[k] = int(p.random.integers(1, 4))
    name = p.new(tuple(shape), p.shape[k])
    return lambda a, env: jnp.take_along_axis(a, env[name], k)


def _pad(p: Program) -> Change | None:
    config = [tuple(map(int, p.random.integers(0, 3, 2))) + (int(p.random.random() < 0.1),) for _ in p.shape]
    value = float(p.random.choice([0.0, 0.4]))
    return lambda a, _: lax.pad(a, jnp.asarray(value, a.dtype), config)


def _concatenate(p: Program) -> Change | None:
    if not p.shape:
        return None
    k, shape = p.axis(), list(p.shape)
    shape[k] = 1
    kind = int(p.random.integers(5))
    name = p.new(tuple(shape))
    head = _indexed(k, slice(0, 2))

    def change(a: jax.Array, env: Env) -> jax.Array:
        row = env[name]
        parts = [[row, a], [a, row], [row * 0 + env["theta"], a], [row * 0 + env["x0"].sum(), a], [a, head(a, env)]]
        return jnp.concatenate(parts[kind], k)

    return change


def _reshape(p: Program) -> Change | None:
    size = int(np.prod(p.shape))
    options = [(size,), (1, size), *((n, size // n) for n in range(2, size) if size % n == 0)]
    if len(p.shape) == 3:
        a, b, c = p.shape
        options += [(a * b, c), (a, b * c)] * 3
    new = options[p.random.integers(len(options))]
    return lambda a, _: a.reshape(new)


def _transpose(p: Program) -> Change | None:
    order = tuple(map(int, p.random.permutation(len(p.shape))))
    return lambda a, _: a.transpose(order)


def _function(p: Program) -> Change | None:
    fn = [jnp.tanh, lambda a: jnp.exp(0.2 * a), jnp.square, lambda a: 2.0 * a - 1.0][p.random.integers(4)]
    return lambda a, _: fn(a)


def _data(p: Program) -> Change | None:
    k, name = int(p.random.integers(len(p.shape) + 1)), p.new(p.shape[int(p.random.integers(len(p.shape) + 1)) :])
    fn = [jnp.add, jnp.multiply, jnp.subtract][k % 3]
    return lambda a, env: fn(a, env[name])


def _parameters(p: Program) -> Change | None:
    if p.shape and p.shape[-1] == D and p.random.random() < 0.5:
        return lambda a, env: a * env["theta"] + env["x0"]
    return lambda a, env: a + env["theta"]


def _where(p: Program) -> Change | None:
    if p.random.random() < 0.5:
        keep = p.random.random(p.shape) < 0.7
        return lambda a, env: jnp.where(keep, a, env["theta"])
    name = p.new(p.shape)
    return lambda a, env: jnp.where(env[name] > 0, a, 0.3)


def _itself(p: Program) -> Change | None:
    k, by = p.axis(), int(p.random.integers(-1, 2))
    kind = int(p.random.integers(3))
    if not p.shape:
        return None
    if kind == 0:
        return lambda a, _: a * jnp.roll(a, by, k)
    return (lambda a, _: jnp.tanh(a) + a) if kind == 1 else (lambda a, _: jnp.stack([a, jnp.sin(a)], k))


def _readout(p: Program) -> Change | None:
    if not p.shape:
        return None
    weights = p.random.normal(size=(p.shape[-1], 2))
    return lambda a, _: a @ weights


def _contraction(p: Program) -> Change | None:
    if len(p.shape) < 2:
        return None
    name = p.new(p.shape)
    return lambda a, env: jnp.einsum("...i,...i->...", a, env[name])


def _product(p: Program) -> Change | None:
    return (lambda a, _: jnp.einsum("t...i,t...j->t...ij", a, jnp.cos(a))) if len(p.shape) >= 2 else None


def _broadcast(p: Program) -> Change | None:
    k = int(p.random.integers(len(p.shape) + 1))
    if p.random.random() < 0.5:
        return lambda a, _: jnp.expand_dims(a, k)
    return lambda a, _: jnp.broadcast_to(a, (2, *a.shape))


def _repeat(p: Program) -> Change | None:
    k = p.axis()
    if not p.shape:
        return None
    if p.random.random() < 0.5:
        return lambda a, _: jnp.repeat(a, 2, axis=k)
    return lambda a, _: jnp.tile(a, (2,) + (1,) * (a.ndim - 1))


def _reduction(p: Program) -> Change | None:
    if not p.shape:
        return None
    k = p.axis()
    kinds: list[Callable] = [
        lambda a: a.sum(k),
        lambda a: a.mean(k),
        lambda a: jax.scipy.special.logsumexp(a, k),
        lambda a: a.max(k),
        lambda a: jnp.prod(a, k),
    ]
    fn = kinds[p.random.integers(len(kinds))]
    return lambda a, _: fn(a)


def _running(p: Program) -> Change | None:
    if not p.shape:
        return None
    k = p.axis()
    kinds: list[Callable] = [
        lambda a: jnp.cumsum(a, k),
        lambda a: jnp.sort(a, k),
        lambda a: jax.nn.softmax(a, k),
        lambda a: jnp.diff(a, axis=k),
    ]
    fn = kinds[p.random.integers(len(kinds))]
    return lambda a, _: fn(a)


def _scan(p: Program) -> Change | None:
    """A later loop that reads rows by its own time, beside an average of the data."""
    if not p.shape:
        return None
    n = p.shape[0]
    name = p.new((n,))
    backwards = bool(p.random.random() < 0.3)

    def change(a: jax.Array, env: Env) -> jax.Array:
        def step(mean: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
            row = a[n - 1 - t] if backwards else a[t]
            return 0.7 * mean + env[name][t], row + mean

        return lax.scan(step, jnp.zeros(()), jnp.arange(n))[1]

    return change


def _vmap(p: Program) -> Change | None:
    weights = p.random.normal(size=3)
    return (lambda a, _: jax.vmap(lambda row: jnp.tanh(row)[..., None] * weights)(a)) if p.shape else None


def _update(p: Program) -> Change | None:
    if not p.shape:
        return None
    k = int(p.random.integers(p.shape[0]))
    return lambda a, _: a.at[k].set(0.5)


MOVES: dict[str, Callable[[Program], Change | None]] = {
    "slice": _slice,
    "reverse": _reverse,
    "roll": _roll,
    "gather": _gather,
    "row": _row,
    "mask": _mask,
    "take": _take,
    "element": _element,
    "dynamic": _dynamic,
    "take along": _along,
    "pad": _pad,
    "concatenate": _concatenate,
    "reshape": _reshape,
    "transpose": _transpose,
    "function": _function,
    "data": _data,
    "parameters": _parameters,
    "where": _where,
    "itself": _itself,
    "readout": _readout,
    "contraction": _contraction,
    "product": _product,
    "broadcast": _broadcast,
    "repeat": _repeat,
    "reduction": _reduction,
    "running": _running,
    "scan": _scan,
    "vmap": _vmap,
    "update": _update,
}
NAMES = list(MOVES)
_RARE = {"running": 0.5, "dynamic": 0.5, "row": 0.5, "reduction": 0.7}
WEIGHTS = np.array([_RARE.get(name, 1.0) for name in NAMES])
WEIGHTS = WEIGHTS / WEIGHTS.sum()


# ---- how it ends --------------------------------------------------------------------------------------


def _normal(total: Callable[[jax.Array, Env], jax.Array]) -> Callable[[Program], Change]:
    def end(p: Program) -> Change:
        name = p.new(p.shape)
        return lambda a, env: total(dist.Normal(a, jnp.exp(0.1 * env["theta"])).log_prob(env[name]), env)

    return end


def _event(p: Program) -> Change:
    name = p.new(p.shape)
    return lambda a, env: dist.Normal(a, 0.7).to_event(a.ndim).log_prob(env[name])


def _weighted(p: Program) -> Change:
    name, weights = p.new(p.shape), p.new(p.shape)
    return lambda a, env: jnp.vdot(dist.Normal(a, 0.7).log_prob(env[name]), env[weights])


def _gaps(p: Program) -> Change:
    name, seen = p.new(p.shape), p.new(p.shape)
    return lambda a, env: jnp.where(env[seen] > 0, dist.StudentT(4.0, a, 1.0).log_prob(env[name]), 0.0).sum()


def _multivariate(p: Program) -> Change:
    if not p.shape or p.shape[-1] > 3:
        return _normal(lambda lp, _: lp.sum())(p)
    name, n = p.new(p.shape), p.shape[-1]
    covariance = np.eye(n) + 0.3
    return lambda a, env: dist.MultivariateNormal(a, covariance).log_prob(env[name]).sum()


def _squares(p: Program) -> Change:
    name = p.new(p.shape)

    def end(a: jax.Array, env: Env) -> jax.Array:
        residual = (a - env[name]).ravel()
        return -0.5 * residual @ residual + env["theta"]

    return end


def _poisson(p: Program) -> Change:
    name = p.new(p.shape, 4)
    return lambda a, env: dist.Poisson(jnp.exp(0.1 * jnp.tanh(a))).log_prob(env[name]).sum()


ENDS: dict[str, Callable[[Program], Change]] = {
    "sum": _normal(lambda lp, _: lp.sum()),
    "mean": _normal(lambda lp, _: 3.0 * lp.mean() - 1.0),
    "cumulative": _normal(lambda lp, _: jnp.cumsum(lp.ravel())[-1]),
    "by axis": _normal(lambda lp, env: (env["theta"] * lp.reshape(lp.shape[0] if lp.ndim else 1, -1).sum(0)).sum()),
    "log of a product": _normal(lambda lp, _: jnp.log(jnp.prod(jnp.exp(0.1 * lp)))),
    "event": _event,
    "weighted": _weighted,
    "gaps": _gaps,
    "multivariate": _multivariate,
    "squares": _squares,
    "poisson": _poisson,
}

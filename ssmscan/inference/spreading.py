r"""Replicates over the cores of a CPU or the devices of a machine: one gate for all engines.

Chains, importance points, starts and batches of paths are *replicates*: the leading axis of a state, of which a step
never mixes two.  The devices of JAX's default backend each take some of them,

    replicates 0 .. R-1   ->   device 0: 0 .. k-1,   device 1: k .. 2k-1,   ...          (`jax.shard_map` over a mesh)

and none waits for another before the end of a chunk.  On a CPU a device runs its replicates one after the other, the
same program of one replicate whatever their number, so that the draws do not depend on how many cores there are; this
is as fast as all together under vmap, where every chain of NUTS waits for the longest tree.  On an accelerator those
of a device run together, since one alone leaves it idle.  R need not be a multiple of the number of devices: copies of
the last replicate fill up, and are dropped.

JAX sees one device a CPU unless `use_cores` was called before it started: two threads over one device do not run side
by side, two devices do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from ssmscan.arguments import require_integer
from ssmscan.model.protocols import PyTree
from ssmscan.particles.loop import on_cpu

AXIS = "replicates"

FORCED = "--xla_force_host_platform_device_count"
"""The flag of XLA that does the same."""

Advance = Callable[[PyTree, PyTree, jax.Array], tuple[PyTree, PyTree]]
"""(operand, state, count) -> (state, outputs); leaves of outputs have the steps in front, then the replicates."""


def use_cores(num_cores: int | None = None) -> int:
    """Let JAX see several cores of the CPU as devices, over which engines spread their chains; the draws do not change.

    Call it first, before anything runs on JAX; the time of one chain stays, that of several falls.

    Args:
        num_cores: how many, all that this process may use by default.

    Returns:
        The number.

    Raises:
        RuntimeError: if JAX has started with another number, which nothing can change.
        TypeError, ValueError: if num_cores is not a whole number of at least 1.
    """
    wanted = available_cores() if num_cores is None else require_integer("num_cores", num_cores, at_least=1)
    flags = os.environ.get("XLA_FLAGS", "").split()
    # JAX refuses to be told twice; what it has read already is of no effect any more.
    os.environ["XLA_FLAGS"] = " ".join(flag for flag in flags if not flag.startswith(FORCED))
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError:
        if (found := len(jax.local_devices(backend="cpu"))) != wanted:
            raise RuntimeError(
                f"use_cores({wanted}) came too late: JAX has started with {found} CPU device{'s' * (found > 1)}, which "
                "stay. Call it right after the imports, before the first array is made; in a notebook, after a restart."
            ) from None
    return wanted


def available_cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity
        return os.cpu_count() or 1


def idle_cores(num_replicates: int) -> tuple[str, ...]:
    """Return a sentence on cores that stay idle while replicates wait, none where there are none."""
    cores = available_cores()
    if not on_cpu() or len(jax.local_devices()) > 1 or min(cores, num_replicates) < 2:
        return ()
    return (f"one of {cores} cores was used: ssmscan.use_cores(), called before JAX starts, uses all",)


def mesh_for(num_replicates: int) -> Mesh:
    """Return the devices that so many replicates are spread over."""
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    devices = jax.local_devices() if chosen is None else [chosen]
    if isinstance(chosen, str):
        devices = jax.local_devices(backend=chosen)[:1]
    return Mesh(np.array(devices[: max(min(len(devices), num_replicates), 1)]), (AXIS,))


def spread(advance: Advance, state: PyTree, mesh: Mesh) -> Advance:
    """Return a function that advances all replicates of states like this one over the devices of a mesh."""
    num_replicates, num_devices = len(jax.tree.leaves(state)[0]), mesh.devices.size
    missing = -num_replicates % num_devices
    one_by_one = on_cpu()

    def own(operand: PyTree, state: PyTree, count: jax.Array) -> tuple[PyTree, PyTree]:
        if not one_by_one or len(jax.tree.leaves(state)[0]) == 1:
            return advance(operand, state, count)
        alone = jax.tree.map(lambda leaf: leaf[:, None], state)
        after, outputs = jax.lax.map(lambda one: advance(operand, one, count), alone)
        return jax.tree.map(lambda leaf: leaf[:, 0], after), jax.tree.map(_steps_in_front, outputs)

    def all_of_them(operand: PyTree, state: PyTree, count: jax.Array) -> tuple[PyTree, PyTree]:
        if num_devices == 1:
            return own(operand, state, count)
        front, behind = PartitionSpec(AXIS), PartitionSpec(None, AXIS)
        placed = jax.shard_map(
            own,
            mesh=mesh,
            in_specs=(PartitionSpec(), front, PartitionSpec()),
            out_specs=(front, behind),
            check_vma=False,
        )
        if not missing:
            return placed(operand, state, count)
        after, outputs = placed(operand, jax.tree.map(partial(_filled, missing=missing), state), count)
        return (
            jax.tree.map(lambda leaf: leaf[:num_replicates], after),
            jax.tree.map(lambda leaf: leaf[:, :num_replicates], outputs),
        )

    return all_of_them


def side_by_side(function: Callable[[PyTree], PyTree], replicates: PyTree) -> PyTree:
    """Apply a function of one replicate to all: to a single one as it is, which compiles several times faster."""
    if len(jax.tree.leaves(replicates)[0]) > 1:
        return jax.vmap(function)(replicates)
    return jax.tree.map(lambda leaf: leaf[None], function(jax.tree.map(lambda leaf: leaf[0], replicates)))


def shapes_of(step: Callable[[PyTree, PyTree], PyTree], operand: PyTree, state: PyTree) -> tuple[PyTree, int]:
    """Return the shapes of a step as a device takes it, and how many of those a step of all replicates is.

    On a CPU they are of one replicate.
    """
    count = jax.tree.leaves(state)[0].shape[0]
    if on_cpu():
        state = jax.eval_shape(lambda state: jax.tree.map(lambda leaf: leaf[:1], state), state)
    return jax.eval_shape(jax.jit(step), operand, state), count if on_cpu() else 1


def _filled(leaf: jax.Array, missing: int) -> jax.Array:
    return jnp.concatenate([leaf, *[leaf[-1:]] * missing])


def _steps_in_front(leaf: jax.Array) -> jax.Array:
    """(replicates, steps, 1, ...) -> (steps, replicates, ...)."""
    return jnp.moveaxis(leaf[:, :, 0], 0, 1)

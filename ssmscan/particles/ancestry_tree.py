r"""The tree of ancestral paths, pruned as the filter goes.

Of T clouds of N particles only the ancestors of the last cloud matter to its paths, and these are few: paths meet
going back, after O(N) steps all in one trunk, so that the expected number of nodes is T + O(N log N) (Jacob, Murray &
Rubenthaler 2015, "Path storage in the particle filter", Statistics and Computing 25, 487-496, theorem 1).

The paper prunes at each step, dead branch by dead branch.  A branch is a chain, no chain can be followed in parallel,
and the longest of a step has a length of the order of N.  Here dead nodes stay until a *block* of G steps is
complete and all are pruned at once, as a copying garbage collector does: O(G N) more memory, and no node is
touched by a step that does not prune.  In the arrays of M = L + G N nodes,

    [ survivors, the oldest first, up to L | block: step 0 | step 1 | ... | step G - 1 ]

the particles of the last cloud are always the N nodes before the place where the next cloud goes.  To prune:

1. The block, from its last step to its first: a particle is alive if a child is.  All of the last step are.
2. The survivors: all of their leaves are of one step, so k rounds of

       alive[jump[i]] |= alive[i],    jump[i] = jump[jump[i]],    jump = parent at first

   reach the ancestors up to 2^k - 1 steps above them; a round that finds none is the last.
3. What is alive moves to the end of the survivors' room, in order.

Pruning is due at steps G, 2 G, ... whatever the weights, so that filters under vmap prune together.  Where L is too
little the tree has lost nodes for good: it says at which step, and is of no use from there on.

G N is twice room N log N, so that what a pass over all nodes costs is spread over many steps.  With 1,000 particles
that is about 40 ns a particle and step, as much as writing and paging in the whole history at a few thousand steps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmscan.particles.clouds import Cloud, Tree
from ssmscan.particles.offspring import cumulate_rows

Values = dict[str, Array]

_ROW = 32


class Sizes(NamedTuple):
    """Nodes there is room for: L survivors, and G steps of N."""

    survivors: int
    block: int


class GrowingTree(NamedTuple):
    """A tree that grows.

    Attributes:
        initial: values of the start by site, N in front; its shape tells N.
        log_first: (N,) log weights of the start.
        mark: (L,) int32, of which only the length L is read: a size that jit sees as a constant.
        parents, values, lost: as in `Tree`.
    """

    initial: Values
    log_first: Array
    mark: Array
    parents: Array
    values: Values
    lost: Array

    @property
    def sizes(self) -> tuple[int, int, int]:
        """N, L, G."""
        n, survivors = len(self.log_first), len(self.mark)
        return n, survivors, (len(self.parents) - survivors) // n


def sizes(room: float, n: int, num_steps: int) -> Sizes:
    """Return L = T + room N log N and G = 2 room log N; all T steps are one block where that takes no more.

    Args:
        room: in units of N log N.
        n: N.
        num_steps: T.

    Raises:
        ValueError: nodes are more than there are int32 to number them.
    """
    forest = max(math.ceil(room * n * math.log(n)), 2 * n)
    pruned, whole = Sizes(num_steps + forest, 2 * forest // n), Sizes(n, num_steps + 1)
    chosen = min(pruned, whole, key=lambda sizes: sizes.survivors + sizes.block * n)
    if (total := chosen.survivors + chosen.block * n) > np.iinfo(np.int32).max:
        raise ValueError(
            f"Ancestry(room={room}) of {num_steps} steps and {n} particles makes room for {total} nodes, more than the "
            f"{np.iinfo(np.int32).max} that can be numbered. Use fewer particles, a smaller room, or LastSteps(k)."
        )
    return chosen


def begin(first: Cloud, values: Values, room: Sizes) -> GrowingTree:
    """Build the tree of the start, whose particles are the roots."""
    n = len(first.log_weights)
    total = room.survivors + room.block * n
    parents = jnp.full(total, -1, np.int32)
    roots = np.int32(-1) - lax.iota(np.int32, n)
    return GrowingTree(
        initial=first.values,
        log_first=lax.stop_gradient(first.log_weights),
        mark=jnp.zeros(room.survivors, np.int32),
        parents=parents.at[room.survivors - n : room.survivors].set(roots),
        values=jax.tree.map(lambda leaf: jnp.zeros((total, *leaf.shape[1:]), leaf.dtype), values),
        lost=jnp.full((), -1, np.int32),
    )


def add(tree: GrowingTree, step: Array, ancestors: Array, values: Values) -> GrowingTree:
    """Add the particles of a step; prune when it is the last of a block.

    Args:
        tree: the tree so far.
        step: () int32, number of the step.
        ancestors: (N,) parents in the cloud before.
        values: by site, N in front.
    """
    n, survivors, block = tree.sizes
    place = np.int32(survivors) + (step % np.int32(block)) * np.int32(n)
    grown = tree._replace(
        parents=lax.dynamic_update_slice_in_dim(tree.parents, ancestors + (place - np.int32(n)), place, 0),
        values=jax.tree.map(
            lambda nodes, new: lax.dynamic_update_slice_in_dim(nodes, lax.stop_gradient(new), place, 0),
            tree.values,
            values,
        ),
    )
    if survivors == n:  # one block for all steps, unless the series has become longer since
        return grown._replace(lost=jnp.where((step >= block) & (tree.lost < 0), step, tree.lost))
    due = (step + np.int32(1)) % np.int32(block) == 0

    def once(loop: tuple[Array, GrowingTree]) -> tuple[Array, GrowingTree]:
        return jnp.zeros_like(due), prune(loop[1], step)

    # A loop of at most one pass in place of a conditional: XLA updates what a loop carries where it lies.
    return lax.while_loop(lambda loop: loop[0], once, (due, grown))[1]


def prune(tree: GrowingTree, step: Array) -> GrowingTree:
    """Remove the nodes of a full block, and of the survivors before it, that are not ancestors of the last cloud."""
    _, survivors, _ = tree.sizes
    alive = alive_nodes(tree)
    counted = _cumulate(alive)
    # The last of those alive goes to the end of the room.
    new = counted + (np.int32(survivors - 1) - counted[-1])
    target = jnp.where((alive > 0) & (new >= 0), new, survivors)
    source = jnp.zeros(survivors, np.int32).at[target].set(lax.iota(np.int32, len(alive)), mode="drop")
    parents = tree.parents[source]
    parents = jnp.where(parents < 0, parents, new[jnp.maximum(parents, 0)])
    return tree._replace(
        parents=tree.parents.at[:survivors].set(parents),
        values=jax.tree.map(lambda leaf: leaf.at[:survivors].set(leaf[source]), tree.values),
        lost=jnp.where((counted[-1] > survivors) & (tree.lost < 0), step, tree.lost),
    )


def alive_nodes(tree: GrowingTree) -> Array:
    """Return 1 for nodes that are in the last step of a full block or its ancestors, else 0; (M,) int32."""
    n, survivors, block = tree.sizes
    before = np.int32(survivors - n) + np.int32(n) * np.arange(block, dtype=np.int32)
    ancestors = tree.parents[survivors:].reshape(block, n) - before[:, None]

    def back(alive: Array, ancestors: Array) -> tuple[Array, Array]:
        return jnp.zeros(n, np.int32).at[ancestors].max(alive), alive

    last, in_block = lax.scan(back, jnp.ones(n, np.int32), ancestors, reverse=True)
    above = tree.parents[:survivors]

    def reach(loop: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        alive, jump, _ = loop
        found = alive.at[jump].max(alive)
        return found, jump[jump], jnp.any(found != alive)

    # A root is its own parent.
    first = jnp.zeros(survivors, np.int32).at[survivors - n :].set(last)
    jump = jnp.where(above < 0, lax.iota(np.int32, survivors), above)
    older, _, _ = lax.while_loop(lambda loop: loop[2], reach, (first, jump, jnp.ones((), bool)))
    return jnp.concatenate([older, in_block.reshape(-1)])


def _cumulate(alive: Array) -> Array:
    """Count up to and with each node, int32; inside rows by a matrix product, ten times as fast as along the whole."""
    local = cumulate_rows(alive.astype(np.float32), _ROW).astype(np.int32)
    before = jnp.cumsum(local[:, -1]) - local[:, -1]
    return (local + before[:, None]).reshape(-1)[: len(alive)]


def finish(tree: GrowingTree, log_weights: Array, num_steps: int) -> Tree:
    """Return the paths after num_steps steps, with the weights of the last cloud."""
    n, survivors, block = tree.sizes
    last = survivors - n + num_steps % block * n
    return Tree(
        initial=tree.initial,
        parents=tree.parents,
        values=tree.values,
        log_weights=log_weights,
        last=jnp.asarray(last, np.int32),
        lost=tree.lost,
        num_steps=num_steps,
    )

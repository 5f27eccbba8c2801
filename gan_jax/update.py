"""One update of one player: its gradient, over parts of a batch and devices, and its optimizer."""

import contextlib
import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from gan_jax.keys import for_step
from gan_jax.objectives import Objective
from gan_jax.optimizers import root
from gan_jax.types import Array, AxisName, Batch, Metrics, PlayerState, PyTree


def update(
    objective: Objective,
    tx: optax.GradientTransformation,
    player: PlayerState,
    opponent: PlayerState,
    batch: Batch,
    key: Array,
    *,
    parts: int = 1,
    axis_name: AxisName | None = None,
) -> tuple[PlayerState, Metrics, Array]:
    """One step of a player down its objective.

    Args:
      objective: of the player.
      tx: its optimizer.
      player, opponent: their states.
      batch: [B, ...], on this shard.
      key: of the role; the player's step is folded in.
      parts: the gradient is accumulated over so many parts of the batch.
      axis_name: the mapped axis the batch is split over, if it is.

    Returns:
      The player, its metrics, its gradient's norm.

    Raises:
      ValueError: `parts` do not divide the batch.
    """
    key = jax.random.fold_in(key, player.step)
    local, opponent = _varying((player, opponent), axis_name)
    if parts == 1:
        made = jax.grad(objective, has_aux=True)(
            local.params, local, opponent, batch, for_step(key)
        )
    else:
        made = _accumulate(objective, local, opponent, _divide(batch, parts), key, axis_name)
    gradients, (metrics, model_state, memory) = _mean(made, axis_name)
    updates, opt_state = tx.update(gradients, player.opt_state, player.params)
    updated = PlayerState(
        step=player.step + 1,
        params=optax.apply_updates(player.params, updates),
        model_state=model_state,
        opt_state=opt_state,
        memory=memory,
    )
    return updated, metrics, _norm(gradients)


def _norm(tree: PyTree) -> Array:
    """The Euclidean norm of all leaves together; its derivatives are finite at 0, too.

    It is the norm of the columns' norms: without YNNPACK, XLA's compiler for CPUs adds columns up
    many at a time, and all numbers of a matrix one after the other. The root keeps the sums apart.
    A kernel's further axes are rows: over its first axis alone YNNPACK adds it up far more slowly.
    """
    leaves = [jnp.atleast_1d(leaf) for leaf in jax.tree.leaves(tree)]
    matrices = [leaf.reshape(math.prod(leaf.shape[:-1]), leaf.shape[-1]) for leaf in leaves]
    columns = [root(jnp.sum(jnp.square(matrix), axis=0)) for matrix in matrices]
    return root(optax.tree.norm(columns, squared=True))


def _divide(batch: Batch, parts: int) -> Batch:
    """[B, ...] -> [parts, B / parts, ...]: every `parts`-th example, so that a batch that is
    spread over devices stays where it is."""

    def divide(leaf: Array) -> Array:
        if leaf.shape[0] % parts:
            raise ValueError(
                f"a batch of {leaf.shape[0]} cannot be taken in {parts} equal parts: choose a "
                "number that divides it"
            )
        return leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(divide, batch)


def _accumulate(
    objective: Objective,
    player: PlayerState,
    opponent: PlayerState,
    batches: Batch,
    key: Array,
    axis_name: AxisName | None,
) -> tuple[PyTree, tuple[Metrics, PyTree, PyTree]]:
    """The objective's gradients and what comes with them, over the parts, one after the other.

    A part starts from the last one's model state; but from the memory of before the update, so
    that the mean of what the parts return is what the whole batch would have.
    """
    parts = batches.x.shape[0]

    def add(carry: tuple[PyTree, PyTree], taken: tuple[Array, Batch]) -> tuple[PyTree, PyTree]:
        total, model_state = carry
        number, batch = taken
        gradients, (metrics, model_state, memory) = jax.grad(objective, has_aux=True)(
            player.params,
            dataclasses.replace(player, model_state=model_state),
            opponent,
            batch,
            for_step(key, number, parts),
        )
        return (jax.tree.map(jnp.add, total, gradients), model_state), (metrics, memory)

    zeros = _varying(jax.tree.map(jnp.zeros_like, player.params), axis_name)
    (total, model_state), each = jax.lax.scan(
        add, (zeros, player.model_state), (jnp.arange(parts), batches)
    )
    gradients = jax.tree.map(lambda leaf: leaf / parts, total)
    metrics, memory = jax.tree.map(
        lambda leaf: (jnp.mean if _inexact(leaf) else jnp.max)(leaf, axis=0), each
    )
    return gradients, (metrics, model_state, memory)


def _varying(tree: PyTree, axis_name: AxisName | None) -> PyTree:
    """Marks what every shard holds alike as each shard's own, so that its gradient is too.

    Inside `shard_map(check_vma=True)` the gradient of a replicated array is already summed over
    the shards, and averaging it would count each shard once too often, without a word.
    """
    if axis_name is None:
        return tree

    def cast(leaf: Array) -> Array:
        for name in (axis_name,) if isinstance(axis_name, str) else axis_name:
            # A ValueError for what varies already; an assertion of JAX's own for an axis of vmap,
            # which needs no mark.
            with contextlib.suppress(ValueError, AssertionError):
                leaf = jax.lax.pcast(leaf, name, to="varying")
        return leaf

    return jax.tree.map(cast, tree)


def _mean(tree: PyTree, axis_name: AxisName | None) -> PyTree:
    """The mean over the mapped axis of every leaf; counters, equal everywhere, stay integers."""
    if axis_name is None:
        return tree

    def mean(leaf: Array) -> Array:
        return (jax.lax.pmean if _inexact(leaf) else jax.lax.pmax)(leaf, axis_name)

    return jax.tree.map(mean, tree)


def _inexact(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)

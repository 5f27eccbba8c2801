"""One update of one player: the gradient over microbatches and devices, then the optimizer."""

import contextlib
import dataclasses
import inspect
import math

import jax
import jax.numpy as jnp
import optax

from gan_jax import batches
from gan_jax.algorithms.objectives import Aux, Objective
from gan_jax.optimizers import root
from gan_jax.parallel import has_explicit_axes
from gan_jax.random import for_step
from gan_jax.trees import cast_like, first_difference, is_inexact, widened
from gan_jax.types import Array, Batch, Metrics, PlayerState, PyTree


def update(
    objective: Objective,
    tx: optax.GradientTransformation,
    player: PlayerState,
    opponent: PlayerState,
    batch: Batch,
    key: Array,
    *,
    role: str = "player",
    parts: int = 1,
) -> tuple[PlayerState, Metrics, Array]:
    """Updates a player once along its objective.

    If the gradient is not finite, `model_state` and `memory` do not change, so one bad batch cannot
    spoil running statistics permanently. The optimizer decides what happens to the parameters:
    `optax.apply_if_finite` keeps them, and other optimizers make them NaN. A gradient whose norm
    overflows (above 1e19 in float32) counts as not finite.

    Args:
      objective: the player's loss.
      tx: the player's optimizer. It also receives two arguments that some optax optimizers need:
        `value`, the loss averaged over microbatches and devices, and `grad`, the gradient.
      player, opponent: the states of the two players.
      batch: the examples [B, ...] on this shard. If `batches.axis()` is not None, the batch is
        split over this axis.
      key: the key of the player's role. The number of the player's step is folded into this key.
      role: the player's name in error messages.
      parts: number of microbatches. The sum of their gradients is stored in at least float32.

    Returns:
      The player's new state, its metrics and its gradient norm.

    Raises:
      ValueError: `parts` does not divide the batch, `tx` did not create the player's `opt_state`,
        or `tx` needs an argument that a step does not pass to it, such as `value_fn`.
    """
    _check_opt_state(tx, player, role)
    key = jax.random.fold_in(key, player.step)
    local, opponent = _varying((player, opponent))
    if parts == 1:
        made = jax.value_and_grad(objective, has_aux=True)(
            local.params, local, opponent, batch, for_step(key)
        )
    else:
        made = _accumulate(objective, local, opponent, _divide(batch, parts), key)
    (loss, (metrics, model_state, memory)), gradients = _mean(made)
    norm = _norm(gradients)
    updates, opt_state = _optimize(tx, gradients, player, loss, role)
    model_state, memory = _only_if(
        jnp.isfinite(norm), (model_state, memory), (player.model_state, player.memory)
    )
    updated = PlayerState(
        step=player.step + 1,
        params=optax.apply_updates(player.params, updates),
        model_state=model_state,
        opt_state=opt_state,
        memory=memory,
    )
    return updated, metrics, norm


def _check_opt_state(tx: optax.GradientTransformation, player: PlayerState, role: str) -> None:
    """Raises ValueError unless the state has the structure of the optimizer's initial state."""
    if isinstance(player.opt_state, optax.LookaheadState):
        raise ValueError(
            f"the {role}'s tx is optax.lookahead, which needs a pair of parameters: use "
            "gan_jax.optimizers.lookahead, which keeps the slow parameters in its state"
        )
    expected = jax.eval_shape(tx.init, player.params)
    if difference := first_difference(player.opt_state, expected):
        raise ValueError(
            f"the {role}'s opt_state does not belong to this tx: opt_state{difference}. Give "
            f"make_{role}_step the tx given to init"
        )


def _optimize(
    tx: optax.GradientTransformation,
    gradients: PyTree,
    player: PlayerState,
    loss: Array,
    role: str,
) -> tuple[PyTree, PyTree]:
    """Returns the optimizer's updates and its new state."""
    given = {"value": loss, "grad": gradients}
    accepted = inspect.signature(tx.update).parameters.values()
    if all(parameter.kind != parameter.VAR_KEYWORD for parameter in accepted):
        names = {parameter.name for parameter in accepted}
        given = {name: value for name, value in given.items() if name in names}
    try:
        updates, opt_state = tx.update(gradients, player.opt_state, player.params, **given)
    except TypeError as error:
        if "required keyword-only argument" not in str(error):
            raise
        raise ValueError(
            f"the {role}'s tx needs more than a step gives it ({error}): a step gives the "
            "gradients, the parameters, value and grad. Choose an optimizer that does not "
            "evaluate the loss at other points (a line search does)"
        ) from error
    except Exception as error:
        shapes = sorted({jnp.shape(leaf) for leaf in jax.tree.leaves(player.params)})
        error.add_note(f"raised by the {role}'s tx, for parameters of shapes {shapes}")
        raise
    if difference := first_difference(updates, player.params):
        raise ValueError(
            f"the {role}'s tx returns updates with another structure than the parameters: "
            f"updates{difference}. Choose an optimizer, not a transformation that only measures"
        )
    return updates, opt_state


def _only_if(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    """Returns the new tree if the condition [] is true, and the old one otherwise."""
    # `lax.cond` would make a GPU wait for the host to read the condition in each update.
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, cast_like(old, new))


def _norm(tree: PyTree) -> Array:
    """Returns the Euclidean norm of all leaves together. Its derivatives are finite even at 0.

    The function computes the norm of each column of each leaf, and then the norm of these norms. On
    a CPU without the kernel library YNNPACK, XLA sums columns in parallel but sums a whole matrix
    sequentially. The square roots of the columns' norms keep the compiler from merging the two
    sums. All axes of a kernel except the last are reshaped into rows, because YNNPACK is much
    slower at summing over the first axis alone. A leaf on a mesh with explicit axes is not
    reshaped, because JAX does not merge axes that are split over devices.
    """

    def columns(leaf: Array) -> Array:
        if not has_explicit_axes(leaf):
            leaf = leaf.reshape(math.prod(leaf.shape[:-1]), leaf.shape[-1])
        return root(jnp.sum(jnp.square(leaf), axis=tuple(range(leaf.ndim - 1))))

    leaves = [jnp.atleast_1d(leaf) for leaf in jax.tree.leaves(widened(tree))]
    return root(optax.tree.norm([columns(leaf) for leaf in leaves], squared=True))


def _divide(batch: Batch, parts: int) -> Batch:
    """Splits [B, ...] into [parts, B / parts, ...]. A microbatch takes every `parts`-th example.

    A batch that is spread over devices can therefore stay where it is.
    """

    def divide(leaf: Array) -> Array:
        if leaf.shape[0] % parts:
            raise ValueError(
                f"a batch of {leaf.shape[0]} cannot be split into {parts} equal microbatches: "
                "choose a number that divides it"
            )
        return leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(divide, batch)


def _accumulate(
    objective: Objective,
    player: PlayerState,
    opponent: PlayerState,
    microbatches: Batch,
    key: Array,
) -> tuple[tuple[Array, Aux], PyTree]:
    """Returns the loss, its auxiliary values and the gradients, averaged over sequential
    microbatches.

    Each microbatch starts from the model state after the previous microbatch. All microbatches
    receive the memory from before the update. The mean of the new memories then equals the new
    memory of an update on the whole batch.
    """
    parts = jax.tree.leaves(microbatches)[0].shape[0]

    def add(carry: tuple[PyTree, PyTree], taken: tuple[Array, Batch]) -> tuple[PyTree, PyTree]:
        total, model_state = carry
        number, batch = taken
        (loss, (metrics, model_state, memory)), gradients = jax.value_and_grad(
            objective, has_aux=True
        )(
            player.params,
            dataclasses.replace(player, model_state=model_state),
            opponent,
            batch,
            for_step(key, number, parts),
        )
        total = jax.tree.map(jnp.add, total, widened(gradients))
        return (total, model_state), (loss, metrics, memory)

    zeros = _varying(jax.tree.map(jnp.zeros_like, widened(player.params)))
    with batches.in_parts(parts):
        (total, model_state), each = jax.lax.scan(
            add, (zeros, player.model_state), (jnp.arange(parts), microbatches)
        )
    gradients = cast_like(jax.tree.map(lambda leaf: leaf / parts, total), player.params)
    loss, metrics, memory = jax.tree.map(
        lambda leaf: (jnp.mean if is_inexact(leaf) else jnp.max)(leaf, axis=0), each
    )
    return (loss, Aux(metrics, model_state, memory)), gradients


def _varying(tree: PyTree) -> PyTree:
    """Marks replicated arrays as varying over the shards, so that their gradients vary too.

    Inside `shard_map(check_vma=True)` the gradient of a replicated array is already summed over the
    shards. That sum is the same on every shard, so the later average over the shards would leave it
    unchanged. The gradient would then be a sum instead of an average: too large, and without any
    error.
    """
    axis_name = batches.axis()
    if axis_name is None:
        return tree

    def cast(leaf: Array) -> Array:
        for name in (axis_name,) if isinstance(axis_name, str) else axis_name:
            # JAX raises ValueError for an array that is already marked. It raises AssertionError
            # for an axis of vmap, which needs no mark.
            with contextlib.suppress(ValueError, AssertionError):
                leaf = jax.lax.pcast(leaf, name, to="varying")
        return leaf

    return jax.tree.map(cast, tree)


def _mean(tree: PyTree) -> PyTree:
    """Returns the mean of every leaf over the mapped axis.

    Counters are equal on all shards, so they are returned unchanged.
    """
    axis_name = batches.axis()
    if axis_name is None:
        return tree

    def mean(leaf: Array) -> Array:
        if not is_inexact(leaf):
            return jax.lax.pmax(leaf, axis_name)
        return jax.lax.pmean(widened(leaf), axis_name).astype(leaf.dtype)

    return jax.tree.map(mean, tree)

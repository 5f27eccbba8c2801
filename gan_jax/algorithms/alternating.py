"""The update steps: pure functions `(TrainState, Batch) -> (TrainState, Metrics)`.

Unjitted and free of side effects, so that the caller composes: `jax.jit(step)`,
`jax.lax.scan(step, state, batches)`, `jax.vmap(step)` for an ensemble, or the wrappers of
`gan_jax.parallel` for several devices.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gan_jax.algorithms.objectives import (
    discriminator_objective,
    draw_latents,
    first_memory,
    generator_objective,
)
from gan_jax.algorithms.player import (
    EMA_DECAY,
    Decay,
    check_at_least_one,
    discriminator_step_of,
    generator_step_of,
)
from gan_jax.buffers import unshared
from gan_jax.contract import check_batch
from gan_jax.random import threefry
from gan_jax.trees import cast_like, first_difference, widened
from gan_jax.types import (
    GAN,
    AdversarialLoss,
    Array,
    AxisName,
    Batch,
    Metrics,
    Network,
    PlayerState,
    PyTree,
    StepFn,
    TrainState,
    WeightedPenalty,
)


def init(
    gan: GAN,
    generator_tx: optax.GradientTransformation,
    discriminator_tx: optax.GradientTransformation,
    key: Array,
    batch: Batch,
    *,
    penalties: Sequence[WeightedPenalty] = (),
) -> TrainState:
    """The state before the first step.

    Args:
      gan: the networks and the prior.
      generator_tx, discriminator_tx: the optimizers the steps will be made with.
      key: a single key, `jax.random.key(seed)`. The state's key is always of JAX's default
        implementation, threefry2x32: see `keys.threefry`.
      batch: [B, ...], read for its shapes and types only.
      penalties: those of the discriminator's steps, for what they are to remember.

    Raises:
      ValueError: the generator's samples have another shape than the data.
      AssertionError: the data are not floating, or the number of labels is not B.
    """
    check_batch(batch)
    key_state, key_z, key_generator, key_discriminator = jax.random.split(threefry(key), 4)
    z = draw_latents(gan, key_z, batch.x.shape[0])
    generator = _init_player(gan.generator, generator_tx, key_generator, z, batch.label)
    made, _ = jax.eval_shape(
        lambda player: gan.generator.apply(
            player.params, player.model_state, z, batch.label, train=False, key=key_z
        ),
        generator,
    )
    if made.shape != batch.x.shape:
        raise ValueError(
            f"the generator makes samples of shape {made.shape[1:]}, the data have shape "
            f"{batch.x.shape[1:]}: build the GAN for the shape of the data"
        )
    discriminator = _init_player(
        gan.discriminator, discriminator_tx, key_discriminator, batch.x, batch.label
    )
    state = TrainState(
        key=key_state,
        generator=generator,
        discriminator=dataclasses.replace(discriminator, memory=first_memory(penalties)),
        ema_params=widened(generator.params),
    )
    return unshared(state, apart_from=(key, batch))


def _init_player(
    network: Network,
    tx: optax.GradientTransformation,
    key: Array,
    x: Array,
    label: Array | None,
) -> PlayerState:
    made = network.init(key, x, label)
    # An update returns no weak types, so a state with any would have the step compiled twice.
    params, model_state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), made)
    return PlayerState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=tx.init(params),
    )


def warm_start(
    state: TrainState,
    *,
    generator: PyTree | None = None,
    discriminator: PyTree | None = None,
    ema: PyTree | None = None,
) -> TrainState:
    """The state with copies of the parameters given, such as those of another run.

    Optimizer states and step counts stay as they are: after `init` they are fresh. An optimizer
    whose state holds parameters, such as `optimizers.lookahead`, must be initialised again:
    `player.replace(opt_state=tx.init(player.params))`.

    Args:
      state: from `init`, or from a run in progress.
      generator, discriminator: the players' parameters, arrays of JAX or NumPy, structured and
        shaped as in the state. They are cast to its types.
      ema: the average of G's parameters. None: `generator`, if that is given.

    Raises:
      ValueError: the parameters have another structure or shape; the message names the first path
        that differs.
    """

    def player(own: PlayerState, params: PyTree | None, name: str) -> PlayerState:
        given = own.params if params is None else _copy_like(params, own.params, name)
        return dataclasses.replace(own, params=given)

    ema = generator if ema is None else ema
    warm = dataclasses.replace(
        state,
        generator=player(state.generator, generator, "generator"),
        discriminator=player(state.discriminator, discriminator, "discriminator"),
        ema_params=state.ema_params if ema is None else _copy_like(ema, state.ema_params, "ema"),
    )
    return unshared(warm)


def _copy_like(params: PyTree, like: PyTree, name: str) -> PyTree:
    remedy = "give parameters of the same structure and shapes as the state's"
    if difference := first_difference(params, like):
        raise ValueError(f"{name}{difference}: {remedy}")

    def copy(path: Any, leaf: Array, own: Array) -> Array:
        if jnp.shape(leaf) != own.shape:
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, not {own.shape}: "
                f"{remedy}"
            )
        return jnp.array(leaf, own.dtype)

    return jax.tree.map_with_path(copy, params, like)


def make_discriminator_step(
    gan: GAN,
    loss: AdversarialLoss,
    tx: optax.GradientTransformation,
    *,
    penalties: Sequence[WeightedPenalty] = (),
    accumulate: int = 1,
    axis_name: AxisName | None = None,
) -> StepFn:
    """One update of D on a real batch [B, ...] and B fresh fakes, G frozen.

    Args:
      gan: the networks and the prior.
      loss: the adversarial loss.
      tx: D's optimizer, the one given to `init`.
      penalties: pairs of a penalty and its weight: a number (traced, if need be), or a schedule, a
        function of the number of D's updates made before this one, such as optax's or
        `penalties.lazy`. Where a schedule is 0 the penalty is not computed: its metric is 0, and
        it remembers nothing new.
      accumulate: in how many parts the batch is taken, one after the other, their gradients
        averaged: the memory of a part, the update of the whole. All draws are those of the whole
        batch. What compares examples sees its part only: batch norm, a loss of batch means.
      axis_name: the mapped axis (of `pmap` or `shard_map`) the batch is split over; gradients,
        metrics and model state are averaged over it. B is then the number on one device.

    Returns:
      A pure step. Metrics: those of `objectives.discriminator_objective` and
      `discriminator_gradient_norm`, all measured before the update.

    Raises:
      ValueError: two penalties have one name; `accumulate` < 1; (from the step) `accumulate` does
        not divide the batch, the state lacks the memory a penalty needs, `tx` is not the one given
        to `init`, or `tx` needs arguments that a step does not have.
    """
    objective = discriminator_objective(gan, loss, penalties, axis_name)
    return discriminator_step_of(objective, tx, accumulate=accumulate, axis_name=axis_name)


def make_generator_step(
    gan: GAN,
    loss: AdversarialLoss,
    tx: optax.GradientTransformation,
    *,
    ema_decay: Decay = EMA_DECAY,
    accumulate: int = 1,
    axis_name: AxisName | None = None,
) -> StepFn:
    """One update of G on B fresh fakes, D frozen, then of the moving average of its weights.

    Args:
      gan, loss, accumulate, axis_name: as for `make_discriminator_step`.
      tx: G's optimizer, the one given to `init`.
      ema_decay: in [0, 1): ema <- ema_decay * ema + (1 - ema_decay) * params after each update;
        or a schedule, a function of the number of updates made before this one. The default rises
        to .999: see `players.rising_decay`. The average is kept in float32 at least.

    Returns:
      A pure step. It reads the real batch [B, ...] for its size, its labels and, if the loss is
      relativistic, its logits. Metrics: `generator_loss`, `generator_gradient_norm`.

    Raises:
      ValueError: `accumulate` < 1; `ema_decay` is a number outside of [0, 1); (from the step)
        `accumulate` does not divide the batch, `tx` is not the one given to `init`, or `tx` needs
        arguments that a step does not have.
    """
    objective = generator_objective(gan, loss, axis_name)
    return generator_step_of(
        objective, tx, ema_decay=ema_decay, accumulate=accumulate, axis_name=axis_name
    )


def make_train_step(
    discriminator_step: StepFn, generator_step: StepFn, *, n_critic: int = 1
) -> StepFn:
    """Algorithm 1 (Goodfellow et al. 2014): `n_critic` updates of D, then one of G.

    Args:
      discriminator_step, generator_step: any steps on a batch [B, ...].
      n_critic: the number of D's updates, the k of Algorithm 1.

    Returns:
      A pure step on a batch [n_critic, B, ...], one real minibatch for each update of D; G's
      update is given the last. Metrics: of D's last update and of G's.

    Raises:
      ValueError: `n_critic` < 1, or (from the step) another leading dimension than `n_critic`.
    """
    check_at_least_one(n_critic=n_critic)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if batch.x.shape[0] != n_critic:
            raise ValueError(
                f"the batch has shape {batch.x.shape}, but n_critic = {n_critic}: stack one "
                f"minibatch for each update of D, shape [{n_critic}, B, ...]"
            )
        state, metrics = jax.lax.scan(discriminator_step, state, batch)
        last = jax.tree.map(lambda leaf: leaf[-1], (batch, metrics))
        state, generator_metrics = generator_step(state, last[0])
        return state, {**last[1], **generator_metrics}

    train_step.batch_axis = 1  # type: ignore[attr-defined]  # for the wrappers of `parallel`
    return train_step


def sample(
    gan: GAN,
    state: TrainState,
    key: Array,
    num: int,
    label: PyTree | None = None,
    *,
    ema: bool = True,
) -> Array:
    """x [num, ...] = G(z), z ~ p_z, with G in evaluation mode.

    Args:
      gan: the networks and the prior.
      state: of which only the generator is read.
      key: a single key; example i depends on it and on i, not on `num`.
      num: the number of samples, at least 1.
      label: [num] integers for a conditional generator, or a tree of arrays [num, ...].
      ema: whether to use the moving average of the parameters or those of the last update.

    Raises:
      ValueError: `num` < 1; the number of labels is not `num`.
    """
    check_at_least_one(num=num)
    for leaf in jax.tree.leaves(label):
        if jnp.shape(leaf)[:1] != (num,):
            raise ValueError(
                f"num = {num}, but label has shape {jnp.shape(leaf)}: give one label for each "
                f"sample, shape ({num},)"
            )
    params = state.generator.params
    if ema:
        params = cast_like(state.ema_params, params)
    key_z, key_generator = jax.random.split(threefry(key))
    x, _ = gan.generator.apply(
        params,
        state.generator.model_state,
        draw_latents(gan, key_z, num),
        label,
        train=False,
        key=key_generator,
    )
    return x

"""Unrolled GANs: G is trained against a copy of D that is a few updates ahead."""

import dataclasses
from typing import Any

import jax
import optax

from gan_jax.algorithms.objectives import generator_objective
from gan_jax.algorithms.player import (
    EMA_DECAY,
    Decay,
    check_at_least_one,
    make_player_step,
)
from gan_jax.random import Stream
from gan_jax.types import (
    GAN,
    AdversarialLoss,
    Array,
    Augment,
    Augmentation,
    AxisName,
    Batch,
    Metrics,
    PlayerState,
    PyTree,
    StepFn,
    TrainState,
)


def make_unrolled_generator_step(
    gan: GAN,
    loss: AdversarialLoss,
    tx: optax.GradientTransformation,
    discriminator_step: StepFn,
    *,
    unroll: int,
    augmentation: Augment | Augmentation | None = None,
    ema_decay: Decay = EMA_DECAY,
    accumulate: int = 1,
    axis_name: AxisName | None = None,
) -> StepFn:
    """Returns G's step against a copy of D that is `unroll` updates ahead.

    The method is that of Metz et al. 2017, equations 7 to 9.

    D takes `unroll` steps on the batch of G's step. G then takes a gradient step on its loss
    against the resulting D. G's gradient passes through D's steps, so it includes D's reaction.
    Afterwards D's steps are discarded: the step returns D's state unchanged. Memory grows with
    `unroll` unless `discriminator_step` is wrapped in `jax.checkpoint`.

    Derivatives pass through D's optimizer. With `optax.adam` these derivatives are NaN where a
    gradient is 0, unless `eps_root` is set. `optimizers.adam` does not need `eps_root`.

    Args:
      gan, loss, tx, augmentation, ema_decay, accumulate, axis_name: as for `make_generator_step`.
      discriminator_step: D's step on a batch [B, ...], made without `accumulate`. If D's step has
        no `axis_name`, it uses that of G's step.
      unroll: number of D's steps. With 0 the result is the step of `make_generator_step`.

    Returns:
      A pure step. Its metrics are those of `make_generator_step`. `generator_loss` is the loss
        against D after `unroll` steps.

    Raises:
      ValueError: `unroll` < 0. The other causes are those of `make_generator_step`.
      TypeError, AssertionError: as for `make_generator_step`.
    """
    if unroll < 0:
        raise ValueError(f"unroll must be at least 0, got {unroll}")
    check_at_least_one(accumulate=accumulate)
    of_generator = generator_objective(gan, loss, augmentation=augmentation)

    def generator_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        def objective(
            params: PyTree, player: PlayerState, opponent: PlayerState, batch: Batch, key: Array
        ) -> tuple[Array, Any]:
            # The opponent is marked as varying over shards, but D's steps return values that all
            # shards share.
            del opponent
            generator = dataclasses.replace(player, params=params)
            # This step's key carries the microbatch index.
            key_ahead = jax.random.fold_in(key, Stream.UNROLLED)

            def answer(discriminator: PlayerState, _: None) -> tuple[PlayerState, None]:
                present = TrainState(key_ahead, generator, discriminator, ema_params=())
                return discriminator_step(present, batch)[0].discriminator, None

            answered, _ = jax.lax.scan(answer, state.discriminator, length=unroll)
            return of_generator(params, player, answered, batch, key)

        return make_player_step(
            "generator",
            objective,
            tx,
            ema_decay=ema_decay,
            accumulate=accumulate,
            axis_name=axis_name,
        )(state, batch)

    return generator_step

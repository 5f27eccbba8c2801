"""Unrolled GANs: the generator plays against the discriminator that would answer it."""

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
    """G's step against the D that would answer it (Metz et al. 2017, equations 7 to 9).

    G descends its loss under D after `unroll` of D's own steps, all on this batch, differentiated
    through them: G's gradient has in it how D would react. Then these steps are forgotten; D's
    state does not change. Memory grows with `unroll`, but for `jax.checkpoint(discriminator_step)`.

    Derivatives go through D's optimizer: `optax.adam` needs its `eps_root` for that, or they are
    NaN where a gradient is 0; `optimizers.adam` does not.

    Args:
      gan, loss, tx, augmentation, ema_decay, accumulate, axis_name: as for `make_generator_step`.
      discriminator_step: D's step on a batch [B, ...], made without `accumulate`; it takes
        this step's `axis_name` if it has none.
      unroll: how many of D's steps to look ahead; 0 is `make_generator_step`.

    Returns:
      A pure step. Metrics: as of `make_generator_step`; the loss is the one under the D to
      come.

    Raises:
      ValueError: `unroll` < 0, or as for `make_generator_step`.
    """
    if unroll < 0:
        raise ValueError(f"unroll must be at least 0, got {unroll}")
    check_at_least_one(accumulate=accumulate)
    of_generator = generator_objective(gan, loss, augmentation=augmentation)

    def generator_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        def objective(
            params: PyTree, player: PlayerState, opponent: PlayerState, batch: Batch, key: Array
        ) -> tuple[Array, Any]:
            # The opponent is marked as each shard's own; D's steps return what all shards share.
            del opponent
            generator = dataclasses.replace(player, params=params)
            # This step's key knows which part of a batch this is.
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

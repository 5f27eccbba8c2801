"""Other ways to play the game than in turns: at once, by consensus, with foresight.

Simultaneous and alternating descent turn round an equilibrium where they should come to rest
(Mescheder et al. 2017, section 3). Here are steps that do not, each a pure
`(TrainState, Batch) -> (TrainState, Metrics)` like those of `gan_jax.steps`; extragradient and
lookahead, which are made of optimizers, are in `gan_jax.optimizers`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import optax

from gan_jax.objectives import Objective, discriminator_objective, generator_objective
from gan_jax.players import (
    EMA_DECAY,
    Decay,
    check_at_least_one,
    discriminator_step_of,
    generator_step_of,
)
from gan_jax.types import (
    GAN,
    AdversarialLoss,
    Array,
    AxisName,
    Batch,
    Metrics,
    PlayerState,
    PyTree,
    StepFn,
    TrainState,
    WeightedPenalty,
)

_AHEAD = 2**31 - 4
"""Folded into a step's key for the draws of D's unrolled steps."""


def make_simultaneous_step(discriminator_step: StepFn, generator_step: StepFn) -> StepFn:
    """Both players move at once: each from the same state, neither having seen the other's move.

    Two of these are one step of the extragradient method, if each player's optimizer is
    `optimizers.extragradient`.

    Args:
      discriminator_step, generator_step: any steps on a batch [B, ...].

    Returns:
      A pure step on a batch [B, ...]. Metrics: of both steps.
    """

    def simultaneous_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        of_discriminator, discriminator_metrics = discriminator_step(state, batch)
        of_generator, generator_metrics = generator_step(state, batch)
        moved = dataclasses.replace(of_generator, discriminator=of_discriminator.discriminator)
        return moved, {**discriminator_metrics, **generator_metrics}

    return simultaneous_step


def make_consensus_steps(
    gan: GAN,
    loss: AdversarialLoss,
    generator_tx: optax.GradientTransformation,
    discriminator_tx: optax.GradientTransformation,
    *,
    own: float,
    other: float,
    penalties: Sequence[WeightedPenalty] = (),
    ema_decay: Decay = EMA_DECAY,
    accumulate: int = 1,
    axis_name: AxisName | None = None,
) -> tuple[StepFn, StepFn]:
    """Steps that also make gradients small: each player's own, and the other player's.

    Each player descends L + own/2 |its own gradient|^2 + other/2 |the other's gradient|^2, where a
    gradient is that of a player's loss (with `penalties`, for D) in its own parameters, both on the
    same batch and noise. own = other = gamma is consensus optimisation (Mescheder et al. 2017,
    equations 6 and 7): gamma/2 |v|^2 for the stacked gradients v. G's step with own = 0 next to
    D's of `steps.make_discriminator_step` is that of Nagarajan and Kolter 2017, section 4. other =
    0 is each player's own gradient norm alone, which does not stop a game from turning.

    Args:
      gan, loss, penalties, accumulate, axis_name: as for `steps.make_discriminator_step`; the
        gradients are those of the whole batch over `axis_name`, of each part if in parts.
      generator_tx, discriminator_tx: the optimizers given to `init`.
      own, other: the weights, at least 0.
      ema_decay: as for `steps.make_generator_step`.

    Returns:
      D's step and G's, for `steps.make_train_step` or `make_simultaneous_step`. Metrics: as theirs;
      losses are those of the plain game, gradient norms of what is descended.

    Raises:
      ValueError: a negative weight, or as for `steps.make_discriminator_step`.
    """
    for name, weight in (("own", own), ("other", other)):
        if not weight >= 0:
            raise ValueError(f"{name} must be at least 0, got {weight}")
    of_discriminator = discriminator_objective(gan, loss, penalties, axis_name)
    of_generator = generator_objective(gan, loss, axis_name)

    def regularised(mine: Objective, others: Objective) -> Objective:
        return _with_gradient_norms(mine, others, own, other, axis_name)

    return (
        discriminator_step_of(
            regularised(of_discriminator, of_generator),
            discriminator_tx,
            accumulate=accumulate,
            axis_name=axis_name,
        ),
        generator_step_of(
            regularised(of_generator, of_discriminator),
            generator_tx,
            ema_decay=ema_decay,
            accumulate=accumulate,
            axis_name=axis_name,
        ),
    )


def _with_gradient_norms(
    mine: Objective, others: Objective, own: float, other: float, axis_name: AxisName | None
) -> Objective:
    """mine + own/2 |grad mine|^2 + other/2 |grad others|^2, in each one's own parameters."""

    def half_squared(gradient: PyTree) -> Array:
        if axis_name is not None:
            gradient = jax.lax.pmean(gradient, axis_name)  # of the whole batch, then the norm
        return optax.tree.norm(gradient, squared=True) / 2

    def objective(
        params: PyTree, player: PlayerState, opponent: PlayerState, batch: Batch, key: Array
    ) -> tuple[Array, Any]:
        moved = dataclasses.replace(player, params=params)
        (total, aux), gradient = jax.value_and_grad(mine, has_aux=True)(
            params, player, opponent, batch, key
        )
        # Both objectives draw the same noise from the same key.
        of_other = jax.grad(others, has_aux=True)(opponent.params, opponent, moved, batch, key)[0]
        return total + own * half_squared(gradient) + other * half_squared(of_other), aux

    return objective


def make_unrolled_generator_step(
    gan: GAN,
    loss: AdversarialLoss,
    tx: optax.GradientTransformation,
    discriminator_step: StepFn,
    *,
    unroll: int,
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
      gan, loss, tx, ema_decay, accumulate, axis_name: as for `steps.make_generator_step`.
      discriminator_step: D's step on a batch [B, ...], made with the same `axis_name` and without
        `accumulate`.
      unroll: how many of D's steps to look ahead; 0 is `steps.make_generator_step`.

    Returns:
      A pure step. Metrics: as of `steps.make_generator_step`; the loss is the one under the D to
      come.

    Raises:
      ValueError: `unroll` < 0, or as for `steps.make_generator_step`.
    """
    if unroll < 0:
        raise ValueError(f"unroll must be at least 0, got {unroll}")
    check_at_least_one(accumulate=accumulate)
    of_generator = generator_objective(gan, loss, axis_name)

    def generator_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        def objective(
            params: PyTree, player: PlayerState, opponent: PlayerState, batch: Batch, key: Array
        ) -> tuple[Array, Any]:
            # The opponent is marked as each shard's own; D's steps return what all shards share.
            del opponent
            generator = dataclasses.replace(player, params=params)
            # This step's key knows which part of a batch this is.
            key_ahead = jax.random.fold_in(key, _AHEAD)

            def answer(discriminator: PlayerState, _: None) -> tuple[PlayerState, None]:
                present = TrainState(key_ahead, generator, discriminator, ema_params=())
                return discriminator_step(present, batch)[0].discriminator, None

            answered, _ = jax.lax.scan(answer, state.discriminator, length=unroll)
            return of_generator(params, player, answered, batch, key)

        return generator_step_of(
            objective, tx, ema_decay=ema_decay, accumulate=accumulate, axis_name=axis_name
        )(state, batch)

    return generator_step

"""The step of one player down any objective: what the steps of `steps` and `games` share."""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

from gan_jax.algorithms.objectives import Objective
from gan_jax.algorithms.update import update
from gan_jax.optimizers import check_decays
from gan_jax.random import threefry
from gan_jax.trees import widened
from gan_jax.types import Array, AxisName, Batch, Metrics, StepFn, TrainState

_DISCRIMINATOR, _GENERATOR = 0, 1
"""What the roles fold into the state's key."""

Decay: TypeAlias = float | Callable[[Array], Array]
"""The decay of the moving average of G's weights: a number in [0, 1), or a schedule,
`step [] -> []`, a function of the number of updates G has made before."""


def rising_decay(highest: float) -> Callable[[Array], Array]:
    """The schedule min(highest, (1 + step) / (10 + step)), which soon forgets initial weights.

    With a constant decay d the initial weights are a share d^n of the average after n updates: 90 %
    after 100 updates with d = .999. With this schedule their share is below 1e-12.

    Args:
      highest: in [0, 1).

    Raises:
      ValueError: `highest` out of range.
    """
    check_decays(highest=highest)
    return lambda step: jnp.minimum(highest, (1.0 + step) / (10.0 + step))


EMA_DECAY = rising_decay(0.999)
"""The default `ema_decay` of G's steps."""


def discriminator_step_of(
    objective: Objective,
    tx: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    axis_name: AxisName | None = None,
) -> StepFn:
    """One update of D down an objective, G frozen.

    Args:
      objective: of D.
      tx, accumulate, axis_name: as for `steps.make_discriminator_step`.

    Returns:
      A pure step. Metrics: the objective's and `discriminator_gradient_norm`.

    Raises:
      ValueError: `accumulate` < 1; (from the step) it does not divide the batch, or `tx` is not the
        one given to `init`, or `tx` needs arguments that a step does not have.
    """
    check_at_least_one(accumulate=accumulate)

    def discriminator_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        player, metrics, norm = update(
            objective,
            tx,
            state.discriminator,
            state.generator,
            batch,
            jax.random.fold_in(threefry(state.key), _DISCRIMINATOR),
            role="discriminator",
            parts=accumulate,
            axis_name=axis_name,
        )
        return (
            dataclasses.replace(state, discriminator=player),
            {**metrics, "discriminator_gradient_norm": norm},
        )

    return discriminator_step


def generator_step_of(
    objective: Objective,
    tx: optax.GradientTransformation,
    *,
    ema_decay: Decay = EMA_DECAY,
    accumulate: int = 1,
    axis_name: AxisName | None = None,
) -> StepFn:
    """One update of G down an objective, D frozen, then of the moving average of its weights.

    Args:
      objective: of G.
      tx, ema_decay, accumulate, axis_name: as for `steps.make_generator_step`.

    Returns:
      A pure step. Metrics: the objective's and `generator_gradient_norm`.

    Raises:
      ValueError: as for `discriminator_step_of`; a number for `ema_decay` outside of [0, 1).
    """
    check_at_least_one(accumulate=accumulate)
    check_decays(ema_decay=ema_decay)

    def generator_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        player, metrics, norm = update(
            objective,
            tx,
            state.generator,
            state.discriminator,
            batch,
            jax.random.fold_in(threefry(state.key), _GENERATOR),
            role="generator",
            parts=accumulate,
            axis_name=axis_name,
        )
        decay = ema_decay(state.generator.step) if callable(ema_decay) else ema_decay
        ema_params = optax.incremental_update(widened(player.params), state.ema_params, 1.0 - decay)
        return (
            dataclasses.replace(state, generator=player, ema_params=ema_params),
            {**metrics, "generator_gradient_norm": norm},
        )

    return generator_step


def check_at_least_one(**counts: int) -> None:
    """Raises ValueError for a count below 1, by its name."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")

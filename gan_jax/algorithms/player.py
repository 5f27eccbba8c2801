"""The update of one player for any objective."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax

from gan_jax import batches
from gan_jax.algorithms.objectives import Objective
from gan_jax.algorithms.update import update
from gan_jax.contract import check_tx
from gan_jax.optimizers import check_decays
from gan_jax.random import Stream, threefry
from gan_jax.trees import is_inexact, widened
from gan_jax.types import Array, AxisName, Batch, Metrics, StepFn, TrainState

Decay: TypeAlias = float | Callable[[Array], Array]
"""The decay of the moving average of G's weights: a number in [0, 1), or a schedule. A schedule is
a function `step [] -> []` of the number of G's earlier updates."""


def rising_decay(highest: float) -> Callable[[Array], Array]:
    """Returns the decay schedule `step [] -> []`, which is min(highest, (1 + step) / (10 + step)).

    The average soon forgets the initial weights. With a constant decay d, the initial weights make
    up the share d^n of the average after n updates. For d = 0.999 and n = 100 this share is 90 %.
    With this schedule the share is below 1e-12 after 100 updates.

    Args:
      highest: the largest decay, in [0, 1).

    Raises:
      ValueError: `highest` is out of range.
    """
    check_decays(highest=highest)
    return lambda step: jnp.minimum(highest, (1.0 + step) / (10.0 + step))


EMA_DECAY = rising_decay(0.999)
"""The default `ema_decay` of G's steps."""


def make_player_step(
    role: Literal["discriminator", "generator"],
    objective: Objective,
    tx: optax.GradientTransformation,
    *,
    ema_decay: Decay | None = None,
    accumulate: int = 1,
    axis_name: AxisName | None = None,
) -> StepFn:
    """Returns a step that updates one player by a given objective.

    The other player does not change.

    After an update of G, the moving averages of G's parameters and model state are updated too.

    Args:
      role: the player to update.
      objective: the player's loss.
      tx, accumulate, axis_name: as for `make_discriminator_step`.
      ema_decay: as for `make_generator_step`. Only a step of the generator takes it. The default is
        `EMA_DECAY`.

    Returns:
      A pure step. Its metrics are those of the objective and the gradient norm, such as
        `generator_gradient_norm`.

    Raises:
      ValueError: `role` is unknown, `accumulate` < 1, `ema_decay` is outside [0, 1), or `ema_decay`
        is given for the discriminator. The step raises ValueError if `accumulate` does not divide
        the batch, `tx` differs from the one given to `init`, or `tx` needs arguments that a step
        does not pass to it.
      TypeError: `tx` is not an optax optimizer.
    """
    check_tx(tx)
    check_at_least_one(accumulate=accumulate)
    if role == "discriminator" and ema_decay is not None:
        raise ValueError(f"ema_decay={ema_decay} is for the generator: leave it out here")
    if role not in _ROLES:
        raise ValueError(f"role must be one of {', '.join(_ROLES)}, got {role!r}")
    check_decays(ema_decay=ema_decay)
    stream, other = _ROLES[role]

    def player_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        with batches.split_over(axis_name):
            player, metrics, norm = update(
                objective,
                tx,
                getattr(state, role),
                getattr(state, other),
                batch,
                jax.random.fold_in(threefry(state.key), stream),
                role=role,
                parts=accumulate,
            )
        changed: dict[str, Any] = {role: player}
        moved = dataclasses.replace(state, **changed)
        if role == "generator":
            moved = _averaged(moved, state.generator.step, ema_decay)
        return moved, {**metrics, f"{role}_gradient_norm": norm}

    player_step.role = role  # type: ignore[attr-defined]  # read by `make_train_step`
    return player_step


_ROLES = {
    "discriminator": (Stream.DISCRIMINATOR, "generator"),
    "generator": (Stream.GENERATOR, "discriminator"),
}
"""The random stream of each role and the name of the other role."""


def _averaged(state: TrainState, step: Array, decay: Decay | None) -> TrainState:
    """Returns the state with updated moving averages.

    `step` [] is the number of earlier updates.
    """
    decay = EMA_DECAY if decay is None else decay
    share = 1.0 - (decay(step) if callable(decay) else decay)

    def moved(new: Array, average: Array) -> Array:
        return share * new + (1.0 - share) * average if is_inexact(new) else new

    player = state.generator
    return dataclasses.replace(
        state,
        ema_params=jax.tree.map(moved, widened(player.params), state.ema_params),
        ema_model_state=jax.tree.map(moved, widened(player.model_state), state.ema_model_state),
    )


def check_at_least_one(**counts: int) -> None:
    """Raises ValueError if a count is below 1. The message names the count."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")

"""Consensus optimisation: each player also minimises gradient norms."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import optax

from gan_jax import batches
from gan_jax.algorithms.objectives import Objective, discriminator_objective, generator_objective
from gan_jax.algorithms.player import (
    EMA_DECAY,
    Decay,
    make_player_step,
)
from gan_jax.types import (
    GAN,
    AdversarialLoss,
    Array,
    AxisName,
    Batch,
    PlayerState,
    PyTree,
    StepFn,
    WeightedPenalty,
)


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
    """Returns a step for each player that also minimises the gradient norms of both players.

    Each player minimises its loss + own/2 |its own gradient|^2 + other/2 |the other player's
    gradient|^2. A player's gradient is the gradient of the player's loss with respect to the
    player's own parameters. D's loss includes `penalties`. Both gradients are computed on the same
    batch and noise.

    With own = other = gamma this is consensus optimisation (Mescheder et al. 2017, equations 6 and
    7). It adds gamma/2 |v|^2 to both losses, where v contains the gradients of both players. For
    the method of Nagarajan and Kolter 2017, section 4, use G's step with own = 0 and D's step from
    `make_discriminator_step`. With other = 0 each objective contains only the player's own gradient
    norm, and the players can still circle the equilibrium.

    Args:
      gan, loss, penalties, accumulate, axis_name: as for `make_discriminator_step`. Before a norm
        is computed, the gradient is averaged over `axis_name`, but not over microbatches.
      generator_tx, discriminator_tx: the optimizers given to `init`.
      own, other: weights, at least 0.
      ema_decay: as for `make_generator_step`.

    Returns:
      D's step and G's step, for `make_train_step` or `make_simultaneous_step`. Their metrics have
        the usual names. The loss metrics leave out the added norms. The gradient-norm metrics are
        those of the complete objectives.

    Raises:
      ValueError: a weight is negative. The other causes are those of `make_discriminator_step`.
      TypeError, AssertionError: as for `make_discriminator_step`.
    """
    for name, weight in (("own", own), ("other", other)):
        if not weight >= 0:
            raise ValueError(f"{name} must be at least 0, got {weight}")
    of_discriminator = discriminator_objective(gan, loss, penalties)
    of_generator = generator_objective(gan, loss)
    return (
        make_player_step(
            "discriminator",
            _with_gradient_norms(of_discriminator, of_generator, own, other),
            discriminator_tx,
            accumulate=accumulate,
            axis_name=axis_name,
        ),
        make_player_step(
            "generator",
            _with_gradient_norms(of_generator, of_discriminator, own, other),
            generator_tx,
            ema_decay=ema_decay,
            accumulate=accumulate,
            axis_name=axis_name,
        ),
    )


def _with_gradient_norms(mine: Objective, others: Objective, own: float, other: float) -> Objective:
    """Returns mine + own/2 |grad mine|^2 + other/2 |grad others|^2.

    A player's gradient is the gradient of the player's loss with respect to the player's own
    parameters.
    """

    def half_squared(gradient: PyTree) -> Array:
        # The norm is that of the gradient averaged over the whole batch.
        gradient = jax.tree.map(batches.average, gradient)
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

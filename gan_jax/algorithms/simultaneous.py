"""Both players move at once."""

import dataclasses

from gan_jax.types import (
    Batch,
    Metrics,
    StepFn,
    TrainState,
)


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

"""Simultaneous updates of both players."""

import dataclasses

from gan_jax.types import (
    Batch,
    Metrics,
    StepFn,
    TrainState,
)


def make_simultaneous_step(discriminator_step: StepFn, generator_step: StepFn) -> StepFn:
    """Returns a step that updates both players from the same state.

    With `optimizers.extragradient` as each player's optimizer, two calls of this step are one step
    of the extragradient method.

    Args:
      discriminator_step, generator_step: any steps on a batch [B, ...].

    Returns:
      A pure step on a batch [B, ...]. Its metrics are those of both steps.
    """

    def simultaneous_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        of_discriminator, discriminator_metrics = discriminator_step(state, batch)
        of_generator, generator_metrics = generator_step(state, batch)
        moved = dataclasses.replace(of_generator, discriminator=of_discriminator.discriminator)
        return moved, {**discriminator_metrics, **generator_metrics}

    return simultaneous_step

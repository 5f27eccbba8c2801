"""Penalties on the discriminator, per example.

Each penalty is `(critic, real [B, ...], fake [B, ...], key) -> [B]`, where the critic is a function
x -> logits. `make_discriminator_step` takes pairs `(penalty, weight)`. A weight may be a schedule,
such as the result of `lazy`. A penalty raises AssertionError if the samples are not floating, if
their shapes differ or if the critic does not return [B]. Results are at least float32.
"""

from collections.abc import Callable

import jax.numpy as jnp

from gan_jax.penalties.slope import (
    dragan,
    gradient_penalty,
    one_sided_gradient_penalty,
    r1,
    r1_auto,
    r2,
)
from gan_jax.terms.consistency import consistency, real_consistency
from gan_jax.terms.lecam import lecam
from gan_jax.types import Array, Penalty, Weight, WithMemory

__all__ = [
    "PENALTIES",
    "consistency",
    "dragan",
    "gradient_penalty",
    "lazy",
    "lecam",
    "one_sided_gradient_penalty",
    "r1",
    "r1_auto",
    "r2",
    "real_consistency",
]


def lazy(weight: Weight, every: int = 16) -> Callable[[Array], Array]:
    """Returns a weight schedule for a penalty that is computed only once in `every` updates.

    The schedule is a function `step [] -> []` of the number of D's earlier updates.

    The weight is `every * weight` on updates 0, `every`, 2 `every` and so on. It is 0 on the other
    updates. The average weight is unchanged, and the penalty costs nothing on updates with weight
    0. Karras et al. 2020, appendix B, use R1 on every 16th update.

    A lazy penalty applies a larger gradient less often, so training is stable only at smaller
    learning rates. Consider plain gradient descent with learning rate h, and a direction in which
    the penalty has curvature c. Each application multiplies the deviation from the minimum by 1 -
    every * weight * h * c. The deviation grows if

        every * weight * h > 2 / c.

    The limit on h is therefore `every` times smaller than if the penalty is applied on each update.
    For R1 of the Dirac-GAN, c = 2. With gamma = 1 (weight 1/2) and h = 0.2, `every` must therefore
    be below 10. The players of a GAN may rotate around the equilibrium. If they complete half a
    rotation between two applications, the penalty damps only one direction.

    The limit for Adam is different, because Adam divides by the size of its gradients. StyleGAN2
    applies the penalty in a separate update. It therefore makes every + 1 updates instead of
    `every`. To compensate, StyleGAN2 replaces Adam's h, b1 and b2 by r * h, b1^r and b2^r, with r =
    every / (every + 1). In gan_jax the penalty is part of an update, so the number of updates does
    not change.

    Args:
      weight: the weight that the penalty would have if it were applied on every update: a number or
        a schedule.
      every: number of updates from one application to the next, at least 1.

    Raises:
      ValueError: `every` is below 1.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")

    def schedule(step: Array) -> Array:
        size = weight(step) if callable(weight) else weight
        return jnp.where(step % every == 0, every * size, 0.0)

    return schedule


PENALTIES: dict[str, Penalty | WithMemory] = {
    "r1": r1,
    "r2": r2,
    "gradient_penalty": gradient_penalty,
    "one_sided_gradient_penalty": one_sided_gradient_penalty,
    "dragan": dragan,
    "real_consistency": real_consistency,
    "consistency": consistency,
    "lecam": lecam(),
}
"""All penalties by name, with their default arguments."""

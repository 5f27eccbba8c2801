"""Penalties on the discriminator: per example, of a critic function x -> logits.

Each is `(critic, real [B, ...], fake [B, ...], key) -> [B]`; `make_discriminator_step` takes
pairs `(penalty, weight)`, where the weight may be a schedule, such as `lazy` makes. Each raises
AssertionError for samples that are not floating and of one shape, and for a critic that does not
return [B]. Results are float32 at least.
"""

from collections.abc import Callable

import jax.numpy as jnp

from gan_jax.penalties.slope import dragan, gradient_penalty, one_sided_gradient_penalty, r1, r2
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
    "r2",
    "real_consistency",
]


def lazy(weight: Weight, every: int = 16) -> Callable[[Array], Array]:
    """A weight for a penalty that is computed on every `every`-th update only.

    `every * weight` on updates 0, every, 2 every, ..., and 0 between, where the penalty costs
    nothing: the same force on average (Karras et al. 2020, appendix B, with R1 every 16).

    A lazy penalty applies a larger gradient less often, which limits the stable learning rate.
    Plain gradient descent with learning rate h multiplies the deviation along a direction in which
    the penalty has curvature c by 1 - every weight h c. It diverges once

        every * weight * h > 2 / c,

    that is, at a learning rate `every` times smaller than with the penalty on each update. For R1
    of the Dirac-GAN c = 2, so that gamma = 1 (weight 1/2) and h = 0.2 allow every < 10. If the
    players complete half a rotation between two applications, only one direction is damped.

    Adam divides by the size of its gradients, so its limit differs. StyleGAN2 applies the penalty
    in an update of its own, which makes every + 1 updates instead of `every`. For that it replaces
    Adam's h, b1 and b2 by r h, b1^r and b2^r, with r = every / (every + 1). Here the penalty is
    part of an update, and the number of updates does not change.

    Args:
      weight: the weight the penalty would have on every update: a number or a schedule.
      every: at least 1.

    Raises:
      ValueError: every < 1.
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
"""Every penalty by its name: functions as they are, factories as called with their defaults."""

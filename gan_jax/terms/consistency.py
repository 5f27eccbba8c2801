"""Consistency regularisation: D should return the same logit for a sample and its augmentation."""

import jax
import jax.numpy as jnp

from gan_jax.augment.images import shift_and_flip
from gan_jax.contract import CheckedCritic, checked
from gan_jax.random import per_example
from gan_jax.types import Array, Augment, PyTree


def _inconsistency(critic: CheckedCritic, x: PyTree, key: Array, augment: Augment) -> Array:
    """Returns (D(T(x)) - D(x))^2 for each example, with a random T for each: [B, ...] -> [B]."""
    changed = jax.vmap(augment)(per_example(key, x), x)
    return jnp.square(critic(changed) - critic(x))


@checked
def real_consistency(
    critic: CheckedCritic,
    real: PyTree,
    fake: PyTree,
    key: Array,
    *,
    augment: Augment = shift_and_flip,
) -> Array:
    """Returns the penalty CR: `consistency` on the real samples only (Zhang et al. 2020), [B].

    `augment` is the random change of a sample, `(key, x [...]) -> x [...]`. Usual weight: 10.

    Raises:
      ValueError, AssertionError: as for `consistency`.
    """
    del fake
    return _inconsistency(critic, real, key, augment)


@checked
def consistency(
    critic: CheckedCritic,
    real: PyTree,
    fake: PyTree,
    key: Array,
    *,
    augment: Augment = shift_and_flip,
) -> Array:
    """Returns the penalty bCR: the sum of (D(T(x)) - D(x))^2 for a real and a fake sample.

    The penalty is that of Zhao et al. 2021, algorithm 1. Usual weight: 10.

    Random layers of D, such as dropout, use the same draws for x and T(x).

    Args:
      critic, real, fake, key: the arguments of every penalty.
      augment: T, a pure function `(key, x [...]) -> x [...]` of one example.

    Raises:
      ValueError: the samples are not images [B, H, W, C] and `augment` is the default.
      AssertionError: samples or logits have a wrong shape or type. See `gan_jax.penalties`.
    """
    key_real, key_fake = jax.random.split(key)
    return _inconsistency(critic, real, key_real, augment) + _inconsistency(
        critic.on_fake, fake, key_fake, augment
    )

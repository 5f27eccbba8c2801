"""Consistency regularisation: D is to say the same of an example and of a changed one."""

import jax
import jax.numpy as jnp

from gan_jax.augment.images import shift_and_flip
from gan_jax.contract import CheckedCritic, checked
from gan_jax.random import per_example
from gan_jax.types import Array, Augment, PyTree


def _inconsistency(critic: CheckedCritic, x: PyTree, key: Array, augment: Augment) -> Array:
    """(D(T(x)) - D(x))^2 of each example, T drawn for it: [B, ...] -> [B]."""
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
    """CR: `consistency` on the real samples alone (Zhang et al. 2020). Weight: 10."""
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
    """bCR: (D(T(x)) - D(x))^2, on real and on fake samples (Zhao et al. 2021, algorithm 1).

    D is to say the same of an example and of a changed one. Weight: 10. What is random in D
    itself, such as dropout, is the same for both.

    Args:
      critic, real, fake, key: as of every penalty.
      augment: T, a pure function `(key, x [...]) -> x [...]` of one example.

    Raises:
      ValueError: the samples are no images [B, H, W, C], and `augment` is the default.
    """
    key_real, key_fake = jax.random.split(key)
    return _inconsistency(critic, real, key_real, augment) + _inconsistency(
        critic.on_fake, fake, key_fake, augment
    )

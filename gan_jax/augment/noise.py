"""Gaussian noise added to samples before the discriminator sees them."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.augment.adaptive import without_memory
from gan_jax.random import keys_like
from gan_jax.types import Array, Augmentation, PyTree

Scale: TypeAlias = float | Array | Callable[[Array, Array], float | Array]
"""A number, an array [], or a function `(key, step) -> []`. The function receives the key of one
example and the number of updates D has made."""


def instance_noise(scale: Scale) -> Augmentation:
    """Returns an augmentation that adds Gaussian noise to D's real and fake inputs in training.

    If the distributions of real and fake samples hardly overlap, D's gradient does not show G how
    to improve. Noise makes the distributions overlap (Sonderby et al. 2017, section 3; Arjovsky and
    Bottou 2017). With noise of any scale, the game still has the same solution: the two
    distributions are equal. Noise hides fine details, so G learns them slowly. Lower the scale
    during training, or use `mixed_scales`.

    Args:
      scale: the standard deviation of the noise.

    Raises:
      ValueError: `scale` is a negative number.
    """
    if isinstance(scale, float | int | np.generic) and scale < 0:
        raise ValueError(f"scale must be at least 0, got {scale}")

    def noisy(key: Array, x: PyTree, memory: PyTree, step: Array) -> PyTree:
        del memory
        key_scale, key_noise = jax.random.split(key)
        factor = scale(key_scale, step) if callable(scale) else scale

        def change(leaf: Array, key: Array) -> Array:
            noise = jax.random.normal(key, leaf.shape, leaf.dtype)
            return leaf + jnp.asarray(factor, leaf.dtype) * noise

        return jax.tree.map(change, x, keys_like(key_noise, x))

    return without_memory(noisy)


def mixed_scales(highest: float | Array, *, share: float = 0.5) -> Callable[[Array, Array], Array]:
    """Returns a function that draws a noise scale for each example.

    Some of the examples get noise. The scale of the other examples is 0.

    D sees all noise scales at once, so no schedule is needed, as in Diffusion-GAN (Wang et al.
    2023). Only wide noise connects distant modes. With such noise, G can move samples from modes
    that it draws too often to modes that it draws too rarely.

    Args:
      highest: the largest scale. The scale of an example that gets noise is uniform in
        [0, highest].
      share: the share of examples that receive noise, in [0, 1].

    Returns:
      The function `(key, step []) -> scale []`, for `instance_noise`.

    Raises:
      ValueError: `share` is outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share}")

    def draw(key: Array, step: Array) -> Array:
        del step
        key_share, key_scale = jax.random.split(key)
        some = jax.random.bernoulli(key_share, share)
        return jnp.where(some, highest * jax.random.uniform(key_scale), 0.0)

    return draw

"""Gaussian noise in front of the discriminator."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.random import keys_like
from gan_jax.types import Array, Augmentation, PyTree

Scale: TypeAlias = float | Array | Callable[[Array, Array], float | Array]
"""A number, an array [], or a function `(key, step) -> []` that is called with the key of each
example and the number of updates D has made."""


def instance_noise(scale: Scale) -> Augmentation:
    """Gaussian noise on the real and the fake samples that D is shown in training.

    Noise makes two distributions overlap that hardly do, so that D's slope tells G where to go
    (Sonderby et al. 2017, section 3; Arjovsky and Bottou 2017). The solution stays p = q at any
    scale, but what is finer than the noise is learned slowly: let it fall, or use `mixed_scales`.

    Args:
      scale: the standard deviation.

    Raises:
      ValueError: `scale` is a number below 0.
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

    return Augmentation(_nothing, noisy, _unchanged)


def _nothing() -> tuple[()]:
    return ()


def _unchanged(memory: PyTree, real_output: Any) -> PyTree:
    del real_output
    return memory


def mixed_scales(highest: float | Array, *, share: float = 0.5) -> Callable[[Array, Array], Array]:
    """Noise of all scales up to the highest, on a share of the examples; none on the others.

    With D seeing every scale at once nothing needs to be annealed, as in Diffusion-GAN (Wang et
    al. 2023). Wide noise joins distant modes: only through it does a mode that is drawn too often
    feel those that are drawn too seldom.

    Args:
      highest: the scale is uniform in [0, highest].
      share: of examples that are given noise, in [0, 1].

    Returns:
      A scale for `instance_noise`.

    Raises:
      ValueError: `share` outside of [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share}")

    def draw(key: Array, step: Array) -> Array:
        del step
        key_share, key_scale = jax.random.split(key)
        some = jax.random.bernoulli(key_share, share)
        return jnp.where(some, highest * jax.random.uniform(key_scale), 0.0)

    return draw

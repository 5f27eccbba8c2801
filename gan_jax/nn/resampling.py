"""Doubling and halving of images by the filter [1, 3, 3, 1] (Karras et al. 2020, StyleGAN2).

Both maps are linear, and `upsample` is 4 times the transpose of `downsample`. Each output phase is
a weighted sum of shifted inputs, which a CPU computes much faster than a depthwise convolution.
"""

import jax.numpy as jnp
from jax import lax

from gan_jax.types import Array


def upsample(x: Array) -> Array:
    """Returns images [B, 2 H, 2 W, C] for x [B, H, W, C], filtered after zero insertion.

    The filter's weights sum to 4, which keeps the mean. Pixels outside the image are 0.
    """
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = jnp.stack(_doubled(x, 1, height), axis=2).reshape(batch, 2 * height, width + 2, channels)
    return jnp.stack(_doubled(x, 2, width), axis=3).reshape(batch, 2 * height, 2 * width, channels)


def downsample(x: Array) -> Array:
    """Returns images [B, H / 2, W / 2, C] for x [B, H, W, C], filtered before every second pixel is
    dropped.

    The filter's weights sum to 1. Pixels outside the image are 0.

    Raises:
      ValueError: the height or the width is odd.
    """
    if x.shape[1] % 2 or x.shape[2] % 2:
        raise ValueError(
            f"downsample takes images of an even height and width, got {x.shape[1]}x{x.shape[2]}: "
            "pad or resize them"
        )
    return _halved(_halved(x, axis=1), axis=2)


def _doubled(padded: Array, axis: int, size: int) -> tuple[Array, Array]:
    """Returns the even and the odd outputs along an axis that has one pixel of padding per side."""
    before, here, after = (lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(3))
    return 0.75 * here + 0.25 * before, 0.75 * here + 0.25 * after


def _halved(x: Array, axis: int) -> Array:
    pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    even, odd = (lax.index_in_dim(pairs, k, axis + 1, keepdims=False) for k in range(2))
    return 0.375 * (even + odd) + 0.125 * (_padded(odd, axis, 1, -1) + _padded(even, axis, -1, 1))


def blurred(x: Array, padding: int) -> Array:
    """Returns images filtered by [1, 3, 3, 1] / 8 along height and width.

    [B, H, W, C] -> [B, H + 2 padding - 3, W + 2 padding - 3, C].
    """
    for axis in (1, 2):
        a, b, c, d = (_padded(x, axis, padding - k, padding - 3 + k) for k in range(4))
        x = 0.125 * (a + d) + 0.375 * (b + c)
    return x


def _padded(x: Array, axis: int, before: int, after: int) -> Array:
    """Returns x with zeros added before and after an axis. Negative numbers remove pixels."""
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), edges)

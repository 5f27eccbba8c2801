"""Random changes of one image, as pure functions `(key, x) -> x`.

The functions take one example [H, W, C], as `penalties.consistency` requires. `jax.vmap` extends
the functions to a batch.
"""

import jax
import jax.numpy as jnp

from gan_jax.types import Array


def shift(key: Array, x: Array, *, share: float = 1 / 8) -> Array:
    """Returns the image shifted by a random number of whole pixels along each side.

    The shift is at most `share` times the length of the side. The image is mirrored at its edges to
    fill the gaps.

    Args:
      key: a single key.
      x: [H, W, C].
      share: largest shift, as a share of the side, in [0, 1). The default 1/8 (4 of 32 pixels) is
        the value of Zhang et al. 2020.

    Raises:
      ValueError: x is not an image [H, W, C].
    """
    check_image(x)
    return shifted(key, x, [int(share * side) for side in x.shape[:2]], mode="reflect")


def shifted(key: Array, x: Array, reach: list[int], mode: str) -> Array:
    """Returns the image [H, W, C], shifted by a random number of whole pixels along each side.

    Args:
      key, x: as for `shift`.
      reach: the largest shifts along H and W.
      mode: how `jnp.pad` fills the gaps.
    """
    padded = jnp.pad(x, [*((r, r) for r in reach), (0, 0)], mode=mode)
    most = 2 * jnp.array(reach) + 1
    row, column = jax.random.randint(key, (2,), 0, most)
    return jax.lax.dynamic_slice(padded, (row, column, jnp.zeros_like(row)), x.shape)


def cut_out(x: Array, start: Array, size: Array) -> Array:
    """Returns the image [H, W, C] with a rectangle set to 0, which is grey.

    The rectangle holds the pixels from `start` [2] to `start + size` [2], along H and W. A part of
    it may lie outside the image.
    """
    rows, columns = (
        (jnp.arange(side) >= first) & (jnp.arange(side) < first + length)
        for side, first, length in zip(x.shape[:2], start, size, strict=True)
    )
    inside = rows[:, None, None] & columns[None, :, None]
    return jnp.where(inside, jnp.zeros_like(x), x)


def flip(key: Array, x: Array) -> Array:
    """Returns the image [H, W, C], mirrored left to right with probability 1/2. `key` decides.

    Zhang et al. 2020 flip images in this way.

    Raises:
      ValueError: x is not an image [H, W, C].
    """
    check_image(x)
    return jnp.where(jax.random.bernoulli(key), x[:, ::-1], x)


def shift_and_flip(key: Array, x: Array) -> Array:
    """Applies `shift` and `flip` to an image [H, W, C], as Zhang et al. 2020 do. `key` decides.

    Raises:
      ValueError: x is not an image [H, W, C].
    """
    key_shift, key_flip = jax.random.split(key)
    return flip(key_flip, shift(key_shift, x))


def check_image(x: Array) -> None:
    """Raises ValueError if x is not an image [H, W, C]."""
    if x.ndim != 3:
        raise ValueError(
            f"x must be one image [H, W, C], got shape {x.shape}: for other data give an "
            "augmentation of your own"
        )

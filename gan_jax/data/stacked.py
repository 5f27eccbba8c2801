"""Stacked digits: colour images with one digit in each channel. They have 10^3 classes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gan_jax.data.pipeline import dequantize
from gan_jax.types import Array


class Stacks(NamedTuple):
    """The distribution of stacks of three independently drawn digits.

    Metz et al. 2017, section 3.3, use the same distribution. N digits give N^3 equally likely
    stacks.

    Attributes:
      digits: [N, H, W, 1] uint8 in [0, 255]. Stacks are converted to floats when drawn.
    """

    digits: Array

    def sample(self, key: Array, num: int) -> Array:
        """Returns x [num, H, W, 3], float in [-1, 1].

        The signature is the one that `synthetic.feed` needs.

        Raises:
          TypeError: the digits are not uint8.
        """
        chosen = jax.random.randint(key, (num, 3), 0, len(self.digits))
        return dequantize(jnp.moveaxis(self.digits[chosen][..., 0], 1, 3))


def unstacked(x: Array) -> Array:
    """Returns the digits of the stacks in order: [N, H, W, 3] -> [3 N, H, W, 1]."""
    return jnp.moveaxis(x, 3, 1).reshape(-1, *x.shape[1:3], 1)


def stack_class(label: Array) -> Array:
    """Returns the classes [N] of N stacks, in 0..999.

    `label` [3 N] contains the classes of the digits, in 0..9.
    """
    return label.reshape(-1, 3) @ jnp.array([100, 10, 1])

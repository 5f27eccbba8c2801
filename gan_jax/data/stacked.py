"""Stacked digits: colour images of three digits, one in each channel, of 10^3 kinds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gan_jax.data.pipeline import dequantize
from gan_jax.types import Array


class Stacks(NamedTuple):
    """The distribution of three digits drawn independently (Metz et al. 2017, section 3.3).

    Of N digits there are N^3 stacks, each as likely as any other, drawn afresh on every occasion.

    Attributes:
      digits: [N, H, W, 1] uint8 in [0, 255], kept as such: a stack is converted when it is drawn.
    """

    digits: Array

    def sample(self, key: Array, num: int) -> Array:
        """x [num, H, W, 3], float in [-1, 1]; a prior's signature, for `synthetic.feed`."""
        chosen = jax.random.randint(key, (num, 3), 0, len(self.digits))
        return dequantize(jnp.moveaxis(self.digits[chosen][..., 0], 1, 3))


def unstacked(x: Array) -> Array:
    """The digits of stacks, one stack after another: [N, H, W, 3] -> [3 N, H, W, 1]."""
    return jnp.moveaxis(x, 3, 1).reshape(-1, *x.shape[1:3], 1)


def stack_class(label: Array) -> Array:
    """The kinds of stacks [N], in 0..999, from their digits' classes [3 N] in 0..9."""
    return label.reshape(-1, 3) @ jnp.array([100, 10, 1])

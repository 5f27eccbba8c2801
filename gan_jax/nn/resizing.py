"""3x3 convolutions that halve, double or keep the size of images (Metz et al. 2017)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gan_jax.nn import conv
from gan_jax.nn.initial import DCGAN_INIT, PARAM_DTYPE, biased
from gan_jax.types import Array

_HE_INIT = nn.initializers.he_normal()

# The kernels are 3x3, with stride 2 and TensorFlow's SAME padding. For an even size, window i
# covers pixels 2i, 2i + 1 and 2i + 2. For an odd size, each window starts one pixel earlier. A
# kernel that is extended to 4x4 by zeros in front gives the same result, and `conv` is faster for
# 4x4 kernels.

_HALVING: dict[str, Any] = {"strides": (2, 2), "padding": (1, 1)}


def _widened(kernel: Array) -> Array:
    return jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))


class Halved(nn.Module):
    """A convolution that halves sizes: [B, H, H, I] -> [B, ceil(H / 2), ceil(H / 2), features].

    `use_bias` says whether to add a bias.
    """

    features: int
    use_bias: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", _HE_INIT, (3, 3, x.shape[-1], self.features), PARAM_DTYPE)
        odd = x.shape[1] % 2
        x = jnp.pad(x, ((0, 0), (odd, 0), (odd, 0), (0, 0)))
        y = conv.conv(x, _widened(kernel), **_HALVING)
        return biased(self, y) if self.use_bias else y


class Doubled(nn.Module):
    """The transpose of `Halved`, which doubles sizes.

    [B, ceil(side / 2), ceil(side / 2), I] -> [B, side, side, features].
    """

    features: int
    side: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", DCGAN_INIT, (3, 3, self.features, x.shape[-1]), PARAM_DTYPE)
        odd = self.side % 2
        return conv.conv_transpose(x, _widened(kernel), **_HALVING)[:, odd:, odd:]


class Repainted(nn.Module):
    """A convolution that keeps sizes: [B, H, W, I] -> [B, H, W, features].

    The paper uses a transposed convolution of stride 1 instead. A convolution with the flipped
    kernel gives the same result, and is faster if there are few output features.
    """

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", DCGAN_INIT, (3, 3, self.features, x.shape[-1]), PARAM_DTYPE)
        return biased(self, conv.conv_transpose(x, kernel, strides=(1, 1), padding=(1, 1)))

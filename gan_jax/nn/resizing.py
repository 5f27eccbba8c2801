"""3x3 convolutions that halve, double or keep the size of images (Metz et al. 2017)."""

import flax.linen as nn
import jax.numpy as jnp

from gan_jax.nn import conv
from gan_jax.nn.initial import DCGAN_INIT, PARAM_DTYPE
from gan_jax.types import Array

_HE_INIT = nn.initializers.he_normal()

# 3x3 kernels with stride 2 and the padding that TensorFlow calls SAME: windows at pixels 2i, 2i + 1
# and 2i + 2 of an even size, of an odd one a pixel earlier. A 4x4 kernel with zeros in front is
# the same map, and of whole tiles, which `conv` has a fast way for.

_HALVING = {"strides": (2, 2), "padding": (1, 1)}


def _widened(kernel: Array) -> Array:
    return jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))


class Halved(nn.Module):
    """[B, H, H, I] -> [B, ceil(H / 2), ceil(H / 2), features]."""

    features: int
    use_bias: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", _HE_INIT, (3, 3, x.shape[-1], self.features), PARAM_DTYPE)
        odd = x.shape[1] % 2
        x = jnp.pad(x, ((0, 0), (odd, 0), (odd, 0), (0, 0)))
        y = conv.conv(x, _widened(kernel), **_HALVING)
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (1, 1, 1, self.features), PARAM_DTYPE)


class Doubled(nn.Module):
    """[B, ceil(H / 2), ceil(H / 2), I] -> [B, H, H, features], H = `side`: `Halved` transposed."""

    features: int
    side: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", DCGAN_INIT, (3, 3, self.features, x.shape[-1]), PARAM_DTYPE)
        odd = self.side % 2
        return conv.conv_transpose(x, _widened(kernel), **_HALVING)[:, odd:, odd:]


class Repainted(nn.Module):
    """[B, H, W, I] -> [B, H, W, features], with a bias.

    A transposed convolution of stride 1, which is a convolution with its kernel turned round, and
    for few features out the faster of the two.
    """

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", DCGAN_INIT, (3, 3, self.features, x.shape[-1]), PARAM_DTYPE)
        y = conv.conv_transpose(x, kernel, strides=(1, 1), padding=(1, 1))
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (1, 1, 1, self.features), PARAM_DTYPE)

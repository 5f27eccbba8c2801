"""Strided convolutions as Flax Linen layers."""

import flax.linen as nn
from flax.linen.initializers import Initializer

from gan_jax.nn import conv
from gan_jax.nn.initial import DCGAN_INIT, PARAM_DTYPE, biased
from gan_jax.types import Array


class Conv(nn.Module):
    """A strided convolution: [B, H, W, I] -> [B, h, w, features].

    By default the kernel is 4x4, with stride 2 and padding 1, which halves an even height and
    width. The layer has no bias, as is usual before batch norm.

    Attributes:
      features: number of output features.
      use_bias: whether to add a bias.
      window, strides, padding: height and width of the kernel, the stride and the padding.
      groups: input and output features are split into this many groups. Each output reads one
        group.
      kernel_init: the initialiser of the kernel.
    """

    features: int
    use_bias: bool = False
    window: tuple[int, int] = (4, 4)
    strides: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (1, 1)
    groups: int = 1
    kernel_init: Initializer = DCGAN_INIT

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (*self.window, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, PARAM_DTYPE)
        y = conv.conv(x, kernel, strides=self.strides, padding=self.padding, groups=self.groups)
        return biased(self, y) if self.use_bias else y


class ConvTranspose(nn.Module):
    """A strided transposed convolution without bias: [B, h, w, I] -> [B, H, W, features].

    By default the layer doubles height and width. The kernel is stored as [kh, kw, features, I].

    Attributes:
      features: number of output features.
      window, strides, padding: as for `Conv`.
    """

    features: int
    window: tuple[int, int] = (4, 4)
    strides: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param(
            "kernel", DCGAN_INIT, (*self.window, self.features, x.shape[-1]), PARAM_DTYPE
        )
        return conv.conv_transpose(x, kernel, strides=self.strides, padding=self.padding)

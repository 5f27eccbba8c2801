"""Residual blocks for images (Miyato et al. 2018, appendix; Brock et al. 2019, appendix B)."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.initializers import Initializer

from gan_jax.nn import conv
from gan_jax.nn.attention import SelfAttention, pooled
from gan_jax.nn.conditional import Conditional, judged, with_class_channel
from gan_jax.nn.convolutions import Conv
from gan_jax.nn.initial import PARAM_DTYPE, biased
from gan_jax.types import Array, Output


class Plan(NamedTuple):
    """Sizes of a pair of residual networks.

    Attributes:
      start: height and width of G's first image, which each of G's blocks doubles.
      generator: numbers of features of the first image and after each block of G.
      discriminator: numbers of features after each block of D.
      halvings: number of blocks of D that halve the image, before all others.
    """

    start: tuple[int, int]
    generator: tuple[int, ...]
    discriminator: tuple[int, ...]
    halvings: int


def plan(shape: tuple[int, int, int], width: int, *, wide: bool, model: str) -> Plan:
    """Returns the sizes of SNGAN's networks, or the larger sizes of BigGAN's networks.

    The shorter side of G's first image has 4 to 7 pixels. Up to 32 pixels, the number of features
    is constant. For larger images, the number doubles with each halving, up to 16 `width`.

    Args:
      shape: [H, W, C] of one image.
      width: number of features that all numbers of features are multiples of.
      wide: whether the sizes are those of BigGAN.
      model: name of the model in an error.

    Raises:
      ValueError: the images are too small, or a side cannot be halved often enough.
    """
    height, side, _ = shape
    smallest = min(height, side)
    doublings = max((smallest // 4).bit_length() - 1, 1)
    factor = 2**doublings
    if smallest < 8 or height % factor or side % factor:
        raise ValueError(
            f"{model} takes images of at least 8 pixels that can be halved {doublings} times, got "
            f"{height}x{side}: resize them to multiples of {factor} pixels, such as 28, 32, 48, 64 "
            "or 128, or choose another model"
        )
    start = (height // factor, side // factor)
    if smallest <= 32:
        of_discriminator = (4 if wide else 2) * width
        return Plan(
            start, (4 * width,) * (doublings + 1), (of_discriminator,) * 4, min(doublings, 2)
        )
    halvings = doublings + (min(start) > 4 and all(n % 2 == 0 for n in start))
    top = doublings + (wide and doublings < 5)
    return Plan(
        start,
        tuple(width * min(16, 2 ** (top - i)) for i in range(doublings + 1)),
        tuple(width * min(16, 2**i) for i in range(halvings + 1)),
        halvings,
    )


class Conv3(nn.Module):
    """A 3x3 convolution that can also resize the image: [B, H, W, I] -> [B, h, w, features].

    "double" repeats each pixel 2x2 times before the convolution. "halve" averages 2x2 pixels after
    the convolution. Either pair of operations equals one convolution with a 4x4 kernel and stride
    2. That convolution needs 16 products where the pair needs 36, and no large array in between.
    """

    features: int
    resize: Literal["double", "halve"] | None = None
    kernel_init: Initializer = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, PARAM_DTYPE)
        if self.resize == "double":
            transposed = _summed(kernel[::-1, ::-1].swapaxes(2, 3))
            y = conv.conv_transpose(x, transposed, strides=(2, 2), padding=(1, 1))
        elif self.resize == "halve":
            y = conv.conv(x, _summed(kernel) / 4, strides=(2, 2), padding=(1, 1))
        else:
            y = conv.conv(x, kernel, strides=(1, 1), padding=(1, 1))
        return biased(self, y)


def _summed(kernel: Array) -> Array:
    """Returns the kernel [4, 4, ...] of a 3x3 convolution followed by a sum over 2x2 pixels."""
    rows = jnp.pad(kernel, ((0, 1), (0, 0), (0, 0), (0, 0)))
    rows += jnp.pad(kernel, ((1, 0), (0, 0), (0, 0), (0, 0)))
    columns = jnp.pad(rows, ((0, 0), (0, 1), (0, 0), (0, 0)))
    return columns + jnp.pad(rows, ((0, 0), (1, 0), (0, 0), (0, 0)))


class UpBlock(nn.Module):
    """G's block, which doubles the image: [B, H, W, I] -> [B, 2 H, 2 W, features].

    The block is norm, ReLU, doubling, 3x3 convolution, norm, ReLU, 3x3 convolution. Its shortcut
    doubles the image and has a 1x1 convolution.
    """

    features: int
    norm: Callable[[], nn.Module]
    """Returns a batch norm, which is called as `(x, condition, train=)`."""
    kernel_init: Initializer
    shortcut_init: Initializer

    @nn.compact
    def __call__(self, x: Array, condition: Array | None, *, train: bool) -> Array:
        h = nn.relu(self.norm()(x, condition, train=train))
        h = Conv3(self.features, "double", self.kernel_init)(h)
        h = nn.relu(self.norm()(h, condition, train=train))
        h = Conv3(self.features, None, self.kernel_init)(h)
        # The 1x1 convolution comes first, because it is cheaper for the smaller image.
        return h + _repeated(_shortcut(self.features, self.shortcut_init)(x))


class DownBlock(nn.Module):
    """D's block: [B, H, W, I] -> [B, H / 2, W / 2, features], or without halving [B, H, W, ...].

    The block is ReLU, 3x3 convolution, ReLU, 3x3 convolution, average pooling. Its shortcut has
    average pooling and a 1x1 convolution, or is x where the shape does not change.
    """

    features: int
    halve: bool
    kernel_init: Initializer
    shortcut_init: Initializer
    hidden: int | None = None
    """The number of features between the convolutions. With None it is `features`."""
    first: bool = False
    """Whether x is an image, so that the block has no ReLU at its start."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = x if self.first else nn.relu(x)
        h = nn.relu(Conv3(self.hidden or self.features, None, self.kernel_init)(h))
        h = Conv3(self.features, "halve" if self.halve else None, self.kernel_init)(h)
        changed = self.halve or x.shape[-1] != self.features
        if self.halve:
            x = pooled(x, jnp.mean)
        return h + (_shortcut(self.features, self.shortcut_init)(x) if changed else x)


class ResidualDiscriminator(nn.Module):
    """A discriminator of `DownBlock`s, ReLU, a sum over pixels, and `gan_jax.nn.judged`."""

    features: tuple[int, ...]
    """The number of features after each block."""
    halvings: int
    """The number of blocks that halve the image, before all others."""
    num_classes: int | None
    conditional: Conditional
    kernel_init: Initializer
    other_init: Initializer
    """The initialiser of shortcuts, attention and dense layers."""
    wide: bool = False
    """Whether blocks have as many features inside as after, instead of as before."""
    attention: bool = False
    """Whether self-attention follows the first block."""

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None, *, train: bool) -> Array | Output:
        x = with_class_channel(x, self.num_classes, label, self.conditional)
        for i, features in enumerate(self.features):
            x = DownBlock(
                features,
                i < self.halvings,
                self.kernel_init,
                self.other_init,
                hidden=None if self.wide or i == 0 else x.shape[-1],
                first=i == 0,
            )(x)
            if self.attention and i == 0:
                x = SelfAttention(self.other_init)(x)
        x = jnp.sum(nn.relu(x), axis=(1, 2))
        return judged(x, self.num_classes, label, self.conditional, kernel_init=self.other_init)


def _shortcut(features: int, kernel_init: Initializer) -> Conv:
    return Conv(features, True, (1, 1), (1, 1), (0, 0), kernel_init=kernel_init)


def _repeated(x: Array) -> Array:
    """Returns the image with each pixel repeated 2x2 times: [B, H, W, C] -> [B, 2 H, 2 W, C]."""
    batch, height, width, features = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, features))
    return x.reshape(batch, 2 * height, 2 * width, features)

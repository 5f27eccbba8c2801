"""DCGAN (Radford et al. 2016) for images of 28, 32 or 64 pixels."""

import flax.linen as nn
import jax.numpy as jnp

from gan_jax import priors
from gan_jax.networks.linen import from_linen
from gan_jax.nn import (
    DCGAN_INIT,
    BatchNorm,
    Conditional,
    Conv,
    ConvTranspose,
    MinibatchStd,
    judged,
    with_class_channel,
)
from gan_jax.types import GAN, Array, Output

_LEVELS = {28: 2, 32: 3, 64: 4}
"""The number of times each image size is halved. The smallest images have 7, 4 and 4 pixels per
side."""


def dcgan(
    shape: tuple[int, int, int],
    *,
    latent: int = 100,
    width: int = 64,
    num_classes: int | None = None,
    conditional: Conditional = "projection",
    discriminator_norm: bool = True,
    minibatch_std: bool = False,
) -> GAN:
    """Returns a DCGAN: a generator of transposed convolutions and a mirrored discriminator.

    The prior is z ~ N(0, I).

    Kernels are 4x4 with stride 2. Batch norm is used except at G's output and D's input. G uses
    ReLU and a final tanh, and D uses leaky ReLU.

    Args:
      shape: [H, W, C] of one image, with H = W = 28, 32 or 64.
      latent: number of dimensions of z.
      width: number of features in the layer nearest to the image. The number doubles with each
        layer away from the image.
      num_classes: number of classes of a conditional GAN, or None for an unconditional GAN. G uses
        conditional batch norm.
      conditional: how D uses the class. See `gan_jax.nn.Conditional`.
      discriminator_norm: whether D has batch norm. Without batch norm, D judges each image
        separately, as a gradient penalty assumes. With batch norm, D compares the images of a batch
        and trains without a penalty.
      minibatch_std: whether D's last layer also receives the feature of `gan_jax.nn.MinibatchStd`,
        the variation within the batch.

    Raises:
      ValueError: the images have another size.
    """
    height, side, channels = shape
    if height != side or side not in _LEVELS:
        raise ValueError(
            f"dcgan takes images of {', '.join(map(str, _LEVELS))} pixels, got {height}x{side}: "
            "resize them, or choose another model"
        )
    widths = tuple(width * 2**level for level in range(_LEVELS[side]))
    return GAN(
        generator=from_linen(_Generator(side, channels, widths[::-1], num_classes)),
        discriminator=from_linen(
            _Discriminator(widths, discriminator_norm, minibatch_std, num_classes, conditional)
        ),
        prior=priors.normal(latent),
    )


class _Generator(nn.Module):
    side: int
    channels: int
    widths: tuple[int, ...]
    num_classes: int | None

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None, *, train: bool) -> Array:
        first, *rest = self.widths
        side = self.side // 2 ** len(self.widths)
        x = nn.Dense(side * side * first, use_bias=False, kernel_init=DCGAN_INIT)(z)
        x = x.reshape(-1, side, side, first)
        for features in (*rest, self.channels):
            x = nn.relu(BatchNorm(self.num_classes)(x, label, train=train))
            x = ConvTranspose(features)(x)
        return jnp.tanh(x)


class _Discriminator(nn.Module):
    widths: tuple[int, ...]
    norm: bool
    minibatch_std: bool
    num_classes: int | None
    conditional: Conditional

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None, *, train: bool) -> Array | Output:
        x = with_class_channel(x, self.num_classes, label, self.conditional)
        for level, features in enumerate(self.widths):
            x = Conv(features, use_bias=not self.norm)(x)
            if self.norm and level > 0:
                x = BatchNorm()(x, train=train)
            x = nn.leaky_relu(x, 0.2)
        if self.minibatch_std:
            x = MinibatchStd()(x)
        x = x.reshape(x.shape[0], -1)
        return judged(x, self.num_classes, label, self.conditional, kernel_init=DCGAN_INIT)

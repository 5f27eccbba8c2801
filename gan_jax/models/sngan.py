"""SNGAN (Miyato et al. 2018): residual networks with spectral normalisation in D."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from gan_jax import priors
from gan_jax.networks.linen import from_linen
from gan_jax.networks.spectral import spectral_norm
from gan_jax.nn import BatchNorm, Conditional
from gan_jax.nn.residual import Conv3, Plan, ResidualDiscriminator, UpBlock, plan
from gan_jax.types import GAN, Array

_INIT = nn.initializers.glorot_uniform()
_BLOCK_INIT = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")
"""Glorot's initial weights times sqrt(2)."""


def sngan(
    shape: tuple[int, int, int],
    *,
    latent: int = 128,
    width: int = 64,
    num_classes: int | None = None,
    conditional: Conditional = "projection",
) -> GAN:
    """Returns SNGAN's residual networks. D is spectrally normalised, and the prior is z ~ N(0, I).

    The default width gives the networks of the paper. For images up to 32 pixels (table 4), G has
    256 features and D has 128. For larger images (table 5), the number of features doubles with
    each halving of the image, from 64 to at most 1024. With `num_classes`, the networks are those
    of Miyato and Koyama 2018.

    G ends in tanh. Each block of G doubles the image and has batch norm. D has no batch norm, and
    ends in a sum over pixels. Kernels have the initial weights of Glorot and Bengio 2010, times
    sqrt(2) in the 3x3 convolutions of blocks, as in the authors' code. D's kernels are divided by
    the norms of the reshaped kernels (`spectral_norm` with `as_matrix=True`).

    D's last block does not halve 64 pixels to 2x2, as it does in the authors' code.

    Args:
      shape: [H, W, C] of one image, such as 28, 32, 48, 64 or 128 pixels. The image may be not
        square. G starts from an image whose shorter side has 4 to 7 pixels.
      latent: number of dimensions of z.
      width: number of features in G's layer nearest to a large image. All numbers of features are
        multiples of it.
      num_classes: number of classes of a conditional GAN, or None for an unconditional GAN. G uses
        conditional batch norm.
      conditional: how D uses the class. See `gan_jax.nn.Conditional`.

    Raises:
      ValueError: the images are smaller than 8 pixels, or a side cannot be halved as often as G
        doubles it.
    """
    sizes = plan(shape, width, wide=False, model="sngan")
    discriminator = ResidualDiscriminator(
        sizes.discriminator, sizes.halvings, num_classes, conditional, _BLOCK_INIT, _INIT
    )
    return GAN(
        generator=from_linen(_Generator(sizes, shape[-1], num_classes)),
        discriminator=spectral_norm(from_linen(discriminator), as_matrix=True),
        prior=priors.normal(latent),
    )


class _Generator(nn.Module):
    sizes: Plan
    channels: int
    num_classes: int | None

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None, *, train: bool) -> Array:
        (height, side), (first, *rest) = self.sizes.start, self.sizes.generator
        x = nn.Dense(height * side * first, kernel_init=_INIT)(z)
        x = x.reshape(-1, height, side, first)
        norm = partial(BatchNorm, scale_init=nn.initializers.zeros)
        for features in rest:
            block = UpBlock(features, partial(norm, self.num_classes), _BLOCK_INIT, _INIT)
            x = block(x, label, train=train)
        x = nn.relu(norm()(x, train=train))
        return jnp.tanh(Conv3(self.channels, kernel_init=_INIT)(x))

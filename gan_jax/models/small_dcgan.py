"""The small convolutional networks of Metz et al. 2017, which are known to lose modes."""

import flax.linen as nn
import jax.numpy as jnp

from gan_jax import priors
from gan_jax.networks.linen import from_linen
from gan_jax.nn import (
    DCGAN_INIT,
    BatchNorm,
    Conditional,
    Doubled,
    Halved,
    Repainted,
    judged,
    with_class_channel,
)
from gan_jax.types import GAN, Array, Output

_SIDE = 28
_GENERATOR_SIDES = (7, 14, _SIDE)
_HE_INIT = nn.initializers.he_normal()


def small_dcgan(
    shape: tuple[int, int, int],
    *,
    latent: int = 256,
    width: int = 8,
    discriminator_width: int = 4,
    num_classes: int | None = None,
    conditional: Conditional = "projection",
    discriminator_norm: bool = True,
) -> GAN:
    """Returns a GAN of two small convolutional networks, with z ~ N(0, I).

    The networks are those of Metz et al. 2017, appendix D. The defaults are those of Lin et al.
    2018 (PacGAN), section 4.2, where D is half as wide as G. With the defaults, the sizes of G's
    layers are 4x4x64, 7x7x32, 14x14x16, 28x28x8 and 28x28xC. D's layers have 4, 8 and 16 features.
    Kernels are 3x3. Batch norm is used except at G's output. G uses ReLU and a final tanh, and D
    uses leaky ReLU with slope 0.3.

    G has the initial weights of DCGAN. D has those of He et al. 2015, equation 10, although Lin et
    al. use the initial weights of DCGAN for D too. With so few features and no batch norm, DCGAN's
    weights would reduce the signal to a tenth in each layer.

    Args:
      shape: [28, 28, C] of one image.
      latent: number of dimensions of z.
      width: number of G's features at the full image size. The number doubles each time the size is
        halved.
      discriminator_width: number of features of D's first layer. Each further layer has twice as
        many features as the layer before.
      num_classes: number of classes of a conditional GAN, or None for an unconditional GAN. G uses
        conditional batch norm.
      conditional: how D uses the class. See `gan_jax.nn.Conditional`.
      discriminator_norm: whether D has batch norm. Without batch norm, D judges each image
        separately, as a gradient penalty assumes. With batch norm, D compares the images of a batch
        and trains without a penalty.

    Raises:
      ValueError: the images have another size.
    """
    height, side, channels = shape
    if height != side or side != _SIDE:
        raise ValueError(
            f"small_dcgan takes images of {_SIDE} pixels, got {height}x{side}: "
            "resize them, or choose another model"
        )
    return GAN(
        generator=from_linen(_Generator(channels, width, num_classes)),
        discriminator=from_linen(
            _Discriminator(discriminator_width, discriminator_norm, num_classes, conditional)
        ),
        prior=priors.normal(latent),
    )


class _Generator(nn.Module):
    channels: int
    width: int
    num_classes: int | None

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None, *, train: bool) -> Array:
        def activated(x: Array) -> Array:
            return nn.relu(BatchNorm(self.num_classes)(x, label, train=train))

        features = 2 ** len(_GENERATOR_SIDES) * self.width
        x = nn.Dense(4 * 4 * features, use_bias=False, kernel_init=DCGAN_INIT)(z)
        x = x.reshape(-1, 4, 4, features)
        for side in _GENERATOR_SIDES:
            features //= 2
            x = Doubled(features, side)(activated(x))
        return jnp.tanh(Repainted(self.channels)(activated(x)))


class _Discriminator(nn.Module):
    width: int
    norm: bool
    num_classes: int | None
    conditional: Conditional

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None, *, train: bool) -> Array | Output:
        x = with_class_channel(x, self.num_classes, label, self.conditional)
        for level in range(3):
            x = Halved(self.width * 2**level, use_bias=not self.norm)(x)
            if self.norm:
                x = BatchNorm()(x, train=train)
            x = nn.leaky_relu(x, 0.3)
        x = x.reshape(x.shape[0], -1)
        return judged(x, self.num_classes, label, self.conditional, kernel_init=_HE_INIT)

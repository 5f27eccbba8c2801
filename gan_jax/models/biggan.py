"""BigGAN (Brock et al. 2019): residual networks with spectral normalisation in G and D."""

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.initializers import Initializer

from gan_jax import priors
from gan_jax.networks.linen import from_linen
from gan_jax.networks.spectral import spectral_norm
from gan_jax.nn import BatchNorm, Conditional
from gan_jax.nn.attention import SelfAttention
from gan_jax.nn.conditional import labels_for
from gan_jax.nn.norms import ModulatedBatchNorm
from gan_jax.nn.residual import Conv3, Plan, ResidualDiscriminator, UpBlock, plan
from gan_jax.types import GAN, Array

_INIT: Initializer = nn.initializers.orthogonal()

_EMBEDDING = 128
"""The number of features of G's embedding of a class."""


def biggan(
    shape: tuple[int, int, int],
    *,
    latent: int = 120,
    width: int = 64,
    num_classes: int | None = None,
    conditional: Conditional = "projection",
    attention: bool = True,
) -> GAN:
    """Returns a BigGAN, with the prior z ~ N(0, I).

    The latent z is cut into one chunk for G's first layer and one for each block. Each block
    computes the scale and bias of its batch norms from its own chunk and an embedding of the class
    that all blocks share (paper, section 3 and appendix B). G ends in tanh. D has no batch norm,
    and ends in a sum over pixels.

    Kernels are orthogonal at first. Both networks are spectrally normalised by the norms of the
    reshaped kernels (`spectral_norm` with `as_matrix=True`). G's embedding is not normalised, as in
    the authors' code.

    With the default width, images of 64 and 128 pixels have 64 to 1024 features, and images up to
    32 pixels have 256. (The paper uses a width of 96.)

    Args:
      shape: [H, W, C] of one image, such as 28, 32, 48, 64 or 128 pixels. The image may be not
        square. G starts from an image whose shorter side has 4 to 7 pixels.
      latent: number of dimensions of z.
      width: number of features in G's layer nearest to an image of 128 pixels. All numbers of
        features are multiples of it.
      num_classes: number of classes of a conditional GAN, or None for an unconditional GAN.
      conditional: how D uses the class. See `gan_jax.nn.Conditional`.
      attention: whether both networks have self-attention at half the size of the image, as the
        paper has for 128 pixels. The authors' code for CIFAR-10 has no attention.

    Raises:
      ValueError: the images are smaller than 8 pixels, a side cannot be halved as often as G
        doubles it, or z has fewer dimensions than chunks.
    """
    sizes = plan(shape, width, wide=True, model="biggan")
    if latent < len(sizes.generator):
        raise ValueError(
            f"biggan cuts z into {len(sizes.generator)} chunks, got latent={latent}: use at least "
            f"{len(sizes.generator)} dimensions"
        )
    discriminator = ResidualDiscriminator(
        sizes.discriminator,
        sizes.halvings,
        num_classes,
        conditional,
        _INIT,
        _INIT,
        wide=True,
        attention=attention,
    )
    generator = from_linen(_Generator(sizes, shape[-1], num_classes, attention))
    return GAN(
        generator=spectral_norm(generator, as_matrix=True, embeddings=False),
        discriminator=spectral_norm(from_linen(discriminator), as_matrix=True),
        prior=priors.normal(latent),
    )


class _Generator(nn.Module):
    sizes: Plan
    channels: int
    num_classes: int | None
    attention: bool

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None, *, train: bool) -> Array:
        (height, side), (first, *rest) = self.sizes.start, self.sizes.generator
        chunk, *chunks = jnp.array_split(z, len(rest) + 1, axis=1)
        label = labels_for(self.num_classes, label)
        if self.num_classes is not None and label is not None:
            of_class = nn.Embed(self.num_classes, _EMBEDDING, embedding_init=_INIT)(label)
            chunks = [jnp.concatenate([of_class.astype(z.dtype), part], axis=1) for part in chunks]
        x = nn.Dense(height * side * first, kernel_init=_INIT)(chunk)
        x = x.reshape(-1, height, side, first)
        for i, (features, condition) in enumerate(zip(rest, chunks, strict=True)):
            x = UpBlock(features, ModulatedBatchNorm, _INIT, _INIT)(x, condition, train=train)
            if self.attention and i == len(rest) - 2:
                x = SelfAttention(_INIT)(x)
        x = nn.relu(BatchNorm(scale_init=nn.initializers.zeros)(x, train=train))
        return jnp.tanh(Conv3(self.channels, kernel_init=_INIT)(x))

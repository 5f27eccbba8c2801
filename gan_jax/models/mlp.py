"""Multilayer perceptrons: a small GAN, and the maxout networks of Goodfellow et al. 2014."""

import math

import flax.linen as nn
import jax.numpy as jnp

from gan_jax import priors
from gan_jax.networks.linen import from_linen
from gan_jax.nn import (
    Conditional,
    Dense,
    Dropout,
    FourierFeatures,
    MinibatchStd,
    judged,
    with_class,
    with_class_channel,
)
from gan_jax.types import GAN, Array, Output

Shape = tuple[int, ...]


def mlp(
    shape: Shape,
    *,
    latent: int = 64,
    width: int = 256,
    num_classes: int | None = None,
    conditional: Conditional = "projection",
    depth: int = 2,
    bounded: bool = True,
    generator_slope: float = 0.2,
    minibatch_std: bool = False,
    fourier: int = 0,
) -> GAN:
    """Returns a GAN of two perceptrons with `depth` hidden layers of `width` leaky ReLUs.

    The prior is z ~ N(0, I).

    Args:
      shape: shape of one example.
      latent: number of dimensions of z.
      width, depth: number of features in each hidden layer, and number of these layers.
      num_classes: number of classes of a conditional GAN, or None for an unconditional GAN. G
        receives z and the class as a one-hot vector.
      conditional: how D uses the class. See `gan_jax.nn.Conditional`.
      bounded: whether G ends in a tanh, for images in [-1, 1]. If False, G's last layer is linear.
      generator_slope: slope of G's leaky ReLUs for negative inputs. With slope 0 (ReLU), G can map
        a whole region of z to one point. The modes are then sharper, with fewer samples between
        them.
      minibatch_std: whether D's last layer also receives the feature of `gan_jax.nn.MinibatchStd`,
        the variation within the batch.
      fourier: number of waves of `gan_jax.nn.FourierFeatures` that D also receives.

    Raises:
      ValueError: raised by the networks of a conditional GAN if the labels are missing or are not
        integers [B].
    """
    return GAN(
        generator=from_linen(
            _Generator(shape, width, depth, bounded, generator_slope, num_classes)
        ),
        discriminator=from_linen(
            _Discriminator(width, depth, minibatch_std, fourier, num_classes, conditional)
        ),
        prior=priors.normal(latent),
    )


def maxout(
    shape: Shape,
    *,
    latent: int = 100,
    width: int = 240,
    num_classes: int | None = None,
    conditional: Conditional = "projection",
) -> GAN:
    """Returns the networks of Goodfellow et al. 2014 for MNIST.

    The sizes are those of the code that the authors published.

    G has two layers of 5 * `width` ReLUs. In the paper it ends in a sigmoid. For images in [-1, 1],
    the sigmoid becomes tanh(x / 2). D has two maxout layers of `width` units with 5 pieces each,
    and a linear layer. Dropout is applied before each layer of D: the rate is 0.2 before the first
    layer and 0.5 before the others. Each dimension of z is drawn from U(-sqrt 3, sqrt 3).

    Args:
      shape: shape of one example.
      latent, width: number of dimensions of z, and number of D's units per layer. The defaults are
        those of the paper.
      num_classes, conditional: as for `mlp`. Mirza and Osindero 2014 made these networks
        conditional.

    Raises:
      ValueError: as for `mlp`.
    """
    return GAN(
        generator=from_linen(_ReluGenerator(shape, 5 * width, num_classes)),
        discriminator=from_linen(_MaxoutDiscriminator(width, num_classes, conditional)),
        prior=priors.uniform(latent),
    )


class _Generator(nn.Module):
    shape: Shape
    width: int
    depth: int
    bounded: bool
    slope: float
    num_classes: int | None

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None) -> Array:
        z = with_class(z, self.num_classes, label)
        for _ in range(self.depth):
            z = nn.leaky_relu(Dense(self.width)(z), self.slope)
        x = Dense(math.prod(self.shape))(z)
        return (jnp.tanh(x) if self.bounded else x).reshape(-1, *self.shape)


class _Discriminator(nn.Module):
    width: int
    depth: int
    minibatch_std: bool
    fourier: int
    num_classes: int | None
    conditional: Conditional

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None) -> Array | Output:
        x = with_class_channel(x, self.num_classes, label, self.conditional)
        x = x.reshape(x.shape[0], -1)
        if self.fourier:
            x = FourierFeatures(self.fourier)(x)
        for _ in range(self.depth):
            x = nn.leaky_relu(Dense(self.width)(x), 0.2)
        if self.minibatch_std:
            x = MinibatchStd()(x)
        return judged(x, self.num_classes, label, self.conditional)


class _ReluGenerator(nn.Module):
    shape: Shape
    width: int
    num_classes: int | None

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None) -> Array:
        z = with_class(z, self.num_classes, label)
        init = nn.initializers.uniform(0.1)  # shifted below to U(-0.05, 0.05)

        def weights(key: Array, shape: Shape, dtype: jnp.dtype = jnp.float32) -> Array:
            return init(key, shape, dtype) - 0.05

        for _ in range(2):
            z = nn.relu(nn.Dense(self.width, kernel_init=weights)(z))
        x = nn.Dense(math.prod(self.shape), kernel_init=weights)(z)
        return jnp.tanh(x / 2).reshape(-1, *self.shape)


class _MaxoutDiscriminator(nn.Module):
    width: int
    num_classes: int | None
    conditional: Conditional
    pieces: int = 5

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None, *, train: bool) -> Array | Output:
        x = with_class_channel(x, self.num_classes, label, self.conditional)
        x = Dropout(0.2)(x.reshape(x.shape[0], -1), train=train)
        for _ in range(2):
            x = nn.Dense(self.width * self.pieces)(x)
            x = x.reshape(x.shape[0], self.width, self.pieces).max(axis=-1)
            x = Dropout(0.5)(x, train=train)
        return judged(x, self.num_classes, label, self.conditional)

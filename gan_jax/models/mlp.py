"""Multilayer perceptrons: a small one, and the maxout-and-dropout pair of the 2014 paper."""

import math

import flax.linen as nn
import jax.numpy as jnp

from gan_jax import priors
from gan_jax.networks.linen import from_linen
from gan_jax.nn import Dropout, MinibatchStd
from gan_jax.types import GAN, Array

Shape = tuple[int, ...]


def mlp(
    shape: Shape,
    *,
    latent: int = 64,
    width: int = 256,
    depth: int = 2,
    bounded: bool = True,
    generator_slope: float = 0.2,
    minibatch_std: bool = False,
) -> GAN:
    """Two perceptrons with `depth` hidden layers of `width` leaky ReLUs; z ~ N(0, I).

    Args:
      shape: of one example.
      latent, width, depth: the sizes.
      bounded: whether G ends in a tanh, as images in [-1, 1] want, or is linear.
      generator_slope: of G's leaky ReLUs below 0. With 0, ReLUs, G can send a whole region of z to
        one point: sharper modes, with less between them.
      minibatch_std: whether D's last layer also sees how much the batch varies.
    """
    return GAN(
        generator=from_linen(_Generator(shape, width, depth, bounded, generator_slope)),
        discriminator=from_linen(_Discriminator(width, depth, minibatch_std)),
        prior=priors.normal(latent),
    )


def maxout(shape: Shape, *, latent: int = 100, width: int = 240) -> GAN:
    """The networks of Goodfellow et al. 2014 for MNIST, with the sizes of their published code.

    G: two layers of 5 `width` ReLUs, then a sigmoid (here on [-1, 1], which is tanh(x / 2)).
    D: dropout .2, maxout of `width` units of 5 pieces, twice, dropout .5 before each further
    layer. z ~ U(-sqrt 3, sqrt 3).

    Args:
      shape: of one example.
      latent, width: the sizes, by default those of the paper.
    """
    return GAN(
        generator=from_linen(_ReluGenerator(shape, 5 * width)),
        discriminator=from_linen(_MaxoutDiscriminator(width)),
        prior=priors.uniform(latent),
    )


class _Generator(nn.Module):
    shape: Shape
    width: int
    depth: int
    bounded: bool
    slope: float

    @nn.compact
    def __call__(self, z: Array) -> Array:
        for _ in range(self.depth):
            z = nn.leaky_relu(nn.Dense(self.width)(z), self.slope)
        x = nn.Dense(math.prod(self.shape))(z)
        return (jnp.tanh(x) if self.bounded else x).reshape(-1, *self.shape)


class _Discriminator(nn.Module):
    width: int
    depth: int
    minibatch_std: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.reshape(x.shape[0], -1)
        for _ in range(self.depth):
            x = nn.leaky_relu(nn.Dense(self.width)(x), 0.2)
        if self.minibatch_std:
            x = MinibatchStd()(x)
        return nn.Dense(1)(x)[:, 0]


class _ReluGenerator(nn.Module):
    shape: Shape
    width: int

    @nn.compact
    def __call__(self, z: Array) -> Array:
        init = nn.initializers.uniform(0.1)  # shifted below to U(-.05, .05)

        def weights(key: Array, shape: Shape, dtype: jnp.dtype = jnp.float32) -> Array:
            return init(key, shape, dtype) - 0.05

        for _ in range(2):
            z = nn.relu(nn.Dense(self.width, kernel_init=weights)(z))
        x = nn.Dense(math.prod(self.shape), kernel_init=weights)(z)
        return jnp.tanh(x / 2).reshape(-1, *self.shape)


class _MaxoutDiscriminator(nn.Module):
    width: int
    pieces: int = 5

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = Dropout(0.2)(x.reshape(x.shape[0], -1), train=train)
        for _ in range(2):
            x = nn.Dense(self.width * self.pieces)(x)
            x = x.reshape(x.shape[0], self.width, self.pieces).max(axis=-1)
            x = Dropout(0.5)(x, train=train)
        return nn.Dense(1)(x)[:, 0]

"""GANs small enough for every test, whose batch is hard to split, and the steps that train them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import gan_jax
from gan_jax import GAN, Batch, penalties, priors
from gan_jax.losses import non_saturating
from gan_jax.nn import BatchNorm, Conv, ConvTranspose, Dropout

BATCH = 16
TX = optax.sgd(0.2)  # Adam would hide gradients of a wrong scale
ROLES = ["discriminator", "generator"]


class _Generator(nn.Module):
    norm: bool

    @nn.compact
    def __call__(self, z, *, train):
        x = nn.Dense(4 * 4 * 2)(z).reshape(-1, 4, 4, 2)
        if self.norm:
            x = BatchNorm()(x, train=train)
        return jnp.tanh(ConvTranspose(1)(nn.relu(x)))


class _Discriminator(nn.Module):
    norm: bool

    @nn.compact
    def __call__(self, x, *, train):
        x = Conv(2)(x)
        if self.norm:
            x = BatchNorm()(x, train=train)
        x = Dropout(0.3)(nn.leaky_relu(x, 0.2), train=train)
        return nn.Dense(1)(x.reshape(x.shape[0], -1))[:, 0]


def make_gan(*, norm=False):
    """Images [8, 8, 1] against a D with dropout; both with batch norm, or neither."""
    return GAN(
        gan_jax.from_linen(_Generator(norm)),
        gan_jax.from_linen(_Discriminator(norm)),
        priors.normal(3),
    )


class _Deep(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, *, train):
        x = x.reshape(x.shape[0], -1)
        for _ in range(8):
            x = nn.tanh(nn.Dense(64)(x))
        x = nn.Dense(self.features)(x)
        return x.reshape(-1, 8, 8, 1) if self.features > 1 else x[:, 0]


def make_deep_gan():
    """The same images, each network with eight layers of 64 units, whose activations are most."""
    return GAN(gan_jax.from_linen(_Deep(64)), gan_jax.from_linen(_Deep(1)), priors.normal(3))


def make_step(role, gan, axis_name=None, **options):
    """D's step, by default with R1 and a penalty that draws for each example; or G's."""
    if role == "generator":
        return gan_jax.make_generator_step(gan, non_saturating, TX, axis_name=axis_name, **options)
    options = {"penalties": [(penalties.r1, 0.1), (penalties.gradient_penalty, 0.1)], **options}
    return gan_jax.make_discriminator_step(gan, non_saturating, TX, axis_name=axis_name, **options)


def first_state(gan, key):
    """Pure: compile it."""
    return gan_jax.init(gan, TX, TX, key, Batch(jnp.zeros((BATCH, 8, 8, 1))))


def difference(tree, other):
    """The largest of any leaf of two states, keys aside."""
    flat = (jax.tree.leaves(t.replace(key=None)) for t in (tree, other))
    return max(float(jnp.abs(a - b).max()) for a, b in zip(*flat, strict=True))

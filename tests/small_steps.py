"""Steps of small GANs by SGD, and what is asked of them."""

import jax
import numpy as np
import optax

import gan_jax
from gan_jax import Batch
from gan_jax.losses import minimax

RATE = 0.1
SGD = optax.sgd(RATE)
ROLES = ["discriminator", "generator"]

REAL = jax.random.normal(jax.random.key(7), (6, 2)) + 1.0


def start(gan, batch=None, tx=SGD, seed=0):
    batch = Batch(REAL) if batch is None else batch
    return _init(gan, tx, tx, jax.random.key(seed), batch)


_init = jax.jit(gan_jax.init, static_argnums=(0, 1, 2))


def make(role, gan, loss=minimax, tx=SGD, **options):
    makers = {
        "discriminator": gan_jax.make_discriminator_step,
        "generator": gan_jax.make_generator_step,
    }
    return makers[role](gan, loss, tx, **options)


def assert_same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def numpy_of(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)

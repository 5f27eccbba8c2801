"""Dropout that does not depend on how a batch is split."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gan_jax.random import per_example
from gan_jax.types import Array


class Dropout(nn.Module):
    """Dropout whose mask for an example depends on the example's index in the whole batch.

    [B, ...] -> [B, ...].

    Under a mapped axis `flax.linen.Dropout` would draw the same mask on every shard. This layer
    draws the masks that one device would draw for the whole batch. `rate` is the probability with
    which a number is set to 0.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        if not train or self.rate == 0 or self.is_initializing():
            return x
        keys = per_example(self.make_rng("dropout"), x)
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1.0 - self.rate), 0.0)

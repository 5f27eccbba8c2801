"""Layers that compare the examples of a batch."""

import flax.linen as nn
import jax.numpy as jnp

from gan_jax import batches
from gan_jax.trees import at_least_single
from gan_jax.types import Array


class MinibatchStd(nn.Module):
    """One more feature, the same everywhere: how much a batch varies (Karras et al. 2018, 3).

    [B, ..., C] -> [B, ..., C + 1]. The standard deviation of each feature in each place over the
    examples, averaged over features and places: a G that repeats itself gives itself away. It is
    of the batch of all devices, where the paper's code takes groups of four.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def mean(y: Array) -> Array:
            return batches.mean(y, keepdims=True)

        wide = at_least_single(x)
        variance = mean(jnp.square(wide - mean(wide)))
        # 1e-8, which float16 would round to 0, keeps the root's slope finite if all examples are
        # equal.
        deviation = jnp.mean(jnp.sqrt(variance + 1e-8))
        return jnp.concatenate([x, jnp.full_like(x[..., :1], deviation)], axis=-1)

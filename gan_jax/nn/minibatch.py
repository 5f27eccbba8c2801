"""Layers that compare the examples of a batch."""

import flax.linen as nn
import jax.numpy as jnp

from gan_jax import batches
from gan_jax.trees import at_least_single
from gan_jax.types import Array


class MinibatchStd(nn.Module):
    """A layer that adds one feature: the variation within the batch.

    [B, ..., C] -> [B, ..., C + 1]. The feature has the same value everywhere: the standard
    deviation over the examples, averaged over all features and positions. With this feature D can
    detect a G that repeats itself (Karras et al. 2018, section 3). The standard deviation is
    computed over the batch of all devices. The paper's code uses groups of four examples.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def mean(y: Array) -> Array:
            return batches.mean(y, keepdims=True)

        wide = at_least_single(x)
        variance = mean(jnp.square(wide - mean(wide)))
        # 1e-8 keeps the derivative of the root finite if all examples are equal. float16 would
        # round 1e-8 to 0.
        deviation = jnp.mean(jnp.sqrt(variance + 1e-8))
        return jnp.concatenate([x, jnp.full_like(x[..., :1], deviation)], axis=-1)

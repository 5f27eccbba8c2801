"""Initial parameters: initialisers, their type, and the bias of a convolution."""

import flax.linen as nn
import jax.numpy as jnp

from gan_jax.types import Array

DCGAN_INIT = nn.initializers.normal(0.02)
"""N(0, 0.02^2), the initial weights of Radford et al. 2016, section 3."""


PARAM_DTYPE = jnp.float32
"""The type of initial parameters, as in Flax. Without it, JAX's initialisers would use float64 in
x64 mode."""


def biased(layer: nn.Module, y: Array) -> Array:
    """Returns images y [B, H, W, C] plus a parameter "bias" of the layer, which starts at 0."""
    shape = (1, 1, 1, y.shape[-1])
    return y + layer.param("bias", nn.initializers.zeros, shape, PARAM_DTYPE)

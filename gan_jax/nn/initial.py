"""Initialisers and the type of initial parameters."""

import flax.linen as nn
import jax.numpy as jnp

DCGAN_INIT = nn.initializers.normal(0.02)
"""N(0, 0.02^2), the initial weights of Radford et al. 2016, section 3."""


PARAM_DTYPE = jnp.float32
"""The type of initial parameters, as in Flax. Without it, JAX's initialisers would use float64 in
x64 mode."""

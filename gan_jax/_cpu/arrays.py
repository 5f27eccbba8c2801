"""Control over the arrays that XLA writes to memory on a CPU."""

import jax.numpy as jnp

from gan_jax.types import Array


def materialised(x: Array) -> Array:
    """Returns x unchanged, after making XLA write it to memory.

    XLA computes a cheap operation, even a transposition, again wherever its result is read.
    """
    # XLA does not repeat a division. It removes `jax.lax.optimization_barrier`.
    return x / jnp.where(jnp.isnan(x), 2.0, 1.0).astype(x.dtype)

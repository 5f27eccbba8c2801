"""A hint to XLA's compiler for CPUs."""

import jax.numpy as jnp

from gan_jax.types import Array


def materialised(x: Array) -> Array:
    """Returns x to the bit, and makes XLA write it to memory before anything reads it.

    XLA computes what is cheap, a transposition too, again in each operation that reads it. It does
    not repeat a division. (It removes `jax.lax.optimization_barrier`.)
    """
    return x / jnp.where(jnp.isnan(x), 2.0, 1.0).astype(x.dtype)

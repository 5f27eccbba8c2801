"""Control over the arrays that XLA writes to memory on a CPU."""

import jax.numpy as jnp

from gan_jax.types import Array


def materialised(x: Array) -> Array:
    """Returns x, and makes XLA write it to memory.

    Otherwise XLA may repeat a cheap operation, even a transposition, wherever its result is read.
    """
    # XLA does not repeat a division. A `jax.lax.optimization_barrier` does not help: XLA removes
    # it.
    return x / jnp.where(jnp.isnan(x), 2.0, 1.0).astype(x.dtype)

"""Distances between points, in no more memory than the result takes."""

import jax
import jax.numpy as jnp

from gan_jax.types import Array


@jax.jit
def squared_distances(x: Array, y: Array) -> Array:
    """Squared Euclidean distances |x_i - y_j|^2: [N, D], [M, D] -> [N, M].

    Each is the sum of squared differences, never |x|^2 + |y|^2 - 2 x.y, which loses the digits of
    a small distance between points far from the origin. Blocks of rows are computed one after
    another, so that the differences [rows, M, D] of a block take no more memory than the result,
    or than y where D is above N.
    """
    rows = max(1, len(x) // max(1, x.shape[1]))
    return jax.lax.map(lambda row: jnp.sum(jnp.square(row[None] - y), axis=1), x, batch_size=rows)

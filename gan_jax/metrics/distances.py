"""Distances between points, computed with little memory."""

import jax
import jax.numpy as jnp

from gan_jax.types import Array


def points(name: str, x: Array, *, least: int = 1) -> jax.Array:
    """Returns points [N, D] as real numbers in at least float32.

    Squares of smaller types, such as uint8, could overflow.

    Args:
      name: the name of the argument, for messages.
      x: an array or a list that NumPy can convert.
      least: the smallest N allowed.

    Raises:
      TypeError: the points are not real numbers.
      ValueError: the shape is wrong or N is below `least`.
    """
    x = jnp.asarray(x)
    if not (jnp.issubdtype(x.dtype, jnp.integer) or jnp.issubdtype(x.dtype, jnp.floating)):
        raise TypeError(f"{name} must be real numbers, got {x.dtype}")
    if x.ndim != 2 or x.shape[0] < least or x.shape[1] < 1:
        raise ValueError(
            f"{name} must be points [N, D] with N >= {least} and D >= 1, got shape "
            f"{list(x.shape)}: flatten each point, as by {name}.reshape(len({name}), -1)"
        )
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.jit
def squared_distances(x: Array, y: Array) -> Array:
    """Returns squared Euclidean distances |x_i - y_j|^2: [N, D], [M, D] -> [N, M].

    Each distance is a sum of squared differences. The form |x|^2 + |y|^2 - 2 x.y would lose the
    digits of small distances between points far from the origin. The result is computed in blocks
    of rows, one block after another. A block's differences [rows, M, D] therefore need no more
    memory than the result, or than y if D > N.
    """
    rows = max(1, len(x) // max(1, x.shape[1]))
    return jax.lax.map(lambda row: jnp.sum(jnp.square(row[None] - y), axis=1), x, batch_size=rows)

"""Distances between points, computed with little memory."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

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
    check_points(name, x, least)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def check_points(name: str, x: Array | NDArray[Any], least: int) -> None:
    """Raises an error if x is not points [N, D] of real numbers with N >= `least` and D >= 1."""
    if not (jnp.issubdtype(x.dtype, jnp.integer) or jnp.issubdtype(x.dtype, jnp.floating)):
        raise TypeError(f"{name} must be real numbers, got {x.dtype}")
    if x.ndim != 2 or x.shape[0] < least or x.shape[1] < 1:
        raise ValueError(
            f"{name} must be points [N, D] with N >= {least} and D >= 1, got shape "
            f"{list(x.shape)}: flatten each point, for example by {name}.reshape(len({name}), -1)"
        )


def check_dimensions(**named: Array | NDArray[Any]) -> None:
    """Raises ValueError if the named points do not all have the same dimensions D."""
    if len({x.shape[1] for x in named.values()}) > 1:
        raise ValueError(
            f"{' and '.join(named)} must have the same dimensions D, got shapes "
            f"{' and '.join(str(list(x.shape)) for x in named.values())}"
        )


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


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yields slices that divide `rows` rows into blocks of at most 2^23 numbers (64 MB in
    float64), or of one row if a row is longer."""
    size = max(1, 2**23 // columns)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def squared_distance_blocks(
    x: NDArray[np.floating], y: NDArray[np.floating]
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yields blocks of rows of the squared distances [N, M], in float64 NumPy.

    Each item is a slice of rows and the distances [rows, M] of these points of x from all points of
    y. Only one block is in memory. The form |x|^2 - 2 x.y + |y|^2 is fast, and in float64 it keeps
    enough digits of features.
    """
    x, y = x.astype(np.float64, copy=False), y.astype(np.float64, copy=False)
    x_squares, y_squares = np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", y, y)
    for rows in blocks(len(x), len(y)):
        block = x[rows] @ y.T
        block *= -2
        block += x_squares[rows, None]
        block += y_squares
        yield rows, np.maximum(block, 0, out=block)

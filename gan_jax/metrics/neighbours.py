"""Memorisation: whether samples are nearer to the training set than unseen data are."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gan_jax.metrics.distances import check_dimensions, points
from gan_jax.types import Array


class Memorisation(NamedTuple):
    """The distances from samples and from held-out examples to the training set.

    Attributes:
      samples: [N] distance from each sample to its nearest training example.
      nearest: [N] int32, the index of that training example.
      held_out: [M] distance from each held-out example to its nearest training example.
      ratio: [] the median of `samples` divided by the median of `held_out`. It is about 1 if the
        generator draws new examples as the data do, near 0 if it copies training examples, and
        above 1 if its samples are unlike the data.
    """

    samples: Array
    nearest: Array
    held_out: Array
    ratio: Array


def memorisation(samples: Array, training: Array, held_out: Array) -> Memorisation:
    """Compares the distances to the training set of samples and of held-out examples.

    Held-out examples are new by definition, so their distances show what is usual (Meehan et al.
    2020 compare the same distances by a rank test). Features of a classifier show copies that
    pixels hide, such as shifted ones. To look at pairs, draw `training[nearest]` next to the
    samples.

    Args:
      samples: [N, D] features or pixels of samples, real numbers.
      training: [T, D] those of the data that the GAN was trained on.
      held_out: [M, D] those of data from the same source that it was not trained on.

    Raises:
      TypeError: an argument does not contain real numbers.
      ValueError: a shape is wrong.
    """
    distance, index = nearest(samples, training)
    usual, _ = nearest(held_out, training)
    return Memorisation(distance, index, usual, jnp.median(distance) / jnp.median(usual))


def nearest(x: Array, y: Array, *, rows: int = 256) -> tuple[Array, Array]:
    """Returns the Euclidean distance [N] from each point of x to the nearest point of y, and the
    index [N] of that point.

    Args:
      x, y: [N, D] and [M, D], real numbers.
      rows: number of points of x that are compared at a time. Together with them, memory holds
        rows * M squared distances.

    Raises:
      TypeError: x or y does not contain real numbers.
      ValueError: a shape is wrong, or `rows` is below 1.
    """
    x, y = points("x", x), points("y", y)
    check_dimensions(x=x, y=y)
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    return _nearest(x, y, rows)


@jax.jit(static_argnames="rows")
def _nearest(x: Array, y: Array, rows: int) -> tuple[Array, Array]:
    # Products are faster than differences, but lose the digits of small distances. The products
    # only choose the nearest point. Centred points lose fewer digits.
    centre = jnp.mean(y, axis=0, keepdims=True)
    x, y = x - centre, y - centre
    squares = jnp.sum(jnp.square(y), axis=1)

    def one(row: Array) -> tuple[Array, Array]:
        products = jnp.matmul(y, row, precision=jax.lax.Precision.HIGHEST)
        index = jnp.argmin(squares - 2 * products)
        return jnp.linalg.norm(row - y[index]), index

    return jax.lax.map(one, x, batch_size=rows)

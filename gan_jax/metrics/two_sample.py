"""Whether two samples come from one distribution: the energy distance and its permutation test."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gan_jax.metrics.distances import points, squared_distances
from gan_jax.types import Array


class TwoSample(NamedTuple):
    """The result of a test.

    Attributes:
      distance: [] the energy distance of the two samples, at least 0; NaN if a sample has a value
        that is not finite.
      p_value: [] the probability of a distance at least as large if both samples had one
        distribution, at least 1 / (permutations + 1); NaN where the distance is NaN.
    """

    distance: Array
    p_value: Array


def energy_test(x: Array, y: Array, key: Array, *, permutations: int = 199) -> TwoSample:
    """Tests x ~ y by 2 E|x - y| - E|x - x'| - E|y - y'| (Szekely and Rizzo 2013, equation 5).

    The distance is 0 only if both distributions are equal, whatever they are. The p-value compares
    it with the distances after random divisions of the pooled samples, which makes the test exact:
    at the level of 5 % it rejects one in twenty perfect samplers.

    Memory: at most 2 (N + M)^2 numbers for the distances, 2 (permutations + 1) (N + M) for the
    divisions and four copies of the samples, (N + M) D each.

    Args:
      x, y: [N, D] and [M, D] samples of real numbers, N and M at least 2.
      key: of the permutations.
      permutations: the number of random divisions, at least 1.

    Raises:
      ValueError: if a shape is wrong, or `permutations` is below 1.
      TypeError: if the samples are complex or bool.
    """
    x, y = points("x", x, least=2), points("y", y, least=2)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"x and y must have the same dimensions D, got shapes {list(x.shape)} and "
            f"{list(y.shape)}"
        )
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    pooled = jnp.concatenate([x, y])
    distances = jnp.sqrt(squared_distances(pooled, pooled))
    side = jnp.where(jnp.arange(len(pooled)) < len(x), 1 / len(x), -1 / len(y))
    keys = jax.random.split(key, permutations)
    sides = jnp.concatenate([side[None], jax.vmap(lambda k: jax.random.permutation(k, side))(keys)])
    # The result is a small difference of large sums: an accelerator's default precision is too low.
    sums = jnp.matmul(sides, distances, precision=jax.lax.Precision.HIGHEST)
    energies = -jnp.sum(sums * sides, axis=1)
    # Rounding must not decide between a permutation and the samples as they came.
    reached = energies >= energies[0] * (1 - 1e-5)
    p_value = jnp.mean(reached, dtype=pooled.dtype)
    # No comparison with NaN is true: the p-value would be 0.
    p_value = jnp.where(jnp.isnan(energies[0]), jnp.nan, p_value)
    return TwoSample(jnp.maximum(energies[0], 0.0), p_value)

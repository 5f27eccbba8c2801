"""Tests of the hypothesis that two samples have the same distribution."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from gan_jax.metrics.distances import (
    check_dimensions,
    points,
    squared_distance_blocks,
    squared_distances,
)
from gan_jax.metrics.features import pair, random_state
from gan_jax.types import Array


class TwoSample(NamedTuple):
    """The result of a two-sample test.

    Attributes:
      distance: [] the energy distance of the two samples, at least 0. It is NaN if a sample has a
        value that is not finite.
      p_value: [] the probability of a distance as large as this or larger, if both samples have the
        same distribution. It is at least 1 / (permutations + 1), and NaN if the distance is NaN.
    """

    distance: Array
    p_value: Array


class ClassifierTwoSample(NamedTuple):
    """The result of a classifier two-sample test.

    Attributes:
      accuracy: share of the held-out points whose sample the classifier names. It is near 1/2 if
        the distributions are equal.
      p_value: the probability of an accuracy as high as this or higher, if both samples have the
        same distribution.
    """

    accuracy: float
    p_value: float


def energy_test(x: Array, y: Array, key: Array, *, permutations: int = 199) -> TwoSample:
    """Tests whether x and y have the same distribution, by the energy distance of the samples.

    The distance is 2 E|x - y| - E|x - x'| - E|y - y'| (Szekely and Rizzo 2013, equation 5). It is 0
    only if the two distributions are equal. For the p-value, all samples are put together and
    randomly divided into two sets, many times. The distance between x and y is compared with the
    distances between these pairs of sets. The test is therefore exact: at the 5 % level it rejects
    5 % of perfect samplers.

    The test needs at most this memory: 2 (N + M)^2 numbers for the distances, 2 (permutations + 1)
    (N + M) numbers for the random divisions into two sets, and four copies of the samples.

    Args:
      x, y: [N, D] and [M, D] samples of real numbers, N and M at least 2.
      key: the key of the permutations.
      permutations: number of random divisions, at least 1.

    Raises:
      ValueError: a shape is wrong, or `permutations` is below 1.
      TypeError: the samples are complex or bool.
    """
    x, y = points("x", x, least=2), points("y", y, least=2)
    check_dimensions(x=x, y=y)
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    pooled = jnp.concatenate([x, y])
    distances = jnp.sqrt(squared_distances(pooled, pooled))
    side = jnp.where(jnp.arange(len(pooled)) < len(x), 1 / len(x), -1 / len(y))
    keys = jax.random.split(key, permutations)
    sides = jnp.concatenate([side[None], jax.vmap(lambda k: jax.random.permutation(k, side))(keys)])
    # The result is a small difference of large sums, so an accelerator's default precision is too
    # low.
    sums = jnp.matmul(sides, distances, precision=jax.lax.Precision.HIGHEST)
    energies = -jnp.sum(sums * sides, axis=1)
    # The tolerance keeps rounding errors from deciding the comparison of equal distances.
    reached = energies >= energies[0] * (1 - 1e-5)
    p_value = jnp.mean(reached, dtype=pooled.dtype)
    # Comparisons with NaN are false, so the p-value would be 0.
    p_value = jnp.where(jnp.isnan(energies[0]), jnp.nan, p_value)
    return TwoSample(jnp.maximum(energies[0], 0.0), p_value)


def classifier_two_sample(
    x: ArrayLike, y: ArrayLike, key: Array | int, *, neighbours: int | None = None
) -> ClassifierTwoSample:
    """Tests whether a classifier can tell x from y (Lopez-Paz & Oquab 2017, arXiv:1610.06545).

    The classifier asks the nearest neighbours, so it also sees widths of modes, to which a linear
    one is blind. It learns from a random half of the points and is tested on the other half. If x
    and y have different sizes, points of the larger are left out at random. The test is exact:
    given the predictions, the number of correct ones has a hypergeometric distribution.

    Args:
      x, y: [N, D] and [M, D] features or samples, N and M at least 4.
      key: the key of the halves.
      neighbours: number of neighbours that vote, odd. None means about the square root of the
        number of points to learn from.

    Raises:
      TypeError: the points are not real numbers.
      ValueError: a shape is wrong, a value is masked or not finite, or `neighbours` is even or
        above the number of points to learn from.
    """
    x, y = pair(x=x, y=y, least=4)
    half = min(len(x), len(y)) // 2
    k = math.isqrt(2 * half) | 1 if neighbours is None else neighbours
    if k % 2 != 1 or not 1 <= k < 2 * half:
        raise ValueError(f"neighbours must be odd, from 1 to {2 * half - 1}, got {k}")
    rng = random_state(key)
    x, y = (s[rng.permutation(len(s))[: 2 * half]] for s in (x, y))
    middle = x.mean(axis=0, dtype=np.float64)  # the squares of centred points keep digits
    known, new = (np.concatenate([x[part], y[part]]) - middle for part in np.s_[:half, half:])
    votes = np.empty(len(new), int)  # for x
    for rows, squared in squared_distance_blocks(new, known):
        votes[rows] = (np.argpartition(squared, k, axis=1)[:, :k] < half).sum(axis=1)
    called_x = votes > k // 2
    correct, called = int(called_x[:half].sum()), int(called_x.sum())
    accuracy = (correct + half - (called - correct)) / (2 * half)
    hits = np.arange(correct, min(half, called) + 1)
    log_p = _log_choose(half, hits) + _log_choose(half, called - hits)
    p_value = np.exp(log_p - _log_choose(2 * half, np.array(called))).sum()
    return ClassifierTwoSample(accuracy, min(float(p_value), 1.0))


def _log_choose(n: int, k: NDArray[np.integer]) -> NDArray[np.float64]:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)

"""Sliced Wasserstein distance (Rabin et al. 2011): optimal transport on random lines."""

import numpy as np
from numpy.typing import ArrayLike

from gan_jax.metrics.features import Float64Array, pair, random_state
from gan_jax.types import Array


def sliced_wasserstein(
    a: ArrayLike, b: ArrayLike, key: Array | int, *, projections: int = 128, order: int = 2
) -> float:
    """Returns (E W_p(u.a, u.b)^p)^(1/p), with the mean over random unit vectors u.

    Args:
      a, b: [N, D] and [M, D] features or samples.
      key: the key of the directions.
      projections: number of directions, at least 1.
      order: p, 1 or 2.

    Raises:
      TypeError: the features are not real numbers.
      ValueError: a shape is wrong, a value is masked or not finite, or an option is out of range.
    """
    a, b = pair(a=a, b=b, least=1)
    if projections < 1:
        raise ValueError(f"projections must be at least 1, got {projections}")
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    directions = random_state(key).normal(size=(projections, a.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # On a line, the optimal transport keeps the order. Between two marks, the mass of one point
    # goes to one point. The marks are integers: multiples of M for a and of N for b.
    n, m = len(a), len(b)
    marks = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    mass = np.diff(marks, prepend=0) / (n * m)
    from_a, to_b = (marks - 1) // m, (marks - 1) // n
    costs = np.abs(_sorted(a, directions)[:, from_a] - _sorted(b, directions)[:, to_b]) ** order
    return float(np.mean(costs @ mass) ** (1 / order))


def _sorted(x: np.ndarray, directions: Float64Array) -> Float64Array:
    """Returns the coordinates of the points on each line, in increasing order: [P, N]."""
    return np.sort(directions @ x.astype(np.float64).T, axis=1)

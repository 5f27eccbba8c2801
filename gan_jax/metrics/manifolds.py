"""Precision, recall, density and coverage, from balls round features.

The ball of a feature reaches to its k-th nearest neighbour in its own set. Kynkäänniemi et al. 2019
(arXiv:1904.06991) define precision and recall, and Naeem et al. 2020 (arXiv:2002.09797) density and
coverage.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gan_jax.metrics.distances import squared_distance_blocks
from gan_jax.metrics.features import pair


class PRDC(NamedTuple):
    """Precision, recall, density and coverage.

    Attributes:
      precision: share of fakes within the ball of a real feature.
      recall: share of reals within the ball of a fake feature.
      density: mean number of balls of real features that contain a fake, divided by k. For equal
        distributions its mean is 1.
      coverage: share of real features whose ball contains a fake. For equal distributions and
        N = M its mean is 1 - prod_{i=1..k} (N - i) / (2 N - i).
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: ArrayLike, fake: ArrayLike, k: int = 5) -> PRDC:
    """Returns the precision, recall, density and coverage of fake features.

    The results equal those of the package `prdc` 0.2. A distance is computed in float64 and, if
    both sets are float32, rounded to float32, as scikit-learn does for that package. The rounding
    decides which distances are equal. Memory holds a block of the distances and both sets in
    float64.

    Args:
      real: [N, D] features, N above k.
      fake: [M, D] features, M above k.
      k: the neighbour that a ball reaches to, at least 1.

    Raises:
      TypeError: the features are not real numbers.
      ValueError: a shape is wrong, a value is masked or not finite, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    real, fake = pair(real=real, fake=fake, least=k + 1)
    dtype = np.result_type(real, fake)
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    real_radii, fake_radii = _radii(real, k, dtype), _radii(fake, k, dtype)
    precise = np.zeros(len(fake), bool)
    recalled, covered = np.zeros((2, len(real)), bool)
    balls = 0
    for rows, squared in squared_distance_blocks(real, fake):
        distances = np.sqrt(squared.astype(dtype))
        radii = real_radii[rows]
        inside = distances < radii[:, None]
        precise |= inside.any(axis=0)
        balls += int(np.count_nonzero(inside))
        recalled[rows] = (distances < fake_radii).any(axis=1)
        covered[rows] = inside.any(axis=1)
    density = (1 / k) * (balls / len(fake))
    return PRDC(float(precise.mean()), float(recalled.mean()), density, float(covered.mean()))


def _radii(x: NDArray[np.float64], k: int, dtype: np.dtype) -> NDArray[np.floating]:
    """Returns the distance of each point to its k-th nearest neighbour: [N]."""
    radii = np.empty(len(x), dtype)
    for rows, squared in squared_distance_blocks(x, x):
        squared[np.arange(len(squared)), np.arange(len(x))[rows]] = 0  # each point from itself
        distances = squared.astype(dtype)
        distances.partition(k, axis=1)
        radii[rows] = np.sqrt(distances[:, k])
    return radii

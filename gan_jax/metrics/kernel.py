"""Kernel distance: the squared maximum mean discrepancy (MMD) of two sets of features.

The kernel is (x.y / D + 1)^3 (Binkowski et al. 2018, arXiv:1801.01401). Call the distance KID only
on features of the FID Inception network.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gan_jax.metrics.distances import blocks
from gan_jax.metrics.features import pair, random_state
from gan_jax.types import Array

SUBSET_SIZE = 1000
"""Rows in a subset, unless a set is smaller."""

_LARGEST = 1e12
"""Largest product whose cube is computed in float32, which overflows above 3e38."""


class KernelDistance(NamedTuple):
    """The kernel distance over random subsets.

    Attributes:
      distance: the mean over the subsets of the unbiased squared MMD. It may be below 0.
      error: the population standard deviation over the subsets, as in torch-fidelity. It estimates
        the spread of the distance between two single subsets. The standard error of `distance` is
        smaller.
    """

    distance: float
    error: float


def kernel_distance(
    a: ArrayLike,
    b: ArrayLike,
    key: Array | int,
    *,
    subsets: int = 100,
    subset_size: int | None = None,
) -> KernelDistance:
    """Returns the kernel distance of features: the mean unbiased squared MMD of random subsets.

    Args:
      a, b: [N, D] and [M, D] features.
      key: the key of the draws. An integer gives the subsets of torch-fidelity with that
        `rng_seed`.
      subsets: number of subsets, at least 1.
      subset_size: number of rows drawn without replacement from each set, at least 2. None means
        1,000, or the size of the smaller set if that is less.

    Raises:
      TypeError: the features are not real numbers.
      ValueError: a shape is wrong, a value is masked or not finite, or `subset_size` is above N or
        M.
    """
    a, b = pair(a=a, b=b)
    if subsets < 1:
        raise ValueError(f"subsets must be at least 1, got {subsets}")
    subset_size = min(SUBSET_SIZE, len(a), len(b)) if subset_size is None else subset_size
    if not 2 <= subset_size <= min(len(a), len(b)):
        raise ValueError(
            f"subset_size must be at least 2 and at most the number of rows, got {subset_size} "
            f"for {len(a)} and {len(b)} rows"
        )
    a, b, rng = _extended(a), _extended(b), random_state(key)
    found = [
        _squared_mmd(
            a[rng.choice(len(a), subset_size, replace=False)],
            b[rng.choice(len(b), subset_size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(found)), float(np.std(found)))


def squared_mmd(a: ArrayLike, b: ArrayLike) -> float:
    """Returns the unbiased squared MMD between all features of two sets, without random draws.

    Args:
      a, b: [N, D] and [M, D] features, N and M at least 2.

    Raises:
      TypeError: the features are not real numbers.
      ValueError: a shape is wrong, or a value is masked or not finite.
    """
    a, b = pair(a=a, b=b)
    return _squared_mmd(_extended(a), _extended(b))


def _extended(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Returns [x / sqrt(D), 1], so that products are x.y / D + 1.

    The dtype is kept unless cubes of the products could overflow in it.
    """
    scaled = x.astype(np.float64) / np.sqrt(x.shape[1])
    wide = np.concatenate([scaled, np.ones((len(x), 1))], axis=1)
    largest = np.einsum("ij,ij->i", wide, wide).max()
    return wide if largest > _LARGEST else wide.astype(x.dtype)


def _squared_mmd(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    n, m = len(x), len(y)
    within_x = (_kernel_sum(x, x) - _diagonal_sum(x)) / (n * (n - 1))
    within_y = (_kernel_sum(y, y) - _diagonal_sum(y)) / (m * (m - 1))
    return within_x + within_y - 2 * _kernel_sum(x, y) / (n * m)


def _kernel_sum(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    total = 0.0
    for rows in blocks(len(x), len(y)):
        # Errors of float32 products and cubes average out. Sums in float32 would lose digits.
        product = x[rows] @ y.T
        cube = product * product
        cube *= product
        total += float(cube.sum(dtype=np.float64))
    return total


def _diagonal_sum(x: NDArray[np.floating]) -> float:
    return float(np.sum(np.einsum("ij,ij->i", x, x).astype(np.float64) ** 3))

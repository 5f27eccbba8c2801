"""Fréchet distance between two Gaussians, in float64 NumPy.

The squared 2-Wasserstein distance between N(m1, S1) and N(m2, S2) is

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)

(Dowson & Landau 1982, "The Fréchet distance between multivariate normal distributions"). Heusel et
al. 2017 (arXiv:1706.08500) compare sets of images by the distance between Gaussians fitted to a
classifier's activations. Their FID uses one particular Inception network. If you use another
network, write "Fréchet distance" and name the network.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64Array = NDArray[np.float64]


def statistics(features: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """Returns the mean [F] and the unbiased covariance [F, F] of features [N, F], in float64.

    N must be at least 2. The rank of the covariance is at most N - 1, so use N well above F for a
    distance.

    Raises:
      TypeError: `features` is complex.
      ValueError: `features` is not of rank 2, has fewer than two rows, is not finite, or has masked
        values.
    """
    x = _float64("features", features)
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 1:
        raise ValueError(
            f"features must be [N >= 2, F >= 1], got {list(x.shape)}: one row for each image"
        )
    if not np.isfinite(x).all():
        raise ValueError("features must be finite")
    mean = x.mean(axis=0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def frechet_distance(
    mean_1: ArrayLike, cov_1: ArrayLike, mean_2: ArrayLike, cov_2: ArrayLike
) -> float:
    """Returns the squared Fréchet (2-Wasserstein) distance between two Gaussians, >= 0.

    The trace of (S1^1/2 S2 S1^1/2)^1/2 is computed as the sum of the singular values of S1^1/2
    S2^1/2. The squares of these values are the eigenvalues of S1^1/2 S2 S1^1/2. The sum is real,
    and it is accurate even if a covariance is singular.

    Args:
      mean_1, mean_2: [F].
      cov_1, cov_2: [F, F], symmetric and positive semi-definite.

    Raises:
      TypeError: an argument is complex.
      ValueError: the shapes disagree, a value is masked or not finite, or a covariance is not
        symmetric or not positive semi-definite.

    >>> round(frechet_distance([0.0], [[4.0]], [3.0], [[1.0]]), 9)
    10.0
    """
    m1, m2 = _float64("mean_1", mean_1), _float64("mean_2", mean_2)
    s1, s2 = _float64("cov_1", cov_1), _float64("cov_2", cov_2)
    if m1.ndim != 1 or m1.shape != m2.shape or not s1.shape == s2.shape == (m1.size, m1.size):
        raise ValueError(
            "expected means [F] and covariances [F, F], "
            f"got {m1.shape}, {s1.shape} and {m2.shape}, {s2.shape}"
        )
    if not (np.isfinite(m1).all() and np.isfinite(m2).all()):
        raise ValueError("means must be finite")
    overlap = np.linalg.svd(_sqrt(s1) @ _sqrt(s2), compute_uv=False).sum()
    distance = np.sum((m1 - m2) ** 2) + np.trace(s1) + np.trace(s2) - 2 * overlap
    return max(float(distance), 0.0)


def _float64(name: str, x: ArrayLike) -> Float64Array:
    if np.iscomplexobj(x):
        raise TypeError(f"{name} must be real, got complex numbers")
    if np.ma.is_masked(x):
        raise ValueError(f"{name} has masked values: leave out the rows that have one")
    return np.asarray(x, np.float64)


def _sqrt(cov: Float64Array) -> Float64Array:
    """Returns the symmetric square root [F, F] of a covariance [F, F]."""
    if not np.isfinite(cov).all():
        raise ValueError("a covariance must be finite")
    scale = np.abs(cov).max(initial=0)
    if np.abs(cov - cov.T).max(initial=0) > 1e-5 * scale:
        raise ValueError("a covariance must be symmetric")
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    if values.min(initial=0) < -1e-5 * scale:
        raise ValueError(f"a covariance must be positive semi-definite, has {values.min()}")
    root: Float64Array = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root

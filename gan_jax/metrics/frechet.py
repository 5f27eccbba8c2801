"""Fréchet distance between two Gaussians, in float64 NumPy.

The 2-Wasserstein distance squared between N(m1, S1) and N(m2, S2) is

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)

(Dowson & Landau 1982, "The Fréchet distance between multivariate normal distributions").
Heusel et al. 2017 (arXiv:1706.08500) compare images by it, on the activations of a classifier.
Their number, FID, is this distance on one particular Inception network's features: with another
extractor, say "Fréchet distance" and name the extractor.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64Array = NDArray[np.float64]


def statistics(features: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """Mean [F] and unbiased covariance [F, F] of features [N, F], N >= 2.

    Raises:
      ValueError: if `features` is not of rank 2, has fewer than two rows, or is not finite.
    """
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 1:
        raise ValueError(f"features must be [N >= 2, F >= 1], got {list(x.shape)}")
    if not np.isfinite(x).all():
        raise ValueError("features must be finite")
    mean = x.mean(axis=0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def frechet_distance(
    mean_1: ArrayLike, cov_1: ArrayLike, mean_2: ArrayLike, cov_2: ArrayLike
) -> float:
    """Squared Fréchet (2-Wasserstein) distance between two Gaussians, >= 0.

    The trace of the root is the sum of the singular values of S1^1/2 S2^1/2, whose squares are
    the eigenvalues of S1^1/2 S2 S1^1/2. It is real, and accurate where a covariance is singular.

    Args:
      mean_1, mean_2: [F].
      cov_1, cov_2: [F, F], symmetric and positive semi-definite.

    Raises:
      ValueError: if shapes disagree, or a covariance is not one.

    >>> round(frechet_distance([0.0], [[4.0]], [3.0], [[1.0]]), 9)
    10.0
    """
    m1, m2 = np.asarray(mean_1, np.float64), np.asarray(mean_2, np.float64)
    s1, s2 = np.asarray(cov_1, np.float64), np.asarray(cov_2, np.float64)
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


def _sqrt(cov: Float64Array) -> Float64Array:
    """The symmetric root [F, F] of a covariance [F, F]."""
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

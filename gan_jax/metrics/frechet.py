"""Fréchet distance between two sets of features, or between two Gaussians, in float64 NumPy.

The squared 2-Wasserstein distance between N(m1, S1) and N(m2, S2) is

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)

(Dowson & Landau 1982, "The Fréchet distance between multivariate normal distributions"). Heusel et
al. 2017 (arXiv:1706.08500) compare sets of images by the distance between Gaussians fitted to a
classifier's activations. Their FID uses one particular Inception network. If you use another
network, write "Fréchet distance" and name the network.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lapack

from gan_jax.metrics.distances import check_dimensions
from gan_jax.metrics.features import Float64Array, features, labels, pair, unmasked


class Moments(NamedTuple):
    """The first two moments of features that arrive in batches.

    `Moments()` has seen no features. To combine batches, devices or processes, use `update` and
    `merge`. The result depends on the division into batches by rounding only (Chan et al. 1979).

    Attributes:
      num: number of features, N.
      mean: [F] mean.
      scatter: [F, F] sum over the features x of (x - mean) (x - mean)'.
    """

    num: int = 0
    mean: Float64Array = np.zeros(1)
    scatter: Float64Array = np.zeros((1, 1))

    def update(self, batch: ArrayLike) -> "Moments":
        """Returns the moments of these features and of a batch of others, [N >= 1, F].

        Raises:
          TypeError: the batch is not real numbers.
          ValueError: the shape of the batch is wrong, or a value is masked or not finite.
        """
        x = features("features", batch, least=1).astype(np.float64, copy=False)
        mean = x.mean(axis=0)
        centred = x - mean
        return self.merge(Moments(len(x), mean, centred.T @ centred))

    def merge(self, other: "Moments") -> "Moments":
        """Returns the moments of the features of both."""
        if not (self.num and other.num):
            return self if self.num else other
        check_dimensions(self=self.scatter, other=other.scatter)
        num = self.num + other.num
        step = other.mean - self.mean
        return Moments(
            num,
            self.mean + step * (other.num / num),
            self.scatter + other.scatter + np.outer(step, step) * (self.num * other.num / num),
        )

    def statistics(self) -> tuple[Float64Array, Float64Array]:
        """Returns the mean [F] and the unbiased covariance [F, F].

        Raises:
          ValueError: there are fewer than two features.
        """
        if self.num < 2:
            raise ValueError(f"a covariance needs at least 2 features, got {self.num}")
        return self.mean, self.scatter / (self.num - 1)


class IntraClass(NamedTuple):
    """Fréchet distances within classes.

    Attributes:
      distance: the mean over the classes.
      classes: [K] the classes, in increasing order.
      distances: [K] the distance within each class.
    """

    distance: float
    classes: NDArray[np.integer]
    distances: Float64Array


def statistics(x: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """Returns the mean [F] and the unbiased covariance [F, F] of features [N, F], in float64.

    N must be at least 2. The rank of the covariance is at most N - 1, so use N well above F for a
    distance. `Moments` gives the same for features that arrive in batches.

    Raises:
      TypeError: the features are not real numbers.
      ValueError: the features are not of rank 2, have fewer than two rows, are not finite, or have
        masked values.
    """
    return Moments().update(features("features", x)).statistics()


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Returns the squared Fréchet distance between Gaussians fitted to features, >= 0.

    Its bias grows as N falls, so compare only distances with the same N and M.

    Args:
      a, b: [N, F] and [M, F] features, N and M at least 2.

    Raises:
      TypeError: the features are not real numbers.
      ValueError: a shape is wrong, or a value is masked or not finite.
    """
    a, b = pair(a=a, b=b)
    return gaussian_distance(*statistics(a), *statistics(b))


def intra_class_frechet_distance(
    a: ArrayLike, a_labels: ArrayLike, b: ArrayLike, b_labels: ArrayLike
) -> IntraClass:
    """Returns the Fréchet distance within each class, and their mean (Miyato & Koyama 2018).

    Args:
      a, b: [N, F] and [M, F] features.
      a_labels, b_labels: [N] and [M] integers, the classes of the features.

    Raises:
      TypeError: the features are not real numbers, or the labels are not integers.
      ValueError: a shape is wrong, a value is masked or not finite, or a class of `a` or `b` does
        not have at least two features in both.
    """
    a, b = pair(a=a, b=b)
    a_labels, b_labels = labels("a_labels", a_labels, len(a)), labels("b_labels", b_labels, len(b))
    classes = np.union1d(a_labels, b_labels)
    for name, label in (("a", a_labels), ("b", b_labels)):
        few = [int(c) for c in classes if np.sum(label == c) < 2]
        if few:
            raise ValueError(f"{name} must have at least 2 features of each class, also of {few}")
    distances = np.array([frechet_distance(a[a_labels == c], b[b_labels == c]) for c in classes])
    return IntraClass(float(distances.mean()), classes, distances)


def gaussian_distance(
    mean_1: ArrayLike, cov_1: ArrayLike, mean_2: ArrayLike, cov_2: ArrayLike
) -> float:
    """Returns the squared Fréchet (2-Wasserstein) distance between two Gaussians, >= 0.

    If S1 = L1 L1' and S2 = L2 L2', the trace of (S1^1/2 S2 S1^1/2)^1/2 is the sum of the singular
    values of L1' L2. The factors have as many columns as the covariances have ranks, so singular
    covariances need no care.

    Args:
      mean_1, mean_2: [F].
      cov_1, cov_2: [F, F], symmetric and positive semi-definite.

    Raises:
      TypeError: an argument is complex.
      ValueError: the shapes disagree, a value is masked or not finite, or a covariance is not
        symmetric or not positive semi-definite.

    >>> round(gaussian_distance([0.0], [[4.0]], [3.0], [[1.0]]), 9)
    10.0
    """
    m1, m2 = _float64("mean_1", mean_1), _float64("mean_2", mean_2)
    s1, s2 = _float64("cov_1", cov_1), _float64("cov_2", cov_2)
    if m1.ndim != 1 or m1.shape != m2.shape or not s1.shape == s2.shape == (m1.size, m1.size):
        raise ValueError(
            "expected means [F] and covariances [F, F], "
            f"got {m1.shape}, {s1.shape} and {m2.shape}, {s2.shape}"
        )
    product = _factor(s1).T @ _factor(s2)
    # Eigenvalues take less time than singular values.
    gram = product @ product.T if len(product) <= product.shape[1] else product.T @ product
    overlap = np.sqrt(np.linalg.eigvalsh(gram).clip(0)).sum()
    distance = np.sum((m1 - m2) ** 2) + np.trace(s1) + np.trace(s2) - 2 * overlap
    return max(float(distance), 0.0)


def _float64(name: str, x: ArrayLike) -> Float64Array:
    array = unmasked(name, x)
    if np.iscomplexobj(array):
        raise TypeError(f"{name} must be real, got complex numbers")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite")
    return array


def _factor(cov: Float64Array) -> Float64Array:
    """Returns L [F, R] with cov = L L' and R the rank of cov, by Cholesky with pivots."""
    scale = np.abs(cov).max(initial=0)
    if np.abs(cov - cov.T).max(initial=0) > 1e-5 * scale:
        raise ValueError("a covariance must be symmetric")
    if not scale:
        return cov[:, :0]
    cov = (cov + cov.T) / 2
    lower, pivots, rank, _ = lapack.dpstrf(cov, lower=1)
    factor: Float64Array = np.empty((len(cov), rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]
    rest = np.abs(factor @ factor.T - cov).max()
    if rest > 1e-5 * scale:
        raise ValueError(
            f"a covariance must be positive semi-definite: no L L' is nearer to it than {rest:.2g}"
        )
    return factor

"""Parzen-window log-likelihood, the score of Goodfellow et al. 2014 (after Breuleux et al. 2009).

The score is historical. Centroids of k-means beat real data on it (Theis et al. 2016,
arXiv:1511.01844).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gan_jax.metrics.distances import squared_distance_blocks
from gan_jax.metrics.features import Float64Array, pair


class LogLikelihood(NamedTuple):
    """A mean log-likelihood.

    Attributes:
      mean: the mean over the test examples, in nats.
      error: its standard error: standard deviation / sqrt(number of test examples).
    """

    mean: float
    error: float


def parzen_log_likelihood(samples: ArrayLike, test: ArrayLike, sigma: float) -> LogLikelihood:
    """Returns the log-likelihood of test examples under Gaussian windows round samples.

    Args:
      samples: [N, D]. The 2014 paper has 10,000 samples with pixels in [0, 1].
      test: [M, D] test examples, M at least 2.
      sigma: the standard deviation of the windows, such as `choose_sigma` returns.

    Raises:
      TypeError: the points are not real numbers.
      ValueError: a shape is wrong, a value is masked or not finite, or sigma is not above 0.
    """
    (found,) = _log_likelihoods([sigma], *pair(samples=samples, test=test))
    return LogLikelihood(float(found.mean()), float(found.std() / np.sqrt(len(found))))


def choose_sigma(
    samples: ArrayLike, validation: ArrayLike, sigmas: Sequence[float] | Float64Array | None = None
) -> float:
    """Returns the sigma with the highest mean log-likelihood of validation examples.

    Args:
      samples: [N, D].
      validation: [M, D] examples that are not in the test set.
      sigmas: the candidates. None means `np.logspace(-1, 0, 10)`, which the 2014 paper searched.

    Raises:
      TypeError: the points are not real numbers.
      ValueError: a shape is wrong, a value is masked or not finite, or a sigma is not above 0.
    """
    sigmas = np.logspace(-1, 0, 10) if sigmas is None else sigmas
    found = _log_likelihoods(sigmas, *pair(samples=samples, validation=validation))
    return float(sigmas[int(found.mean(axis=1).argmax())])


def _log_likelihoods(
    sigmas: Sequence[float] | Float64Array,
    centres: NDArray[np.floating],
    points: NDArray[np.floating],
) -> Float64Array:
    """Returns the log-likelihood of each example for each sigma: [S, M]."""
    scale = np.asarray(sigmas, np.float64)
    if not scale.size or not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(f"sigma must be above 0, got {sigmas}")
    middle = centres.mean(axis=0, dtype=np.float64)  # the squares of centred points keep digits
    found: NDArray[np.float64] = np.empty((len(scale), len(points)))
    for rows, squared in squared_distance_blocks(points - middle, centres - middle):
        nearest = squared.min(axis=1)
        squared -= nearest[:, None]  # so that the largest window does not underflow
        for i, s in enumerate(scale):
            windows = np.exp(squared * (-0.5 / s**2)).sum(axis=1)
            found[i, rows] = np.log(windows) - nearest / (2 * s**2)
    constant = np.log(len(centres)) + centres.shape[1] * np.log(scale * np.sqrt(2 * np.pi))
    return found - constant[:, None]

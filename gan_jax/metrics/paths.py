"""Perceptual path length (Karras et al. 2019, arXiv:1812.04948), in the space of features."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gan_jax.metrics.features import Float64Array, features, pair, random_state
from gan_jax.types import Array


class PathLength(NamedTuple):
    """The lengths of short paths.

    Attributes:
      mean: the mean over the paths between the 1st and the 99th percentile.
      deviation: their standard deviation.
    """

    mean: float
    deviation: float


def path_length(
    function: Callable[[NDArray[np.floating]], ArrayLike],
    start: ArrayLike,
    end: ArrayLike,
    key: Array | int | None = None,
    *,
    epsilon: float = 1e-4,
    spherical: bool = True,
    batch_size: int = 256,
) -> PathLength:
    """Returns the mean of |f(z(t)) - f(z(t + epsilon))|^2 / epsilon^2 over paths of latents.

    Short paths mean that features change smoothly with the latent. Call the length PPL only for
    features whose squared distance is LPIPS.

    Args:
      function: latents [B, L] -> features [B, D] of the samples drawn from them. The features of a
        latent must not depend on the other latents.
      start, end: [N, L] latents, the ends of the paths, N at least 2.
      key: the key of the places t, uniform on [0, 1). None means t = 0, as in torch-fidelity.
      epsilon: the length of a step, above 0. In float32, the rounding of the features enters with
        the factor 1 / epsilon.
      spherical: whether to interpolate on the sphere, for normal latents. For latents such as
        StyleGAN's w, use False.
      batch_size: number of latents per call of `function`. The last call may have fewer.

    Raises:
      TypeError: latents or features are not real numbers.
      ValueError: a shape is wrong, a value is masked or not finite, or an option is out of range.
    """
    start, end = pair(start=start, end=end)
    if start.shape != end.shape:
        raise ValueError(f"start and end differ in shape: {start.shape} and {end.shape}")
    if not epsilon > 0 or batch_size < 1:
        raise ValueError(
            f"epsilon must be above 0 and batch_size at least 1, got {epsilon} and {batch_size}"
        )
    at = np.zeros(len(start)) if key is None else random_state(key).uniform(size=len(start))
    interpolate = _spherical if spherical else _linear
    dtype = np.result_type(start, end)

    def place(rows: slice, t: Float64Array) -> Float64Array:
        z = interpolate(start[rows].astype(np.float64), end[rows].astype(np.float64), t[:, None])
        return features("features", function(z.astype(dtype)), least=1).astype(np.float64)

    lengths: Float64Array = np.empty(len(start))
    for low in range(0, len(start), batch_size):
        rows = slice(low, low + batch_size)
        step = place(rows, at[rows] + epsilon) - place(rows, at[rows])
        lengths[rows] = np.sum(step**2, axis=1) / epsilon**2
    low_end = np.percentile(lengths, 1, method="lower")
    high_end = np.percentile(lengths, 99, method="higher")
    kept = lengths[(low_end <= lengths) & (lengths <= high_end)]
    return PathLength(float(kept.mean()), float(kept.std()))


def _linear(a: Float64Array, b: Float64Array, t: Float64Array) -> Float64Array:
    return a + (b - a) * t


def _spherical(a: Float64Array, b: Float64Array, t: Float64Array) -> Float64Array:
    """Returns points on the arcs from a to b [B, L], or on lines if a and b are parallel."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (np.einsum("ij,ij->i", a, b) / np.maximum(norms, 1e-300))[:, None]
    angle = np.arccos(cosine.clip(-1, 1))
    parallel = (np.abs(cosine) > 1 - 1e-7) | (norms == 0)[:, None]
    sine = np.where(parallel, 1, np.sin(angle))
    arc = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / sine
    return np.where(parallel, _linear(a, b, t), arc)

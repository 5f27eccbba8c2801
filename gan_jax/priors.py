"""Priors p_z: functions `(key, num) -> z [num, dim]`. `classes` draws labels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from gan_jax.types import Array

Prior = Callable[[Array, int], Array]


def normal(dim: int, scale: float = 1.0) -> Prior:
    """Returns the prior z ~ N(0, scale^2 I) in `dim` dimensions."""
    return lambda key, num: scale * jax.random.normal(key, (num, dim))


def uniform(dim: int, bound: float = 3.0**0.5) -> Prior:
    """Returns the prior U(-bound, bound) for each of `dim` dimensions.

    With the default bound, the variance of each dimension is 1.
    """
    return lambda key, num: jax.random.uniform(key, (num, dim), minval=-bound, maxval=bound)


def signs(dim: int, scale: float = 1.0) -> Prior:
    """Returns the prior of `dim` independent signs: each dimension is `scale` or -`scale`, equally
    often.

    Such a z has 2^dim values. A continuous G then maps it to 2^dim separate points, so distant
    modes need no samples between them (Khayatkhoei et al. 2018 say why a connected z does).
    """
    return lambda key, num: scale * jax.random.rademacher(key, (num, dim), jnp.result_type(float))


def joined(*parts: Prior) -> Prior:
    """Returns the prior of z = (z_1, ..., z_n), with the independent parts z_i ~ `parts[i]`.

    Args:
      parts: at least one prior, each of z [num, dim]. The dimensions add up.

    Raises:
      ValueError: no prior is given.
    """
    if not parts:
        raise ValueError("parts must hold at least one prior")

    def draw(key: Array, num: int) -> Array:
        keys = jax.random.split(key, len(parts))
        return jnp.concatenate([part(k, num) for part, k in zip(parts, keys, strict=True)], axis=-1)

    return draw


def classes(frequencies: ArrayLike) -> Prior:
    """Returns a function `(key, num) -> labels [num]` that draws int32 classes in [0, K).

    The result is meant for the argument `fake_labels` of a step. Without that argument, fakes get
    the labels of the real batch.

    Args:
      frequencies: [K], a number for each class that is proportional to its probability, such as the
        number of images.

    Raises:
      ValueError: `frequencies` is not [K], a number is negative or all are 0.
    """
    share = np.asarray(frequencies, float)
    if share.ndim != 1 or not (share >= 0).all() or not 0 < share.sum() < np.inf:
        raise ValueError(
            f"frequencies must be [K] numbers of at least 0, and not all 0, got {frequencies!r}"
        )
    with np.errstate(divide="ignore"):
        logits = jnp.asarray(np.log(share / share.sum()), jnp.float32)
    return lambda key, num: jax.random.categorical(key, logits, shape=(num,)).astype(jnp.int32)

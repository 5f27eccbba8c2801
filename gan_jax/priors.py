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

"""Priors p_z: functions `(key, num) -> z [num, dim]`."""

from collections.abc import Callable

import jax

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

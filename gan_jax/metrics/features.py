"""Checks of features [N, D], which the scores in NumPy share, and their random draws.

These scores are computed in float64 on the host. A score is often a small difference of large sums,
which float32 would lose. A score computed on the host does not depend on the accelerator, on the
number of devices or on `jax_enable_x64`.
"""

from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gan_jax.metrics.distances import check_dimensions, check_points
from gan_jax.types import Array

Float64Array = NDArray[np.float64]


def features(name: str, x: ArrayLike, *, least: int = 2) -> NDArray[np.floating]:
    """Returns features [N, D] as a NumPy array: float32 if they are float32, float64 otherwise.

    Args:
      name: the name of the argument, for messages.
      x: an array of NumPy or JAX, or a list.
      least: the smallest N allowed.

    Raises:
      TypeError: the features are not real numbers.
      ValueError: the shape is wrong, N is below `least`, or a value is masked or not finite.
    """
    array = unmasked(name, x)
    check_points(name, array, least)
    array = array if array.dtype == np.float32 else array.astype(np.float64, copy=False)
    finite = np.isfinite(array)
    if not finite.all():
        rows = np.flatnonzero(~finite.all(axis=1))
        raise ValueError(
            f"{name} must be finite, but {len(rows)} of {len(array)} rows are not, first row "
            f"{rows[0]}: a GAN that draws such samples has diverged"
        )
    return array


def pair(*, least: int = 2, **named: ArrayLike) -> tuple[NDArray[np.floating], ...]:
    """Returns the named features, checked by `features`, all with the same dimensions D."""
    checked = {name: features(name, x, least=least) for name, x in named.items()}
    check_dimensions(**checked)
    return tuple(checked.values())


def labels(name: str, label: ArrayLike, num: int) -> NDArray[np.integer]:
    """Returns `num` labels [N] as a NumPy array.

    Raises:
      TypeError: the labels are not integers.
      ValueError: their shape is not [num], or one is masked.
    """
    array = unmasked(name, label)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name} must hold integers, got {array.dtype}")
    if array.shape != (num,):
        raise ValueError(f"{name} must be [{num}], one for each row, got {list(array.shape)}")
    return array


def unmasked(name: str, x: ArrayLike) -> NDArray[Any]:
    """Returns an array. Raises ValueError if a value is masked, as NumPy would drop the mask."""
    if np.ma.is_masked(x):
        raise ValueError(f"{name} has masked values: leave out the rows that have one")
    return np.asarray(x)


def random_state(key: Array | int) -> np.random.RandomState:
    """Returns a random generator of NumPy for a JAX key or for an integer seed.

    NumPy promises that the stream of this old generator never changes. An integer gives the draws
    of torch-fidelity with the same `rng_seed`.
    """
    if isinstance(key, int | np.integer):
        return np.random.RandomState(int(key))
    return np.random.RandomState(np.asarray(jax.random.key_data(key)).ravel())

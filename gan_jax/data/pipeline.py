"""Batches of a data set. Each batch is a pure function of the key and the step.

The stream of examples consists of epochs, each in a new order. The stream does not depend on the
position at which reading starts, so a resumed run reads the same batches as an uninterrupted run.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.data.types import Dataset
from gan_jax.types import Array, Batch, Metrics, StepFn, TrainState

RESIDENT_LIMIT = 2**30
"""The largest size in bytes of a data set that is kept on the device."""


def dequantize(x: Array) -> Array:
    """Converts uint8 images in [0, 255] to float32 in [-1, 1]: [...] -> [...].

    Raises:
      TypeError: `x` is not uint8.
    """
    if x.dtype != jnp.uint8:
        raise TypeError(f"dequantize takes uint8 images in [0, 255], got {x.dtype}")
    return x.astype(jnp.float32) / 127.5 - 1.0


def on_bytes(step: StepFn) -> StepFn:
    """Returns a step that takes batches of uint8 images and converts them to floats in [-1, 1].

    Raises:
      TypeError: raised by the returned step if the images are not uint8.
    """

    @functools.wraps(step)
    def stepped(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return step(state, batch._replace(x=dequantize(batch.x)))

    return stepped


def quantize(x: Array) -> Array:
    """Converts floating images in [-1, 1] to uint8: [...] -> [...].

    This is the inverse of `dequantize`. Values out of range are clipped. NaN becomes 0.

    Raises:
      TypeError: `x` is not floating.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"quantize takes floats in [-1, 1], got {x.dtype}")
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    levels = jnp.clip(jnp.round((wide + 1.0) * 127.5), 0, 255)
    return jnp.nan_to_num(levels).astype(jnp.uint8)


def order(seed: Sequence[int], start: int, num: int, count: int) -> np.ndarray:
    """Returns the indices of the `num` examples from position `start` of the stream.

    The function runs on the host, where NumPy draws a permutation in one call. On a device this
    would take about a hundred small operations, in a program that must be compiled and stored.

    Args:
      seed: the seed of the order: one or more integers, such as the data of a key.
      start: position in the stream.
      num: number of examples.
      count: size of the data set.

    Returns:
      int32 [num] in [0, count). Every epoch is a permutation drawn from the seed and the number of
        the epoch. An epoch begins at each multiple of `count`.

    Raises:
      ValueError: `start` is negative, or `num` or `count` is not positive.
    """
    if start < 0 or num < 1 or count < 1:
        raise ValueError(
            f"order needs start >= 0, num >= 1 and count >= 1, got {start=}, {num=}, {count=}"
        )
    first, last = start // count, (start + num - 1) // count
    epochs = [
        np.random.default_rng([*seed, epoch]).permutation(count) for epoch in range(first, last + 1)
    ]
    offset = start - first * count
    return np.concatenate(epochs)[offset : offset + num].astype(np.int32)


def make_batches(
    dataset: Dataset,
    key: Array,
    shape: tuple[int, ...],
    *,
    resident_limit: int = RESIDENT_LIMIT,
) -> Callable[[int], Batch]:
    """Returns a function that reads several batches of the stream at once, as one array.

    A data set of up to `resident_limit` bytes is copied to the device once and indexed there. A
    larger data set stays on the host, which gathers the next batches while the device computes.

    Args:
      dataset: N images.
      key: determines the order.
      shape: the leading dimensions of the array, such as [K, n_critic, B] for K train steps.
      resident_limit: largest size in bytes of a data set that is kept on the device.

    Returns:
      A function whose argument is a position in the stream: the number of examples already used. It
        returns a `Batch` with `x` uint8 [*shape, H, W, C] and, if there are labels, `label`
        [*shape]. `shape` may ask for more examples than the data set has, because the stream
        continues with the next epoch.

    Raises:
      ValueError: a dimension of `shape` is not positive, the data set is empty, or the numbers of
        labels and images differ.
    """
    num, count = math.prod(shape), len(dataset.x)
    if any(dim < 1 for dim in shape):
        raise ValueError(f"shape must have dimensions of 1 or more, got {shape}")
    if count == 0:
        raise ValueError(f"the data set {dataset.name} has no images to make batches of")
    if dataset.label is not None and len(dataset.label) != count:
        raise ValueError(
            f"the data set has {count} images, but {len(dataset.label)} labels: give one label "
            "for each image"
        )
    seed = np.asarray(jax.random.key_data(key)).tolist()
    arrays: Any = (dataset.x, dataset.label)

    def stack(arrays: Any, index: Any) -> Batch:
        taken = jax.tree.map(lambda a: a[index].reshape(*shape, *a.shape[1:]), arrays)
        return Batch(*taken)

    if dataset.x.nbytes <= resident_limit:
        resident = jax.device_put(arrays)
        gather = jax.jit(stack)
        return lambda start: gather(resident, order(seed, start, num, count))

    def fetch(start: int) -> Batch:
        return stack(arrays, order(seed, start, num, count))

    return fetch

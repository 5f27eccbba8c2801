"""From a data set to batches, each a pure function of the key and the step.

The stream of examples is one epoch after another, each in an order of its own, and never depends
on where it is entered: that is what makes a resumed run repeat the uninterrupted one.
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
"""Bytes of images up to which a data set is kept on the device."""


def dequantize(x: Array) -> Array:
    """Images from uint8 [0, 255] to float32 [-1, 1].

    Raises:
      TypeError: `x` is not uint8.
    """
    if x.dtype != jnp.uint8:
        raise TypeError(f"dequantize takes uint8 images in [0, 255], got {x.dtype}")
    return x.astype(jnp.float32) / 127.5 - 1.0


def on_bytes(step: StepFn) -> StepFn:
    """The step on batches of uint8 images, which it is given as floats in [-1, 1]."""

    @functools.wraps(step)
    def stepped(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return step(state, batch._replace(x=dequantize(batch.x)))

    return stepped


def quantize(x: Array) -> Array:
    """Images from float [-1, 1] to uint8, the inverse of `dequantize`.

    Values out of range are clipped. NaN becomes 0.

    Raises:
      TypeError: `x` is not of a floating type.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"quantize takes floats in [-1, 1], got {x.dtype}")
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    levels = jnp.clip(jnp.round((wide + 1.0) * 127.5), 0, 255)
    return jnp.nan_to_num(levels).astype(jnp.uint8)


def order(seed: Sequence[int], start: int, num: int, count: int) -> np.ndarray:
    """Which examples of a data set of `count` the stream shows from position `start` on.

    On the host, where a permutation is one call: on a device it is a hundred small operations, a
    program to compile and to keep.

    Args:
      seed: of the order, such as a key's words.
      start: in the stream.
      num: how many.
      count: of the data set.

    Returns:
      int32 [num] in [0, count): every epoch (`count` positions from a multiple of `count`) is a
      permutation, drawn from the seed and the epoch's number.

    Raises:
      ValueError: `start` is negative, or `num` or `count` not positive.
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
    """The stream cut into stacks of batches.

    A data set of up to `resident_limit` bytes is put on the device once and indexed there; a
    larger one stays with the host, which gathers a stack while the device works on the last.

    Args:
      dataset: N images.
      key: decides the order.
      shape: of a stack, say [K, n_critic, B] for K train steps.
      resident_limit: in bytes.

    Returns:
      A function of a position in the stream (the number of examples shown before) to a `Batch`
      with `x` uint8 [*shape, H, W, C] and `label` [*shape], if there are any. A stack may be longer
      than the data set: the stream goes on with the next epoch.

    Raises:
      ValueError: A dimension of `shape` is not positive, the data set is empty, or its labels and
        images differ in number.
    """
    num, count = math.prod(shape), len(dataset.x)
    if any(dim < 1 for dim in shape):
        raise ValueError(f"shape must have dimensions of 1 or more, got {shape}")
    if count == 0:
        raise ValueError(f"the data set {dataset.name} has no images to make batches of")
    if dataset.label is not None and len(dataset.label) != count:
        raise ValueError(f"the data set has {count} images, but {len(dataset.label)} labels")
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

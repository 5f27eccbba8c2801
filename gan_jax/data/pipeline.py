"""From a data set to batches, each a pure function of the key and the step.

The stream of examples is one epoch after another, each in an order of its own, and never depends
on where it is entered: that is what makes a resumed run repeat the uninterrupted one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.data.types import Dataset
from gan_jax.memory import compiled
from gan_jax.types import Array, Batch

RESIDENT_LIMIT = 2**30
"""Bytes of images up to which a data set is kept on the device."""


def dequantize(x: Array) -> Array:
    """Images from uint8 [0, 255] to float32 [-1, 1]."""
    return x.astype(jnp.float32) / 127.5 - 1.0


def quantize(x: Array) -> Array:
    """Images from float [-1, 1] to uint8, the inverse of `dequantize`."""
    return jnp.clip(jnp.round((x + 1.0) * 127.5), 0, 255).astype(jnp.uint8)


@partial(jax.jit, static_argnames=("count", "num"))
def _order(key: Array, epoch: Array, offset: Array, *, count: int, num: int) -> Array:
    touched = (num - 1) // count + 2
    epochs = jax.vmap(jax.random.fold_in, (None, 0))(key, epoch + jnp.arange(touched))
    shuffled = jax.vmap(lambda k: jax.random.permutation(k, count))(epochs).reshape(-1)
    return jax.lax.dynamic_slice(shuffled, (offset,), (num,))


def order(key: Array, start: int, num: int, count: int) -> Array:
    """Which examples of a data set of `count` the stream shows from position `start` on.

    Returns:
      [num] integers in [0, count): every epoch (`count` positions from a multiple of `count`)
      is a permutation, drawn from the key and the epoch's number.
    """
    return _order(key, *_place(start, count), count=count, num=num)


def _place(start: int, count: int) -> tuple[np.int32, np.int32]:
    epoch, offset = divmod(start, count)
    return np.int32(epoch), np.int32(offset)


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
      with `x` uint8 [*shape, H, W, C] and `label` [*shape], if there are any.
    """
    num, count = int(np.prod(shape)), len(dataset.x)
    arrays: Any = (dataset.x, dataset.label)

    def stack(arrays: Any, index: Any) -> Batch:
        taken = jax.tree.map(lambda a: a[index].reshape(*shape, *a.shape[1:]), arrays)
        return Batch(*taken)

    if dataset.x.nbytes <= resident_limit:

        def look_up(arrays: Any, key: Array, epoch: Array, offset: Array) -> Batch:
            return stack(arrays, _order(key, epoch, offset, count=count, num=num))

        resident = jax.device_put(arrays)
        gather = compiled(look_up, resident, key, *_place(0, count))
        return lambda start: gather(resident, key, *_place(start, count))

    def fetch(start: int) -> Batch:
        return stack(arrays, np.asarray(order(key, start, num, count)))

    return fetch

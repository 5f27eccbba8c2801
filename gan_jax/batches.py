"""The whole batch of a step, however it is split over devices.

A step says here which mapped axis its batch is split over. Whatever compares the examples of a
batch, or draws for each of them, asks here, and so takes no `axis_name` of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp

from gan_jax.types import Array, AxisName

_AXIS = jax.make_user_context(None)  # a part of the keys of JAX's caches


@contextmanager
def split_over(axis_name: AxisName | None) -> Iterator[None]:
    """Within it, batches are split over `axis_name`, an axis of `pmap`, `shard_map` or `vmap`.

    The steps enter it themselves. Enter it to call a network, a loss or a penalty under a mapped
    axis by yourself. None: as outside, so that a step made without an axis takes that of the step
    that calls it.
    """
    with _AXIS(axis_name if axis_name is not None else axis()):
        yield


def axis() -> AxisName | None:
    """The mapped axis that the batch is split over; None if each array holds the whole batch."""
    axis_name: AxisName | None = _AXIS.value
    return axis_name


def average(x: Array) -> Array:
    """The average of an array over the devices that the batch is split over."""
    return x if axis() is None else jax.lax.pmean(x, axis())


def mean(x: Array, over: int | tuple[int, ...] | None = 0, *, keepdims: bool = False) -> Array:
    """The mean over the batch of all devices, along the axes `over`; None: along all."""
    return average(jnp.mean(x, axis=over, keepdims=keepdims))


def gather(x: Array) -> Array:
    """The array [B, ...] of all devices together, in the order of the whole batch."""
    return x if axis() is None else jax.lax.all_gather(x, axis(), tiled=True)


def local(x: Array, num: int) -> Array:
    """The rows of `gather`'s result that belong to the `num` examples on this device."""
    return x if axis() is None else jax.lax.dynamic_slice_in_dim(x, offset(num), num)


def offset(num: int) -> Array | int:
    """The index in the whole batch of the first of the `num` examples on this device."""
    return 0 if axis() is None else num * jax.lax.axis_index(axis())

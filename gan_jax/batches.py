"""The whole batch of a step, however it is split over devices and microbatches.

A step says here how its batch is split. Whatever compares the examples of a batch, or draws for
each of them, asks here, and so takes no `axis_name` of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gan_jax.types import Array, AxisName


class _Split(NamedTuple):
    axis: AxisName | None = None
    parts: int = 1


_SPLIT = jax.make_user_context(_Split())  # a part of the keys of JAX's caches


@contextmanager
def split_over(axis_name: AxisName | None) -> Iterator[None]:
    """Within it, batches are split over `axis_name`, an axis of `pmap`, `shard_map` or `vmap`.

    The steps enter it themselves. Enter it to call a network, a loss or a penalty under a mapped
    axis by yourself. None: as outside, so that a step made without an axis takes that of the step
    that calls it.
    """
    with _SPLIT(_current()._replace(axis=axis() if axis_name is None else axis_name)):
        yield


@contextmanager
def in_parts(parts: int) -> Iterator[None]:
    """Within it, each call sees one of `parts` microbatches."""
    with _SPLIT(_current()._replace(parts=parts)):
        yield


def _current() -> _Split:
    split: _Split = _SPLIT.value
    return split


def axis() -> AxisName | None:
    """The mapped axis that the batch is split over; None if each array holds the whole batch."""
    return _current().axis


def is_split() -> bool:
    """Whether a call sees a part of the batch only: one device's, or one microbatch."""
    return _current() != _Split()


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

"""Operations on the whole batch of a step, which may be split over devices or into microbatches.

A step records in this module how its batch is split. Functions that compare examples, or draw
random numbers for each example, read this record, so they need no `axis_name` argument.
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


_SPLIT = jax.make_user_context(_Split())  # JAX's caches include this value in their keys


@contextmanager
def split_over(axis_name: AxisName | None) -> Iterator[None]:
    """Returns a context in which batches are split over the mapped axis `axis_name`.

    The axis belongs to an enclosing `pmap`, `shard_map` or `vmap`. The steps enter this context
    themselves. If your own code calls a network, a loss or a penalty under a mapped axis, it must
    first enter the context. With `axis_name=None` the enclosing context is kept: a step made
    without an axis uses the axis of the step that calls it.
    """
    with _SPLIT(_current()._replace(axis=axis() if axis_name is None else axis_name)):
        yield


@contextmanager
def in_parts(parts: int) -> Iterator[None]:
    """Returns a context in which each call receives one of `parts` microbatches."""
    with _SPLIT(_current()._replace(parts=parts)):
        yield


def _current() -> _Split:
    split: _Split = _SPLIT.value
    return split


def axis() -> AxisName | None:
    """Returns the mapped axis over which the batch is split, or None if there is none."""
    return _current().axis


def is_split() -> bool:
    """Returns True if each call receives only a part of the batch: a shard or a microbatch."""
    return _current() != _Split()


def average(x: Array) -> Array:
    """Returns the average of x over the devices that share the batch: [...] -> [...]."""
    return x if axis() is None else jax.lax.pmean(x, axis())


def mean(x: Array, over: int | tuple[int, ...] | None = 0, *, keepdims: bool = False) -> Array:
    """Returns the mean of x [B, ...] over the axes `over` and over all devices.

    `over=None` means all axes. With `keepdims` these axes stay, with length 1.
    """
    return average(jnp.mean(x, axis=over, keepdims=keepdims))


def gather(x: Array) -> Array:
    """Returns the arrays [B, ...] of all devices, joined in the order of the whole batch."""
    return x if axis() is None else jax.lax.all_gather(x, axis(), tiled=True)


def local(x: Array, num: int) -> Array:
    """Returns the rows [num, ...] of x that belong to the `num` examples on this device.

    x is a result of `gather`.
    """
    return x if axis() is None else jax.lax.dynamic_slice_in_dim(x, offset(num), num)


def offset(num: int) -> Array | int:
    """Returns the index [], in the whole batch, of the first example on this device.

    The device has `num` examples.
    """
    return 0 if axis() is None else num * jax.lax.axis_index(axis())

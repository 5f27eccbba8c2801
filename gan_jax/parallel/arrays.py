"""The layout, over devices, of arrays that a step draws or computes."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gan_jax.types import Array


def spread(x: Array, axis: int = 0) -> Array:
    """Returns the array x [...] with an axis split over the devices of the active mesh.

    The array is unchanged if there is no mesh, or if the number of devices does not divide the
    length of the axis. Use this function for random draws that do not depend on a batch.
    `shard_step` activates a mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    devices = math.prod(mesh.shape[name] for name in mesh.auto_axes)
    if devices == 1 or x.shape[axis] % devices:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * axis, mesh.auto_axes))


def spread_like(index: Array, batch: Array) -> Array:
    """Returns the integers [B], spread over the devices like the batch [B, ...].

    The compiler shards a result like its operands. A plain index has no sharding. Every device
    would therefore compute all draws that are made from the index. In G's step, every device would
    also compute everything that follows from these draws. This function therefore adds a term to
    the index. The term reads each example and is always 0. A barrier hides the 0 from the compiler.
    """
    if jax.device_count() == 1:
        return index
    read = batch[(slice(None), *[0] * (batch.ndim - 1))] != 0
    never = jax.lax.optimization_barrier(jnp.zeros((), bool))
    return index + (read & never)


def has_explicit_axes(x: Array) -> bool:
    """Returns True if the mesh of the array x [...] has explicit axes.

    The sharding is then a part of the array's type.
    """
    return bool(jax.typeof(x).sharding.mesh.explicit_axes)


def split_alike(function: Callable[..., Array], x: Array, *others: Array) -> Array:
    """Returns `function(x, *others)`. If the mesh has explicit axes, the result is split like x
    [B, ...].

    Explicit axes need a sharding rule for each operation. Inside `function`, the compiler chooses
    the layout instead. The result [B, ...] is split along its first axis only, whatever the
    sharding of `others`.
    """
    if not has_explicit_axes(x):
        return function(x, *others)
    sharding = jax.typeof(x).sharding
    of_result = sharding.update(spec=PartitionSpec(sharding.spec[0]))
    result: Array = jax.sharding.auto_axes(function, out_sharding=of_result)(x, *others)
    return result

"""The layout over devices of arrays that a step draws or computes."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gan_jax.types import Array


def spread(x: Array, axis: int = 0) -> Array:
    """The array with an axis split over the devices of the mesh in force.

    The array is returned unchanged if there is no mesh, or if its devices do not divide the axis.
    It is meant for what a step draws without a batch to follow. `shard_step` puts a mesh in force.
    """
    mesh = jax.sharding.get_abstract_mesh()
    devices = math.prod(mesh.shape[name] for name in mesh.auto_axes)
    if devices == 1 or x.shape[axis] % devices:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * axis, mesh.auto_axes))


def spread_like(index: Array, batch: Array) -> Array:
    """The integers [B], spread over the devices as a batch [B, ...] is, with or without a mesh.

    The compiler shards a result as its operands are sharded. What is drawn from a plain index has
    none, so every device would compute all of it, and in G's step all that follows from it too. So
    this adds a term that reads each example and is always 0, which a barrier hides from the
    compiler.
    """
    if jax.device_count() == 1:
        return index
    read = batch[(slice(None), *[0] * (batch.ndim - 1))] != 0
    never = jax.lax.optimization_barrier(jnp.zeros((), bool))
    return index + (read & never)


def has_explicit_axes(x: Array) -> bool:
    """Whether an array lies on a mesh of explicit axes: its sharding is part of its type."""
    return bool(jax.typeof(x).sharding.mesh.explicit_axes)


def split_alike(function: Callable[..., Array], x: Array, *others: Array) -> Array:
    """`function(x, *others)`, with explicit axes split over the devices as x [B, ...] is.

    Explicit axes need a rule for each operation. Here the compiler lays out what lies between, and
    the result [B, ...] is split along its first axis alone, whatever the sharding of `others`.
    """
    if not has_explicit_axes(x):
        return function(x, *others)
    sharding = jax.typeof(x).sharding
    of_result = sharding.update(spec=PartitionSpec(sharding.spec[0]))
    result: Array = jax.sharding.auto_axes(function, out_sharding=of_result)(x, *others)
    return result

"""Steps under `jax.pmap`."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gan_jax.buffers import Step, donating
from gan_jax.parallel.devices import (
    AXIS_NAME,
    at_least_one,
    axis_of_examples,
    check_divisible,
    mesh_of,
)
from gan_jax.types import PyTree


def pmap_step(
    step: Step,
    *,
    batch_axis: int | None = None,
    axis_name: str = AXIS_NAME,
    devices: Sequence[jax.Device] | None = None,
    donate: bool = True,
) -> Step:
    """Returns the step under `jax.pmap`, with one shard of the batch on each device.

    Args:
      step: a pure step made *with* this `axis_name`.
      batch_axis, devices, donate: as for `shard_step`.
      axis_name: the name of the axis over which the step averages.

    Raises:
      UserError: as for `shard_step`.
    """
    batch_axis = axis_of_examples(step, batch_axis)
    devices = at_least_one(devices)
    mesh = mesh_of(devices, axis_name)
    whole = NamedSharding(mesh, PartitionSpec())
    of_shards = NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, axis_name))
    compiled: dict[Any, Step] = {}

    def split(leaf: Any) -> Any:
        """Reshapes [..., B, ...] to [..., devices, B / devices, ...], one shard per device."""
        if np.ndim(leaf) <= batch_axis:
            return jax.device_put(leaf, whole)
        before, after = leaf.shape[:batch_axis], leaf.shape[batch_axis + 1 :]
        return jax.device_put(leaf.reshape(*before, len(devices), -1, *after), of_shards)

    def mapped(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        check_divisible(batch, batch_axis, len(devices))
        axes = jax.tree.map(lambda leaf: batch_axis if np.ndim(leaf) > batch_axis else None, batch)
        leaves, structure = jax.tree.flatten(axes, is_leaf=lambda leaf: leaf is None)
        layout = (tuple(leaves), structure)
        if layout not in compiled:
            compiled[layout] = jax.pmap(
                step,
                axis_name=axis_name,
                in_axes=(None, axes),
                out_axes=None,
                devices=devices,
                donate_argnums=0 if donate else (),
            )
        # The program returns the state in this layout, so the second call compiles nothing.
        state = jax.device_put(state, whole)
        return compiled[layout](state, jax.tree.map(split, batch))

    return donating(mapped) if donate else mapped

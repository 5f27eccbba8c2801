"""Steps compiled once for all devices, with the batch split over them."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

from gan_jax.buffers import Step, donating
from gan_jax.errors import UserError
from gan_jax.parallel.devices import (
    AXIS_NAME,
    at_least_one,
    axis_of_examples,
    check_divisible,
    mesh_of,
)
from gan_jax.types import AxisName, PyTree


def shard_step(
    step: Step,
    *,
    batch_axis: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    mesh: Mesh | None = None,
    split_over: AxisName | None = None,
    state_sharding: PyTree = None,
    donate: bool = True,
) -> Step:
    """Returns the step compiled once for all devices, with the batch split over them.

    This is the default wrapper. The compiled step first moves the state and the batch to these
    devices if they are elsewhere. The returned state has the layout of the passed state, so a state
    that is split over the devices is never gathered. This example splits parameters, optimizer
    states and averages along their first axis, over the mesh axis "model". It does not split an
    array if the size of "model" does not divide the length of that axis:

        def layout(leaf):
            divides = leaf.ndim and leaf.shape[0] % mesh.shape["model"] == 0
            return PartitionSpec("model") if divides else PartitionSpec()

        step = shard_step(step, mesh=mesh, state_sharding=jax.tree.map(layout, state))

    Args:
      step: a pure step made *without* `axis_name`. The step sees the whole batch, and the compiler
        inserts the communication, including that of batch norm.
      batch_axis: the axis of the batch that counts examples. None means axis 0 for most steps. For
        a step from `make_train_step`, None means axis 1, because its batches are
        [n_critic, B, ...]. A loop of steps needs an explicit axis. A leaf of the batch that lacks
        the axis `batch_axis` is copied to every device.
      devices: at least one device. The default is all devices.
      mesh: a mesh to use instead of `devices`. All its axes are treated as Auto, so the compiler
        chooses the layout of all intermediate arrays.
      split_over: the axes of the mesh over which the batch is split. The default is all axes.
      state_sharding: the layout of the state: a `PartitionSpec` or a `NamedSharding`, None for a
        copy on every device, or a tree of these. The tree has the structure of the state or of its
        upper levels.
      donate: as for `jit_step`.

    Raises:
      UserError: one of these: `devices` is empty; `devices` and `mesh` are both given; `split_over`
        is not an axis of the mesh; `state_sharding` holds something other than layouts;
        `batch_axis` differs from the axis of a step from `make_train_step`. A call raises UserError
        before compiling if the number of devices does not divide the batch.
      ValueError: a `PartitionSpec` names an axis that the mesh does not have. A call raises
        ValueError before compiling if an array cannot be divided as its spec requires, or if
        `state_sharding` has a different structure from the state.
    """
    batch_axis = axis_of_examples(step, batch_axis)
    mesh = _automatic(mesh, devices)
    over = _axes(mesh, split_over)
    parts = math.prod(mesh.shape[name] for name in over)
    whole, split = (
        _on(mesh, spec) for spec in (PartitionSpec(), PartitionSpec(*[None] * batch_axis, over))
    )
    states = jax.tree.map(partial(_on, mesh), state_sharding, is_leaf=lambda leaf: leaf is None)

    def in_force() -> Any:
        """Returns the context in which `spread` finds the mesh."""
        return jax.set_mesh(mesh) if mesh.size > 1 else nullcontext()

    # The state keeps its sharding, so the next call does not compile the step again.
    compiled = jax.jit(step, out_shardings=(states, whole), donate_argnums=0 if donate else ())

    def sharded(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        check_divisible(batch, batch_axis, parts)
        shardings = jax.tree.map(lambda leaf: split if np.ndim(leaf) > batch_axis else whole, batch)
        with in_force():
            state, batch = jax.device_put(state, states), jax.device_put(batch, shardings)
            return compiled(state, batch)

    return donating(sharded) if donate else sharded


def _automatic(mesh: Mesh | None, devices: Sequence[jax.Device] | None) -> Mesh:
    """Returns the mesh, or a new mesh of the devices, with Auto axes only."""
    if mesh is None:
        return mesh_of(at_least_one(devices), AXIS_NAME)
    if devices is not None:
        raise UserError(
            "devices and mesh are both given, but a mesh has its own devices: leave one out"
        )
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def _axes(mesh: Mesh, names: AxisName | None) -> tuple[str, ...]:
    over = mesh.axis_names if names is None else (names,) if isinstance(names, str) else names
    if unknown := set(over) - set(mesh.axis_names):
        raise UserError(
            f"split_over is {names!r}, but the mesh has no axis {', '.join(sorted(unknown))}: "
            f"choose from {', '.join(mesh.axis_names)}"
        )
    return tuple(over)


def _on(mesh: Mesh, spec: Any) -> Sharding:
    if isinstance(spec, NamedSharding):
        spec = spec.spec
    if not isinstance(spec, PartitionSpec | None):
        raise UserError(f"state_sharding holds {spec!r}: give PartitionSpec, NamedSharding or None")
    if mesh.size == 1:  # without a mesh JAX can reuse an earlier trace
        return SingleDeviceSharding(mesh.devices.item())
    return NamedSharding(mesh, PartitionSpec() if spec is None else spec)

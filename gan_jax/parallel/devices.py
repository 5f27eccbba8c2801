"""The devices of a wrapper, and checks that their number divides a batch."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType

from gan_jax.buffers import Step
from gan_jax.errors import UserError
from gan_jax.types import PyTree

AXIS_NAME = "devices"
"""The name of the axis over which a batch is split."""


def mesh_of(devices: Sequence[jax.Device], axis_name: str) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.asarray(devices), (axis_name,), axis_types=(AxisType.Auto,))


def at_least_one(devices: Sequence[jax.Device] | None) -> Sequence[jax.Device]:
    """Returns the devices. None means all devices. An empty sequence raises `UserError`."""
    devices = jax.devices() if devices is None else devices
    if not len(devices):
        raise UserError("devices is empty: give at least one, or None for all of them")
    return devices


def axis_of_examples(step: Step, batch_axis: int | None) -> int:
    """Returns the axis of a step's batch that counts examples.

    It is `batch_axis`, or the step's own axis if `batch_axis` is None.

    Raises:
      UserError: `batch_axis` differs from the step's own axis.
    """
    own = getattr(step, "batch_axis", None)
    if batch_axis is None:
        return own or 0
    if own is not None and batch_axis != own:
        raise UserError(
            f"batch_axis={batch_axis}, but the batches of this step are [n_critic, B, ...], which "
            f"count examples on axis {own}: leave batch_axis out, or give {own}"
        )
    return batch_axis


def called(name: str, path: Any) -> str:
    return f"{name}{jax.tree_util.keystr(path)}" if path else name


def check_divisible(batch: PyTree, batch_axis: int, devices: int) -> None:
    """Raises `UserError` unless `devices` divides the number of examples in every leaf of the
    batch. The axis `batch_axis` of a leaf counts examples.
    """
    for path, leaf in jax.tree.leaves_with_path(batch):
        if np.ndim(leaf) <= batch_axis:
            continue
        shape = np.shape(leaf)
        try:
            check_batch_size(shape[batch_axis], devices)
        except UserError as error:
            raise UserError(
                f"{called('batch', path)} has shape {shape}, in which axis {batch_axis} counts "
                f"the examples (a train step takes [n_critic, B, ...], where that is axis 1): "
                f"{error}"
            ) from None


def check_batch_size(batch_size: int, devices: int) -> None:
    """Raises `UserError` unless `devices` divides `batch_size`.

    The message names the nearest valid size.
    """
    if batch_size % devices:
        below = batch_size // devices * devices
        nearest = " or ".join(str(n) for n in (below, below + devices) if n)
        raise UserError(
            f"a batch of {batch_size} cannot be split over {devices} devices: "
            f"make it {nearest}, or use one device"
        )

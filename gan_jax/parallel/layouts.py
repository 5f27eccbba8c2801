"""The wrappers, by the names that commands use for them."""

import jax
from jax.sharding import NamedSharding, PartitionSpec

from gan_jax.buffers import Step
from gan_jax.parallel.devices import AXIS_NAME, mesh_of
from gan_jax.parallel.jit import jit_step
from gan_jax.parallel.pmap import pmap_step
from gan_jax.parallel.shard import shard_step
from gan_jax.types import PyTree

AXIS_NAMES: dict[str, str | None] = {"jit": None, "pmap": AXIS_NAME, "shard": None}
"""The `axis_name` with which the steps of each layout must be made."""


def make_step(layout: str, step: Step, *, batch_axis: int | None = None) -> Step:
    """Returns the step compiled for a layout named in `AXIS_NAMES`.

    The layout jit uses one device. The other layouts use all devices. `batch_axis` is as for
    `shard_step`.
    """
    if layout == "jit":
        return jit_step(step)
    return (shard_step if layout == "shard" else pmap_step)(step, batch_axis=batch_axis)


def place(layout: str, state: PyTree) -> PyTree:
    """Returns the state in the layout of `make_step`'s results, so no step is compiled twice."""
    if layout == "jit" or (layout == "shard" and num_devices(layout) == 1):
        return state
    return jax.device_put(state, NamedSharding(mesh_of(jax.devices(), AXIS_NAME), PartitionSpec()))


def num_devices(layout: str) -> int:
    """Returns the number of devices that a layout named in `AXIS_NAMES` uses."""
    return 1 if layout == "jit" else len(jax.devices())


def describe(layout: str) -> str:
    """Returns a description of the devices of a layout, such as "cpu" or "8 x TPU v4"."""
    devices = num_devices(layout)
    kind = jax.devices()[0].device_kind
    return kind if devices == 1 else f"{devices} x {kind}"

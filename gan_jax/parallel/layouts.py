"""The wrappers by the names that commands give them."""

import jax
from jax.sharding import NamedSharding, PartitionSpec

from gan_jax.buffers import Step
from gan_jax.parallel.devices import AXIS_NAME, mesh_of
from gan_jax.parallel.jit import jit_step
from gan_jax.parallel.pmap import pmap_step
from gan_jax.parallel.shard import shard_step
from gan_jax.types import PyTree

AXIS_NAMES: dict[str, str | None] = {"jit": None, "pmap": AXIS_NAME, "shard": None}
"""Layout -> the `axis_name` that steps must be made with for it."""


def make_step(layout: str, step: Step, *, batch_axis: int | None = None) -> Step:
    """The step compiled for a layout named in `AXIS_NAMES`, on all devices (jit: on one).

    `batch_axis` is as for `shard_step`.
    """
    if layout == "jit":
        return jit_step(step)
    return (shard_step if layout == "shard" else pmap_step)(step, batch_axis=batch_axis)


def place(layout: str, state: PyTree) -> PyTree:
    """The state placed as `make_step`'s step returns it, so that the step is not compiled twice."""
    if layout == "jit" or (layout == "shard" and num_devices(layout) == 1):
        return state
    return jax.device_put(state, NamedSharding(mesh_of(jax.devices(), AXIS_NAME), PartitionSpec()))


def num_devices(layout: str) -> int:
    """The number of devices that a layout named in `AXIS_NAMES` uses."""
    return 1 if layout == "jit" else len(jax.devices())


def describe(layout: str) -> str:
    """The devices a layout uses, in words: "cpu", "8 x TPU v4"."""
    devices = num_devices(layout)
    kind = jax.devices()[0].device_kind
    return kind if devices == 1 else f"{devices} x {kind}"

"""A step compiled once for all devices, its batch split over them."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from gan_jax.buffers import Step, donating
from gan_jax.parallel.devices import (
    AXIS_NAME,
    at_least_one,
    axis_of_examples,
    check_divisible,
    mesh_of,
)
from gan_jax.parallel.jit import Arguments, program
from gan_jax.types import PyTree


def shard_step(
    step: Step,
    *,
    batch_axis: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    donate: bool = True,
    like: Arguments | None = None,
) -> Step:
    """The step compiled once for all devices, the batch split over them: the default.

    The compiled step first moves the state and the batch to these devices if they are elsewhere.

    Args:
      step: a pure step made *without* `axis_name`: it sees the global batch, and the compiler
        inserts the communication, batch norm's included.
      batch_axis: the axis of the batch that counts examples. None: 1 for a step that
        `make_train_step` returned, whose batches are [n_critic, B, ...], and 0 for any other. Give
        it for a loop of steps. Leaves without that axis go to every device whole.
      devices: at least one; all by default.
      donate, like: as for `jit_step`.

    Raises:
      UserError: `devices` is empty; `batch_axis` is not that of a train step; (on a call, before
        compiling) the number of devices does not divide the batch.
    """
    batch_axis = axis_of_examples(step, batch_axis)
    devices = at_least_one(devices)
    if len(devices) == 1:  # no mesh: JAX can then reuse an earlier trace
        whole: Sharding = SingleDeviceSharding(devices[0])
        split = whole
        in_force: Callable[[], Any] = nullcontext
    else:
        mesh = mesh_of(devices, AXIS_NAME)
        whole = NamedSharding(mesh, PartitionSpec())
        split = NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, AXIS_NAME))
        in_force = partial(jax.set_mesh, mesh)  # for `spread`

    def placed(state: PyTree, batch: PyTree) -> Arguments:
        check_divisible(batch, batch_axis, len(devices))
        shardings = jax.tree.map(lambda leaf: split if np.ndim(leaf) > batch_axis else whole, batch)
        return jax.device_put(state, whole), jax.device_put(batch, shardings)

    with in_force():
        # The state keeps its sharding, so that the next call does not compile the step again.
        compiled = program(step, like and placed(*like), donate, out_shardings=whole)

    def sharded(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        with in_force():
            return compiled(*placed(state, batch))

    return donating(sharded) if donate else sharded

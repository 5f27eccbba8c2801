"""Training of many GANs by one program."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gan_jax.buffers import Step, donating
from gan_jax.errors import UserError
from gan_jax.parallel.devices import AXIS_NAME, at_least_one, called, mesh_of
from gan_jax.types import PyTree


def ensemble_step(
    step: Step,
    *,
    batch_axis: int | None = 0,
    devices: Sequence[jax.Device] | None = None,
    donate: bool = True,
) -> Step:
    """Returns a program that trains many GANs, called the members of an ensemble.

    The members are spread over all devices and need no communication.

    On a CPU, small networks leave cores idle. With one JAX device per core (`JAX_NUM_CPU_DEVICES=4
    python ...`) each core trains its own members.

    Members may differ in everything that the step reads from the state, for example in their seeds.
    An optimizer made by `optax.inject_hyperparams` keeps its hyperparameters in the state, so
    `init` under `jax.vmap` can give each member a different learning rate. The state may be any
    pytree. It can also hold other settings, such as the weight of a penalty. For examples, see the
    README and `tests/core/test_sweep.py`.

    Args:
      step: a pure step made without `axis_name`, or a fused loop of such steps.
      batch_axis: the axis of the batch that counts members. A leaf without that axis is the same
        for all members. With None, the whole batch is the same for all members.
      devices, donate: as for `shard_step`.

    Returns:
      The step of all members. The first axis of every leaf of the state and the metrics counts the
        members, as in the state made by `jax.vmap(make_state)(jax.random.split(key, num))`.

    Raises:
      UserError: `devices` is empty. A call raises UserError before compiling if leaves of the state
        and the batch have different numbers of members, or if the number of devices does not divide
        the number of members.
    """
    devices = at_least_one(devices)
    mesh = mesh_of(devices, AXIS_NAME)
    members = PartitionSpec(AXIS_NAME)
    split = PartitionSpec(*[None] * (batch_axis or 0), AXIS_NAME)

    def of_members(leaf: Any) -> bool:
        return batch_axis is not None and np.ndim(leaf) > batch_axis

    def specs(batch: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: split if of_members(leaf) else PartitionSpec(), batch)

    def mapped(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        axes = jax.tree.map(lambda leaf: batch_axis if of_members(leaf) else None, batch)
        on_each_device = jax.shard_map(
            jax.vmap(step, in_axes=(0, axes)),
            mesh=mesh,
            in_specs=(members, specs(batch)),
            out_specs=(members, members),
            check_vma=False,  # members share no values, so there is nothing to check
        )
        return on_each_device(state, batch)

    compiled = jax.jit(mapped, donate_argnums=0 if donate else ())

    def ensembled(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        num = _members(state, 0, "the state")
        if batch_axis is not None:
            _members(batch, batch_axis, "the batch", num)
        if num % len(devices):
            raise UserError(
                f"an ensemble of {num} cannot be spread over {len(devices)} devices: make its size "
                "a multiple of the number of devices, or give fewer devices"
            )
        # The program returns the state in this layout, so the second call compiles nothing.
        state = jax.device_put(state, NamedSharding(mesh, members))
        shardings = jax.tree.map(partial(NamedSharding, mesh), specs(batch))
        return compiled(state, jax.device_put(batch, shardings))

    return donating(ensembled) if donate else ensembled


def _members(tree: PyTree, axis: int, name: str, num: int | None = None) -> int:
    """Returns the number of members, which is the length of an axis in all leaves of a tree.

    If `num` is given, as it is for a batch, the length must be `num`, and some leaves may lack the
    axis.

    Raises:
      UserError: a leaf has another length, or lacks the axis and `num` is None.
    """
    expected = num
    for path, leaf in jax.tree.leaves_with_path(tree):
        shape = np.shape(leaf)
        if len(shape) <= axis and num is not None:
            continue
        found = shape[axis] if len(shape) > axis else None
        expected = found if expected is None else expected
        if found is None or found != expected:
            raise UserError(
                f"every leaf of {name} must have the members of the ensemble on axis {axis}, but "
                f"{called(name, path)} has shape {shape}, where the number of members is "
                f"{'not known' if expected is None else expected}: make the state by "
                "jax.vmap(make_state)(keys)"
            )
    if expected is None:
        raise UserError(f"{name} has no leaves, so the number of members is not known")
    return expected

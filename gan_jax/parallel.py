"""Wrappers that run one pure step on many devices. No other module uses pmap or meshes.

Every wrapper takes a pure `(state, batch) -> (state, metrics)`: D's step, G's step, the whole train
step or a fused chunk of train steps. It returns a compiled function of the same signature on
*global* arrays: whole state in, whole batch in, whole state out. The wrappers are interchangeable,
and the number of devices does not change the result.

The state is donated: the one passed in cannot be used after the call. If two of its leaves share a
buffer, as under `state.replace(ema_params=state.generator.params)`, the second is copied first.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from gan_jax._cpu import memory
from gan_jax._cpu.threads import EIGEN as EIGEN
from gan_jax._cpu.threads import use_every_core as use_every_core
from gan_jax._cpu.threads import use_one_core as use_one_core
from gan_jax.buffers import Step as Step
from gan_jax.buffers import donating
from gan_jax.errors import UserError
from gan_jax.types import Array, PyTree

Arguments = tuple[PyTree, PyTree]
"""The arguments of a step: a state and a batch."""

AXIS_NAME = "devices"
"""The name of the axis a batch is split over."""

AXIS_NAMES: dict[str, str | None] = {"jit": None, "pmap": AXIS_NAME, "shard": None}
"""Layout -> the `axis_name` that steps, batch norm and dropout must be made with for it."""


def jit_step(
    step: Step,
    *,
    donate: bool = True,
    compiler_options: Mapping[str, str] | None = None,
    like: Arguments | None = None,
) -> Step:
    """The step compiled for one device.

    Args:
      step: a pure step.
      donate: whether the state passed in may be overwritten.
      compiler_options: options of XLA for this program alone. On a CPU, `EIGEN` may make it faster.
      like: a state and a batch. The step is then compiled at once, in less memory, and accepts
        only arguments of the same shapes and types: see `memory.compiled`. None: the step is
        compiled when it is called.
    """
    options = None if compiler_options is None else dict(compiler_options)
    program = _program(step, like, donate, compiler_options=options)
    return donating(program) if donate else program


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
    batch_axis = _axis_of_examples(step, batch_axis)
    devices = _at_least_one(devices)
    if len(devices) == 1:  # no mesh: JAX can then reuse an earlier trace
        whole: Sharding = SingleDeviceSharding(devices[0])
        split = whole
        in_force: Callable[[], Any] = nullcontext
    else:
        mesh = _mesh(devices, AXIS_NAME)
        whole = NamedSharding(mesh, PartitionSpec())
        split = NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, AXIS_NAME))
        in_force = partial(jax.set_mesh, mesh)  # for `spread`

    def placed(state: PyTree, batch: PyTree) -> Arguments:
        check_divisible(batch, batch_axis, len(devices))
        shardings = jax.tree.map(lambda leaf: split if np.ndim(leaf) > batch_axis else whole, batch)
        return jax.device_put(state, whole), jax.device_put(batch, shardings)

    with in_force():
        # The state keeps its sharding, so that the next call does not compile the step again.
        program = _program(step, like and placed(*like), donate, out_shardings=whole)

    def sharded(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        with in_force():
            return program(*placed(state, batch))

    return donating(sharded) if donate else sharded


def pmap_step(
    step: Step,
    *,
    batch_axis: int | None = None,
    axis_name: str = AXIS_NAME,
    devices: Sequence[jax.Device] | None = None,
    donate: bool = True,
) -> Step:
    """The step under `jax.pmap`, one shard of the batch on each device.

    Args:
      step: a pure step made *with* this `axis_name`, and so the networks' batch norm and dropout.
      batch_axis, devices, donate: as for `shard_step`.
      axis_name: the name the step averages over.

    Raises:
      UserError: as for `shard_step`.
    """
    batch_axis = _axis_of_examples(step, batch_axis)
    devices = _at_least_one(devices)
    mesh = _mesh(devices, axis_name)
    whole = NamedSharding(mesh, PartitionSpec())
    of_shards = NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, axis_name))
    compiled: dict[Any, Step] = {}

    def split(leaf: Any) -> Any:
        """[..., B, ...] -> [..., devices, B / devices, ...], each shard on its device."""
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
        # Where the program leaves it, so that the second call does not compile the step once more.
        state = jax.device_put(state, whole)
        return compiled[layout](state, jax.tree.map(split, batch))

    return donating(mapped) if donate else mapped


def ensemble_step(
    step: Step,
    *,
    batch_axis: int | None = 0,
    devices: Sequence[jax.Device] | None = None,
    donate: bool = True,
) -> Step:
    """One program that trains many GANs, spread over all devices without communication.

    On a CPU, small networks leave cores idle. With as many devices as cores
    (`JAX_NUM_CPU_DEVICES=4 python ...`) each core has members of its own.

    Members may differ in whatever the step reads from their state, not only in their seeds. An
    optimizer made by `optax.inject_hyperparams` keeps its hyperparameters in the state, so that
    `init` under `jax.vmap` gives each member a learning rate of its own. The state may be any
    pytree, so that it can hold other settings, such as a penalty's weight. Examples: README,
    `tests/test_sweep.py`.

    Args:
      step: a pure step made without `axis_name`, or a fused loop of such steps.
      batch_axis: the axis of the batch that counts members; leaves without that axis go to every
        member whole. None: all are given the same batch.
      devices, donate: as for `shard_step`.

    Returns:
      The step of all members, every leaf of state and metrics with an axis of members in front,
      such as `jax.vmap(make_state)(jax.random.split(key, num))` gives the state.

    Raises:
      UserError: `devices` is empty; (on a call, before compiling) leaves of the state and the batch
        have different numbers of members, or the number of devices does not divide it.
    """
    devices = _at_least_one(devices)
    mesh = _mesh(devices, AXIS_NAME)
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
            check_vma=False,  # nothing is shared that could differ
        )
        return on_each_device(state, batch)

    compiled = jax.jit(mapped, donate_argnums=0 if donate else ())

    def ensembled(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        num = _members(state, 0, "the state")
        if batch_axis is not None:
            _members(batch, batch_axis, "the batch", num)
        if num % len(devices):
            raise UserError(
                f"an ensemble of {num} cannot be spread over {len(devices)} devices: make it a "
                "multiple, or give some of the devices"
            )
        # Where the program leaves it, so that the second call does not compile the step once more.
        state = jax.device_put(state, NamedSharding(mesh, members))
        shardings = jax.tree.map(partial(NamedSharding, mesh), specs(batch))
        return compiled(state, jax.device_put(batch, shardings))

    return donating(ensembled) if donate else ensembled


def _members(tree: PyTree, axis: int, name: str, num: int | None = None) -> int:
    """The number of members, which is the length of an axis in all leaves of a tree.

    If `num` is given, as for a batch, the length must be `num`, and leaves may lack the axis.

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
                f"{_called(name, path)} has shape {shape}, where the number of members is "
                f"{'not known' if expected is None else expected}: make the state by "
                "jax.vmap(make_state)(keys)"
            )
    if expected is None:
        raise UserError(f"{name} has no leaves, so the number of members is not known")
    return expected


def make_step(
    layout: str, step: Step, *, batch_axis: int | None = None, like: Arguments | None = None
) -> Step:
    """The step compiled for a layout named in `AXIS_NAMES`, on all devices (jit: on one).

    `batch_axis` is as for `shard_step`, `like` as for `jit_step`; pmap has no use for `like`.
    """
    if layout == "jit":
        return jit_step(step, like=like)
    if layout == "shard":
        return shard_step(step, batch_axis=batch_axis, like=like)
    return pmap_step(step, batch_axis=batch_axis)


def _program(step: Step, like: Arguments | None, donate: bool, **options: Any) -> Step:
    options |= {"donate_argnums": 0 if donate else ()}
    return memory.compiled(step, *like, **options) if like else jax.jit(step, **options)


def place(layout: str, state: PyTree) -> PyTree:
    """The state placed as `make_step`'s step returns it, so that the step is not compiled twice."""
    if layout == "jit" or (layout == "shard" and num_devices(layout) == 1):
        return state
    return jax.device_put(state, NamedSharding(_mesh(jax.devices(), AXIS_NAME), PartitionSpec()))


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


def num_devices(layout: str) -> int:
    """How many devices a layout named in `AXIS_NAMES` uses."""
    return 1 if layout == "jit" else len(jax.devices())


def describe(layout: str) -> str:
    """The devices a layout uses, in words: "cpu", "8 x TPU v4"."""
    devices = num_devices(layout)
    kind = jax.devices()[0].device_kind
    return kind if devices == 1 else f"{devices} x {kind}"


def _mesh(devices: Sequence[jax.Device], axis_name: str) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.asarray(devices), (axis_name,), axis_types=(AxisType.Auto,))


def _at_least_one(devices: Sequence[jax.Device] | None) -> Sequence[jax.Device]:
    """The devices, all by default. Raises `UserError` for none."""
    devices = jax.devices() if devices is None else devices
    if not len(devices):
        raise UserError("devices is empty: give at least one, or None for all of them")
    return devices


def _axis_of_examples(step: Step, batch_axis: int | None) -> int:
    """The axis of a step's batch that counts examples: the step's own `batch_axis`, if it has one.

    Raises:
      UserError: `batch_axis` is not the step's own.
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


def _called(name: str, path: Any) -> str:
    return f"{name}{jax.tree_util.keystr(path)}" if path else name


def check_divisible(batch: PyTree, batch_axis: int, devices: int) -> None:
    """Raises `UserError` unless the devices divide the examples of every leaf of the batch."""
    for path, leaf in jax.tree.leaves_with_path(batch):
        if np.ndim(leaf) <= batch_axis:
            continue
        shape = np.shape(leaf)
        try:
            check_batch_size(shape[batch_axis], devices)
        except UserError as error:
            raise UserError(
                f"{_called('batch', path)} has shape {shape}, in which axis {batch_axis} counts "
                f"the examples (a train step takes [n_critic, B, ...], where that is axis 1): "
                f"{error}"
            ) from None


def check_batch_size(batch_size: int, devices: int) -> None:
    """Raises `UserError` unless `devices` divides `batch_size`, naming the nearest that would."""
    if batch_size % devices:
        below = batch_size // devices * devices
        nearest = " or ".join(str(n) for n in (below, below + devices) if n)
        raise UserError(
            f"a batch of {batch_size} cannot be split over {devices} devices: "
            f"make it {nearest}, or use one device"
        )

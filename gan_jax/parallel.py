"""One pure step on many devices. The only module that knows pmap, meshes and shardings.

Every wrapper takes a pure `(state, batch) -> (state, metrics)`, be it D's step, G's step, the
whole train step or a fused chunk of train steps, and returns a compiled function of the same
signature on *global* arrays: whole state in, whole batch in, whole state out. They are
interchangeable, and the number of devices does not change the result.

The state is donated: the one passed in is gone after the call. It may hold an array twice, as
`state.replace(ema_params=state.generator.params)` does: the second is copied first.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from gan_jax import memory
from gan_jax.buffers import Step as Step
from gan_jax.buffers import donating
from gan_jax.cpu import EIGEN as EIGEN
from gan_jax.cpu import use_every_core as use_every_core
from gan_jax.cpu import use_one_core as use_one_core
from gan_jax.errors import UserError
from gan_jax.types import Array, PyTree

Arguments = tuple[PyTree, PyTree]
"""A step's: a state and a batch."""

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
      compiler_options: XLA's, for this program alone. On a CPU `EIGEN` is worth a trial.
      like: a state and a batch, to compile the step now, for arguments like these and no others,
        in less memory: see `memory.compiled`. None: it is compiled when it is called.
    """
    options = None if compiler_options is None else dict(compiler_options)
    program = _program(step, like, donate, compiler_options=options)
    return donating(program) if donate else program


def shard_step(
    step: Step,
    *,
    batch_axis: int = 0,
    devices: Sequence[jax.Device] | None = None,
    donate: bool = True,
    like: Arguments | None = None,
) -> Step:
    """The step compiled once for all devices, the batch split over them: the default.

    Args:
      step: a pure step made *without* `axis_name`: it sees the global batch, and the compiler
        inserts the communication, batch norm's included.
      batch_axis: the axis of the batch that counts examples: 0 for D's and G's steps, 1 for
        `make_train_step`. Leaves without that axis go to every device whole.
      devices: all by default.
      donate, like: as for `jit_step`.

    Raises:
      UserError: (on a call, before compiling) the devices do not divide the batch.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) == 1:  # of a mesh JAX knows nothing: all would be traced once more
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
        shardings = jax.tree.map(lambda leaf: split if leaf.ndim > batch_axis else whole, batch)
        return jax.device_put(state, whole), jax.device_put(batch, shardings)

    with in_force():
        # The state's layout is pinned on the way out, so that it comes back in as it went.
        program = _program(step, like and placed(*like), donate, out_shardings=whole)

    def sharded(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        with in_force():
            return program(*placed(state, batch))

    return donating(sharded) if donate else sharded


def pmap_step(
    step: Step,
    *,
    batch_axis: int = 0,
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
      UserError: (on a call, before compiling) the devices do not divide the batch.
    """
    devices = jax.devices() if devices is None else devices
    whole = _on_every(devices, axis_name)
    compiled: dict[Any, Step] = {}

    def split(leaf: Any) -> Any:
        if leaf.ndim <= batch_axis:
            return leaf
        before, after = leaf.shape[:batch_axis], leaf.shape[batch_axis + 1 :]
        return leaf.reshape(*before, len(devices), -1, *after)

    def mapped(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        check_divisible(batch, batch_axis, len(devices))
        axes = jax.tree.map(lambda leaf: batch_axis if leaf.ndim > batch_axis else None, batch)
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
        # As it comes out, so that the first call's state does not compile the step once more.
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
    """Many GANs in one program, the members spread over all devices, which never communicate.

    On a CPU small networks leave cores idle: with as many devices as cores
    (`JAX_NUM_CPU_DEVICES=4 python ...`) each core has members of its own.

    Members may differ in more than their seeds: in whatever the step reads from their state. What
    an optimizer made by `optax.inject_hyperparams` is given to `init` under `jax.vmap`, such as a
    learning rate for each member, is there; other settings, such as a penalty's weight, may stand
    beside it, for the state may be any pytree. Examples: README, `tests/test_sweep.py`.

    Args:
      step: a pure step made without `axis_name`, or a fused loop of such steps.
      batch_axis: the axis of the batch that counts members; leaves without that axis go to every
        member whole. None: all are given the same batch.
      devices, donate: as for `shard_step`.

    Returns:
      The step of all members, every leaf of state and metrics with an axis of members in front,
      such as `jax.vmap(make_state)(jax.random.split(key, num))` gives the state.

    Raises:
      UserError: (on a call, before compiling) the devices do not divide the members.
    """
    devices = jax.devices() if devices is None else devices
    mesh = _mesh(devices, AXIS_NAME)
    members = PartitionSpec(AXIS_NAME)

    def of_members(leaf: Any) -> bool:
        return batch_axis is not None and leaf.ndim > batch_axis

    def mapped(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        axes = jax.tree.map(lambda leaf: batch_axis if of_members(leaf) else None, batch)
        split = PartitionSpec(*[None] * (batch_axis or 0), AXIS_NAME)
        on_each_device = jax.shard_map(
            jax.vmap(step, in_axes=(0, axes)),
            mesh=mesh,
            in_specs=(
                members,
                jax.tree.map(lambda leaf: split if of_members(leaf) else PartitionSpec(), batch),
            ),
            out_specs=(members, members),
            check_vma=False,  # nothing is shared that could differ
        )
        return on_each_device(state, batch)

    compiled = jax.jit(mapped, donate_argnums=0 if donate else ())

    def ensembled(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        num = jax.tree.leaves(state)[0].shape[0]
        if num % len(devices):
            raise UserError(
                f"an ensemble of {num} cannot be spread over {len(devices)} devices: make it a "
                "multiple, or give some of the devices"
            )
        # As they come out, so that the first call's state does not compile the step once more.
        return compiled(jax.device_put(state, NamedSharding(mesh, members)), batch)

    return donating(ensembled) if donate else ensembled


def make_step(
    layout: str, step: Step, *, batch_axis: int = 0, like: Arguments | None = None
) -> Step:
    """The step compiled for a layout named in `AXIS_NAMES`, on all devices (jit: on one).

    `like` is as for `jit_step`; pmap has no use for it.
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
    """The state where `make_step`'s step will leave it, so that nothing is compiled for two."""
    if layout == "jit" or (layout == "shard" and num_devices(layout) == 1):
        return state
    return jax.device_put(state, _on_every(jax.devices(), AXIS_NAME))


def spread(x: Array) -> Array:
    """An array split over the devices of the mesh in force, if one is and they divide it."""
    mesh = jax.sharding.get_abstract_mesh()
    devices = math.prod(mesh.shape[name] for name in mesh.auto_axes)
    if devices == 1 or x.shape[0] % devices:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(mesh.auto_axes))


def num_devices(layout: str) -> int:
    """How many devices a layout named in `AXIS_NAMES` uses."""
    return 1 if layout == "jit" else len(jax.devices())


def describe(layout: str) -> str:
    """The devices a layout uses, in words: "cpu", "8 x TPU v4"."""
    devices = num_devices(layout)
    kind = jax.devices()[0].device_kind
    return kind if devices == 1 else f"{devices} x {kind}"


def _on_every(devices: Sequence[jax.Device], axis_name: str) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(_mesh(devices, axis_name), PartitionSpec())


def _mesh(devices: Sequence[jax.Device], axis_name: str) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.asarray(devices), (axis_name,), axis_types=(AxisType.Auto,))


def check_divisible(batch: PyTree, batch_axis: int, devices: int) -> None:
    """Raises `UserError` unless the devices divide the examples of every leaf of the batch."""
    for leaf in jax.tree.leaves(batch):
        if leaf.ndim > batch_axis:
            check_batch_size(leaf.shape[batch_axis], devices)


def check_batch_size(batch_size: int, devices: int) -> None:
    """Raises `UserError` unless `devices` divides `batch_size`, naming the nearest that would."""
    if batch_size % devices:
        below = batch_size // devices * devices
        nearest = " or ".join(str(n) for n in (below, below + devices) if n)
        raise UserError(
            f"a batch of {batch_size} cannot be split over {devices} devices: "
            f"make it {nearest}, or use one device"
        )

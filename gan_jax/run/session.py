"""One session of a run: goes on from the last checkpoint in its folder, or begins there."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import jax

from gan_jax import parallel
from gan_jax.parallel import Step
from gan_jax.run import hooks, memory
from gan_jax.run.checkpoint import Checkpoints
from gan_jax.run.folder import Record, RunFolder
from gan_jax.run.loop import Every, Hook, make_chunk, run, signals
from gan_jax.types import PyTree


def train(
    step: Step,
    state: PyTree,
    batches: Callable[[int], PyTree] | None = None,
    *,
    folder: RunFolder,
    num_steps: int,
    chunk_length: int = 50,
    checkpoint_every: Every = 500,
    keep_checkpoints: int = 3,
    layout: str = "shard",
    looks: Sequence[hooks.Look] = (),
    words: Callable[[Record], str] = hooks.in_words,
    tensorboard: bool = False,
    announce: Callable[[str], None] = print,
) -> PyTree:
    """Trains to `num_steps`, from the last checkpoint in the folder if there is one.

    A run that was interrupted and resumed is bit for bit the uninterrupted run: its checkpoints,
    its records and whatever its looks write.

    Args:
      step: pure, `(state, batch) -> (state, metrics)`, such as the `step` of an `Algorithm`. Its
        draws must depend on its state alone.
      state: the first state, arrays only; it is donated. An ensemble has an axis of members in
        front of each array.
      batches: `step -> batch`, every leaf [chunk_length, ...]: the batches of the steps from there,
        whatever was asked for before. None: `step` is given None, and draws its own data, as
        `data.synthetic.feed` makes it do.
      folder: where the run is kept.
      num_steps: calls of the step.
      chunk_length: steps in a compiled program, and between two records, at most.
      checkpoint_every: when the state is saved, besides at the end and where a signal comes.
      keep_checkpoints: how many of the newest to keep.
      layout: of `parallel.AXIS_NAMES`; or "ensemble", to train many GANs on the same batches,
        spread over as many devices as divide their number.
      looks: what else is computed of the state, now and then.
      words: what of a record is shown while training goes on.
      tensorboard: whether to write event files to `tensorboard/` in the folder.
      announce: where messages go.

    Returns:
      The last state, on the host's first device.

    Raises:
      UserError: another command is at work in the folder.
      NonFinite: training left the finite numbers.
      Interrupted: a signal ended the run early; it can be resumed.
      CheckpointError: the state cannot be saved, or the folder has one of another structure.
    """
    gathered = partial(jax.device_put, device=jax.devices()[0])
    with folder.visit(), ExitStack() as stack:
        checkpoints = stack.enter_context(
            closing(Checkpoints(folder.checkpoints, keep=keep_checkpoints))
        )
        restored = checkpoints.restore(state, announce)
        start, state = restored or (0, state)
        if start >= num_steps:
            return state
        records = folder.rewind(start if restored else -1, announce)
        ensemble = layout == "ensemble"
        devices = _devices_of(state, jax.devices()) if ensemble else []
        where = parallel.describe("jit" if ensemble else layout)
        where = f"{len(devices)} x {where}" if len(devices) > 1 else where
        what = f"resuming from step {start}" if restored else f"a new run in {folder.path}"
        announce(f"{what}, on {where}")

        if not ensemble:
            state = parallel.place(layout, state)
        writer = None
        if tensorboard:
            # The first step that is logged here.
            writer = _writer(folder.path, start + 1 if restored else 0)
            stack.enter_context(closing(writer))
        shown = stack.enter_context(hooks.progress(start, num_steps, words))
        # Each look is taken on one device of an ensemble: on all, they would wait for each other.
        move = {"move": gathered} if ensemble else {}
        watched = [hooks.watch(look, **move, writer=writer) for look in looks]
        if not restored:
            for hook in watched:
                hook.start(0, state, {})()
        shown.say("compiling the training step")
        batches = batches or (lambda step: None)
        chunk = make_chunk(step, chunk_length)
        if ensemble:
            compiled = parallel.ensemble_step(chunk, batch_axis=None, devices=devices)
        else:
            compiled = parallel.make_step(layout, chunk)
        state = run(
            compiled,
            state,
            batches,
            start=start,
            num_steps=num_steps,
            chunk_length=chunk_length,
            hooks=(
                hooks.log(folder, shown, checkpoints, before=seconds(records), writer=writer),
                *watched,
                hooks.save(checkpoint_every, checkpoints),
                Hook(None, lambda step, state, metrics: memory.release),
            ),
        )
        with signals():  # almost done: the first signal is ignored
            checkpoints.wait()
    return gathered(state)


def seconds(records: Sequence[Record]) -> float:
    """The seconds that training had taken at the last of these records."""
    return next((record["seconds"] for record in reversed(records) if "seconds" in record), 0.0)


def _devices_of(ensemble: PyTree, devices: Sequence[jax.Device]) -> Sequence[jax.Device]:
    """As many devices as there are to share the members evenly."""
    members = len(jax.tree.leaves(ensemble)[0])
    return devices[: max(n for n in range(1, len(devices) + 1) if members % n == 0)]


def _writer(path: Path, first: int) -> Any:
    """A `SummaryWriter`; TensorBoard forgets what earlier sessions wrote from step `first` on."""
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(path / "tensorboard"), purge_step=first)

"""One session of a run: opens or resumes its folder, trains, writes pictures and the summary."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gan_jax import parallel
from gan_jax._cpu import memory
from gan_jax.algorithms.alternating import sample
from gan_jax.data.pipeline import make_batches, quantize
from gan_jax.data.types import Dataset
from gan_jax.errors import UserError
from gan_jax.run import hooks, plots
from gan_jax.run.checkpoint import Checkpoints
from gan_jax.run.folder import Record, RunFolder
from gan_jax.run.loop import Work, make_chunk, run, signals
from gan_jax.types import GAN, StepFn, TrainState

_FIXED_NOISE = 2**31 - 1
"""Folded into the state's key for the noise of the sample grids: no role or step is as large."""

_DRAWN_AT_ONCE = 32
"""Of the samples of a grid: in a part of the scratch space, by a program that is a half as long."""


def train(
    gan: GAN,
    state: TrainState,
    step: StepFn,
    dataset: Dataset,
    *,
    folder: RunFolder,
    num_steps: int,
    batch_size: int,
    n_critic: int,
    layout: str,
    log_every: int,
    sample_every: int,
    checkpoint_every: int,
    keep_checkpoints: int,
    num_samples: int = 64,
    tensorboard: bool = False,
    announce: Callable[[str], None] = print,
    when_compiled: Callable[[], None] = memory.release,
) -> TrainState:
    """Trains to `num_steps`, from the last checkpoint in the folder if there is one.

    Args:
      gan, state, step: from an experiment's `build`; the step takes [n_critic, B, H, W, C].
      dataset: the real images.
      folder: made with the settings of this run.
      num_steps: updates of G.
      batch_size, n_critic: as in Algorithm 1.
      layout: of `parallel.AXIS_NAMES`.
      log_every: steps in a chunk, and between records.
      sample_every, checkpoint_every: in steps, multiples of `log_every`.
      keep_checkpoints: the newest so many.
      num_samples: images in a grid.
      tensorboard: whether to write event files to `tensorboard/` in the folder.
      announce: where messages go.
      when_compiled: called when all programs are, to give back what that took.

    Returns:
      The last state, on the host's first device.

    Raises:
      UserError: bad input, or another command at work in the folder, before anything is compiled;
        or training left the finite numbers.
      Interrupted: a signal ended the run early; it can be resumed.
    """
    check_schedule(log_every, sample_every, checkpoint_every)
    check_batch_size(batch_size, layout, dataset)
    with folder.visit(), ExitStack() as stack:
        folder.samples.mkdir(exist_ok=True)
        checkpoints = stack.enter_context(
            closing(Checkpoints(folder.checkpoints, keep=keep_checkpoints))
        )
        restored = checkpoints.restore(state, announce)
        start, state = restored or (0, state)
        if start >= num_steps and folder.is_complete(start):
            announce(
                f"{folder.path} is complete at step {start}: --num-steps {start + num_steps}, "
                "say, would go on"
            )
            return state
        records = folder.rewind(start, announce)
        what = f"resuming from step {start}" if restored else f"a new run in {folder.path}"
        announce(f"{what}, on {parallel.describe(layout)}")

        def sampler(state: TrainState) -> jax.Array:
            keys = jax.random.split(
                jax.random.fold_in(state.key, _FIXED_NOISE), -(-num_samples // _DRAWN_AT_ONCE)
            )
            x = jax.lax.map(lambda key: sample(gan, state, key, _DRAWN_AT_ONCE), keys)
            return quantize(x.reshape(-1, *x.shape[2:])[:num_samples])

        batches = make_batches(dataset, state.key, (log_every, n_critic, batch_size))
        state = parallel.place(layout, state)
        writer = None
        if tensorboard:
            first = start + 1 if restored else 0  # the first step that is logged here
            writer = stack.enter_context(closing(_writer(folder.path, first)))
        shown = stack.enter_context(hooks.progress(start, num_steps))
        draw = hooks.draw(sample_every, folder, memory.compiled(sampler, state), writer=writer)
        save = hooks.save(checkpoint_every, checkpoints)
        if not restored:
            draw.start(0, state, {})()
        if start < num_steps:
            shown.say("compiling the training step")
            work = Work(batches(0), np.int32(0))
            chunk = parallel.make_step(layout, make_chunk(step), batch_axis=2, like=(state, work))
            when_compiled()
            state = run(
                chunk,
                state,
                lambda step: batches(step * n_critic * batch_size),
                start=start,
                num_steps=num_steps,
                chunk_length=log_every,
                hooks=(
                    hooks.log(
                        *(log_every, folder, shown, checkpoints),
                        before=_seconds(records),
                        writer=writer,
                    ),
                    draw,
                    save,
                    hooks.release(log_every),
                ),
            )
        with signals():  # almost done: the first signal is ignored
            checkpoints.wait()
            shown.close()
            _finish(folder, dataset, max(start, num_steps), sample_every, announce)
    return jax.device_put(state, jax.devices()[0])


def check_schedule(log_every: int, sample_every: int, checkpoint_every: int) -> None:
    """Raises `UserError` unless the grids and the checkpoints fall on ends of chunks."""
    for name, every in (("sample", sample_every), ("checkpoint", checkpoint_every)):
        if every % log_every:
            raise UserError(
                f"--{name}-every must be a multiple of --log-every ({log_every}), got {every}"
            )


def check_batch_size(
    batch_size: int, layout: str, dataset: Dataset | None = None, *, accumulate: int = 1
) -> None:
    """Raises `UserError` unless the devices divide a batch, the parts it is taken in divide what
    each device has of it, and the data set has enough for one."""
    devices = parallel.num_devices(layout)
    try:
        parallel.check_batch_size(batch_size, devices)
    except UserError as error:
        raise UserError(
            f"--batch-size {batch_size}: {error} (--parallel jit); a run that was begun otherwise "
            "goes on where JAX is shown fewer devices, as by CUDA_VISIBLE_DEVICES"
        ) from None
    if (batch_size // devices) % accumulate:
        raise UserError(
            f"--accumulate must divide the {batch_size // devices} images of a batch that a "
            f"device has, got {accumulate}"
        )
    if dataset is not None and batch_size > len(dataset.x):
        raise UserError(
            f"--batch-size {batch_size} is more than the {len(dataset.x)} images of "
            f"{dataset.name} ({dataset.source}): make it smaller, or use more images"
        )


def describe(dataset: Dataset) -> Record:
    """What identifies the data of a run."""
    return {
        "name": dataset.name,
        "source": dataset.source,
        "count": len(dataset.x),
        "shape": list(dataset.x.shape[1:]),
        "held_out": len(dataset.held_out),
        "sha256": dataset.sha256,
    }


def _finish(
    folder: RunFolder,
    dataset: Dataset,
    num_steps: int,
    sample_every: int,
    announce: Callable[[str], None],
) -> None:
    records = folder.metrics(announce)
    curves, gif = folder.path / "curves.png", folder.path / "samples.gif"
    plots.curves(records, curves)
    grids = [path for path in sorted(folder.samples.glob("*.png")) if path.stem.isdecimal()]
    # A session that was stopped drew its last step, which an uninterrupted run does not draw.
    grids = [path for path in grids[:-1] if int(path.stem) % sample_every == 0] + grids[-1:]
    plots.history(grids, gif, folder.path / "history.png", announce=announce)
    folder.summarise(
        {
            "step": num_steps,
            "metrics": records[-1] if records else {},
            "data": describe(dataset),
            "wall_seconds": _seconds(records),
        }
    )
    announce(f"done: look at {', '.join(map(str, grids[-1:]))}, {gif} and {curves}")


def _seconds(records: Sequence[Record]) -> float:
    """The seconds that a run had taken at the last of its records."""
    return next((record["seconds"] for record in reversed(records) if "seconds" in record), 0.0)


def _writer(path: Path, first: int) -> Any:
    """A `SummaryWriter`; TensorBoard forgets what earlier sessions wrote from step `first` on."""
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(path / "tensorboard"), purge_step=first)

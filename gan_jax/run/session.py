"""One session of a training run, which resumes from the last checkpoint in the run's folder."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gan_jax import parallel
from gan_jax.parallel import Step
from gan_jax.run import hooks, memory, progress
from gan_jax.run.checkpoint import Checkpoints
from gan_jax.run.folder import Record, RunFolder, best_record
from gan_jax.run.loop import Every, Hook, make_chunk, run, signals
from gan_jax.types import PyTree


def train(
    step: Step,
    state: PyTree,
    batches: Callable[[int], PyTree] | None = None,
    *,
    folder: RunFolder | Path | str,
    num_steps: int,
    chunk_length: int = 50,
    checkpoint_every: Every = 500,
    keep_checkpoints: int = 3,
    layout: str = "shard",
    looks: Sequence[hooks.Look] = (),
    evaluation: hooks.Evaluation | None = None,
    watch: Callable[[Record], Sequence[str]] = lambda record: (),
    words: Callable[[Record], str] = progress.in_words,
    tensorboard: bool = False,
    announce: Callable[[str], None] = print,
) -> PyTree:
    """Trains to step `num_steps` and returns the last state.

    Training resumes from the last checkpoint in the folder, if there is one. A resumed run equals
    an uninterrupted run bit for bit in its checkpoints, its records and the results of `looks`.

    Args:
      step: a pure function `(state, batch) -> (state, metrics)`, such as the `step` of an
        `Algorithm`. Its random draws must depend on the state alone.
      state: the initial state, whose leaves are arrays. It is donated. For an ensemble each array
        has a leading axis, with one entry for each GAN.
      batches: a function `step -> batches` that returns the batches of the next `chunk_length`
        steps, every leaf [chunk_length, ...]. The result must not depend on earlier calls. None for
        a step that draws its own data, such as a step made by `data.synthetic.feed`.
      folder: the folder of the run, or its path.
      num_steps: the number of calls of the step, including those of earlier sessions.
      chunk_length: maximum number of steps in one compiled program, and between two records.
      checkpoint_every: the steps after which the state is saved, as for `Hook.every`. The
        state is also saved at the end and after a signal.
      keep_checkpoints: the number of newest checkpoints to keep. With `evaluation`, the best
        checkpoint is kept too.
      layout: a name in `parallel.AXIS_NAMES`, or "ensemble". An ensemble trains many GANs on the
        same batches. It uses the largest number of devices that divides the number of GANs.
      looks: further results that are computed from the state at certain steps, such as samples.
      evaluation: metrics for the records, such as a Fréchet distance of samples. The state with
        the lowest `evaluation.score` is saved.
      watch: called with each record, first with those of earlier sessions. It returns messages to
        show, which are ignored for records of earlier sessions.
      words: turns a record into the text of the progress display.
      tensorboard: whether to write event files to `tensorboard/` in the folder.
      announce: called with each message.

    Returns:
      The last state, on the host's first device.

    Raises:
      ValueError: a number is below 1, the layout is unknown, or "pmap" has no batches.
      UserError: another command uses the folder.
      NonFinite: a metric or the state became NaN or infinite.
      Interrupted: a signal ended the run early. The run can be resumed.
      CheckpointError: the state cannot be saved, or it does not fit the checkpoint in the folder.
    """
    _check(batches, num_steps, chunk_length, checkpoint_every, keep_checkpoints, layout)
    gathered = partial(jax.device_put, device=jax.devices()[0])
    folder = folder if isinstance(folder, RunFolder) else RunFolder(folder)
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
            from tensorboardX import SummaryWriter

            # TensorBoard hides the events of an earlier session from step `first` on.
            first = start + 1 if restored else 0
            writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=first)
            stack.enter_context(closing(writer))
        shown = stack.enter_context(closing(progress.Progress(start, num_steps, words)))
        # For an ensemble, `Look.see` runs on one device, because several devices would wait for
        # each other.
        move = {"move": gathered} if ensemble else {}
        watched = [hooks.watch(look, **move, writer=writer) for look in looks]
        if not restored:
            for hook in watched:
                hook.start(0, state, {})()
        shown.say("compiling the training step: this can take a minute")
        batches = batches or (lambda step: None)
        chunk = make_chunk(step, chunk_length)
        if ensemble:
            compiled = parallel.ensemble_step(chunk, batch_axis=None, devices=devices)
        else:
            compiled = parallel.make_step(layout, chunk)
        for record in records:
            watch(record)
        figures: Record = {}
        evaluate, save_best = list[Hook](), list[Hook]()
        if evaluation is not None:
            known = best_record(records, evaluation.score, checkpoints.steps)
            pair = hooks.evaluate(evaluation, figures, checkpoints, known)
            evaluate, save_best = [pair[0]], [pair[1]]
        state = run(
            compiled,
            state,
            batches,
            start=start,
            num_steps=num_steps,
            chunk_length=chunk_length,
            hooks=(
                *evaluate,
                hooks.log(
                    folder,
                    shown,
                    checkpoints,
                    begin=start,
                    before=seconds(records),
                    figures=figures,
                    watch=watch,
                    writer=writer,
                ),
                *watched,
                *save_best,
                hooks.save(checkpoint_every, checkpoints),
                Hook(None, lambda step, state, metrics: memory.release),
            ),
        )
        with signals():  # the run is almost done, so the first signal is ignored
            checkpoints.wait()
    return gathered(state)


def _check(
    batches: Any, num_steps: int, chunk_length: int, every: Every, keep: int, layout: str
) -> None:
    counts = {"num_steps": num_steps, "chunk_length": chunk_length, "keep_checkpoints": keep}
    if isinstance(every, int | np.integer):
        counts["checkpoint_every"] = int(every)
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    layouts = (*parallel.AXIS_NAMES, "ensemble")
    if layout not in layouts:
        raise ValueError(f"layout must be one of {', '.join(layouts)}, got {layout!r}")
    if layout == "pmap" and batches is None:
        raise ValueError(
            "layout 'pmap' splits batches over devices, but batches is None: give batches, or use "
            "layout='shard'"
        )


def seconds(records: Sequence[Record]) -> float:
    """Returns the training time up to the last record, in seconds."""
    return next((record["seconds"] for record in reversed(records) if "seconds" in record), 0.0)


def _devices_of(ensemble: PyTree, devices: Sequence[jax.Device]) -> Sequence[jax.Device]:
    """Returns the first n devices, for the largest n that divides the number of GANs."""
    members = len(jax.tree.leaves(ensemble)[0])
    return devices[: max(n for n in range(1, len(devices) + 1) if members % n == 0)]

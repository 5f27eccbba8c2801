"""Hooks that run between chunks of steps: log records, show samples, save checkpoints."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.buffers import unshared
from gan_jax.run.checkpoint import Checkpoints
from gan_jax.run.folder import Record, RunFolder
from gan_jax.run.leaves import snapshot
from gan_jax.run.loop import Every, Finish, Hook, NonFinite
from gan_jax.run.progress import TIMES, Progress
from gan_jax.types import Metrics, PyTree


def log(
    folder: RunFolder,
    shown: Progress,
    checkpoints: Checkpoints,
    *,
    begin: int = 0,
    before: float = 0.0,
    figures: Record | None = None,
    watch: Callable[[Record], Sequence[str]] = lambda record: (),
    writer: Any = None,
) -> Hook:
    """Returns a hook that logs the mean of each metric over a chunk.

    An array metric, as in an ensemble, is logged as the mean of its elements. The finish function
    of the hook raises `NonFinite` if a metric is not finite. The error names the step, the metric
    and the last good checkpoint.

    Args:
      folder: run folder, which stores the record.
      shown: progress display, which shows the record.
      checkpoints: checkpoints of the run, for the error message.
      begin: the step at which this session begins.
      before: seconds of training in earlier sessions of this run.
      figures: further entries for the next record, such as those of `evaluate`. They are removed
        when they are logged.
      watch: called with each record. It returns messages to show.
      writer: a tensorboardX `SummaryWriter`, or None.

    Raises:
      ValueError: raised by `start` if a metric has no elements, or has the name of another entry of
        a record.
    """
    began = time.monotonic()
    last = begin, began  # step and time

    def start(step: int, state: PyTree, metrics: Metrics) -> Finish:
        del state
        _check_names(metrics)

        def finish() -> None:
            nonlocal last
            values = jax.device_get(metrics)
            _check_finite(last[0], values, checkpoints)
            now = time.monotonic()
            means = {name: np.mean(value, dtype=np.float64) for name, value in values.items()}
            record: Record = {
                "step": step,
                **{name: float(mean) for name, mean in means.items()},
                **(figures or {}),
                "steps_per_second": (step - last[0]) / (now - last[1]),
                "seconds": before + now - began,
            }
            last = step, now
            if figures is not None:
                figures.clear()
            folder.log(record)
            if writer is not None:
                for name in record.keys() - {"step", "seconds"}:
                    writer.add_scalar(name, record[name], step)
            # These come last, because they fail if stdout is a closed pipe.
            shown.update(step, record)
            for message in watch(record):
                shown.say(message)

        return finish

    return Hook(None, start)


def _check_names(metrics: Metrics) -> None:
    for name, value in metrics.items():
        if name in TIMES:
            raise ValueError(f"a step returns a metric {name!r}, which a record has: rename it")
        if not value.size:
            raise ValueError(f"a step returns the metric {name!r} without elements: leave it out")


def _check_finite(done: int, metrics: dict[str, np.ndarray], checkpoints: Checkpoints) -> None:
    bad = {
        name: ~np.isfinite(values).reshape(-1, values.shape[-1]).all(axis=0)
        for name, values in metrics.items()
    }
    first = min((int(np.argmax(b)) for b in bad.values() if b.any()), default=None)
    if first is None:
        return
    names = ", ".join(name for name, b in bad.items() if b[first])
    raise NonFinite(f"{names} not finite at step {done + first + 1}. {_last(checkpoints)}")


def _last(checkpoints: Checkpoints) -> str:
    checkpoints.wait()
    steps = checkpoints.steps
    if steps:
        kept = f"The last good checkpoint is of step {steps[-1]}."
    else:
        kept = "No checkpoint was saved yet."
    return f"{kept} Try a lower learning rate, a penalty on the discriminator, or another loss."


class Look(NamedTuple):
    """A result that is computed from the state and shown at certain steps, such as samples.

    Attributes:
      every: the steps after which the result is computed. It is also computed before the first step
        and after the last step.
      see: a pure function of the state, compiled once.
      show: `(step, result) -> picture`, called on the host with the result of `see`. The picture is
        None, or uint8 [H, W] or [H, W, C]. TensorBoard shows it.
    """

    every: Every
    see: Callable[[Any], PyTree]
    show: Callable[[int, Any], np.ndarray | None]


def watch(
    look: Look,
    move: Callable[[PyTree], PyTree] = lambda state: state,
    *,
    writer: Any = None,
) -> Hook:
    """Returns a hook that computes and shows a `Look`.

    Args:
      look: the functions to call and the steps when they are due.
      move: moves a state to the device that computes `look.see`. The default does not move it.
      writer: a tensorboardX `SummaryWriter`, or None.
    """
    see = jax.jit(look.see)

    def start(step: int, state: PyTree, metrics: Metrics) -> Finish:
        del metrics
        made = unshared(see(move(state)), apart_from=state)

        def finish() -> None:
            picture = look.show(step, jax.device_get(made))
            if writer is not None and picture is not None:
                layout = "HWC" if picture.ndim == 3 else "HW"
                writer.add_image("samples", picture, step, dataformats=layout)

        return finish

    return Hook(look.every, start)


class Evaluation(NamedTuple):
    """Metrics that are computed from the state at certain steps, one of which chooses the best.

    Attributes:
      every: the steps after which the metrics are computed. They are also computed after the last
        step.
      see: a function of the state that dispatches work to the device. It must not keep the state.
      measure: called on the host with the result of `see`. It returns finite metrics by name.
      score: the name of the figure whose lowest value marks the best state.
    """

    every: Every
    see: Callable[[Any], PyTree]
    measure: Callable[[Any], Record]
    score: str


def evaluate(
    evaluation: Evaluation,
    figures: Record,
    checkpoints: Checkpoints,
    best: Record | None = None,
) -> tuple[Hook, Hook]:
    """Returns a hook that evaluates, and a hook that saves the state if it is the best so far.

    The hook of `log` comes between the two, so that a saved state always has its record.

    Args:
      evaluation: the functions to call and the steps when they are due.
      figures: receives the metrics. `log` moves them to a record.
      checkpoints: checkpoints of the run. The best one is protected.
      best: the record of the best checkpoint of earlier sessions, or None.
    """
    score = evaluation.score
    lowest = float("inf")
    if best is not None:
        lowest = best[score]
        checkpoints.protect(best["step"])
    chosen = -1

    def start(step: int, state: PyTree, metrics: Metrics) -> Finish:
        del metrics
        made = unshared(evaluation.see(state), apart_from=state)

        def finish() -> None:
            nonlocal lowest, chosen
            figures.update(evaluation.measure(jax.device_get(made)))
            if figures.get(score, lowest) < lowest:
                lowest, chosen = figures[score], step

        return finish

    def protect(step: int) -> bool:
        if step == chosen:
            checkpoints.protect(step)
        return step == chosen

    return Hook(evaluation.every, start), save(evaluation.every, checkpoints, wanted=protect)


def save(
    every: Every, checkpoints: Checkpoints, wanted: Callable[[int], bool] | None = None
) -> Hook:
    """Returns a hook that saves the state in the background, and also when a signal stops the run.

    If the state is not finite, the finish function of the hook saves nothing and raises
    `NonFinite`.

    Args:
      every: the steps after which the state is saved.
      checkpoints: checkpoints of the run.
      wanted: a function of the step that returns whether to save. If given, a signal does not cause
        a save.
    """

    def start(step: int, state: PyTree, metrics: Metrics) -> Finish:
        del metrics
        copy = snapshot(state)

        def finish() -> None:
            if wanted is not None and not wanted(step):
                return
            if not _is_finite(copy):
                raise NonFinite(f"the state is not finite at step {step}. {_last(checkpoints)}")
            if not checkpoints.has(step):
                checkpoints.save(step, copy)

        return finish

    return Hook(every, start, when_stopped=wanted is None)


def _is_finite(state: PyTree) -> bool:
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return all(np.isfinite(leaf).all() for leaf in floats)

"""What is done between chunks: figures, pictures, checkpoints."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from gan_jax._cpu import memory
from gan_jax.errors import UserError
from gan_jax.run import plots
from gan_jax.run.checkpoint import Checkpoints
from gan_jax.run.folder import RunFolder
from gan_jax.run.leaves import snapshot
from gan_jax.run.loop import Finish, Hook
from gan_jax.types import Array, Metrics, PyTree, TrainState


class NonFinite(UserError):
    """Training left the finite numbers."""


_ADVICE = (
    "Try a lower learning rate, a penalty (--r1), or --loss non_saturating; nothing bad was saved."
)


def time_left(elapsed: float, done: int, left: int) -> str:
    """The time that `left` items will take if `done` items took `elapsed` seconds: h:mm:ss."""
    return tqdm.format_interval(elapsed * left / done)


class Progress:
    """A bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, start: int, num_steps: int) -> None:
        self._bar = tqdm(
            total=num_steps, initial=start, unit="step", disable=None, dynamic_ncols=True
        )
        self._num_steps = num_steps
        self._first: tuple[int, float] | None = None
        self._printed = 0.0

    def update(self, step: int, record: dict[str, float]) -> None:
        """Shows the figures a GAN user watches."""
        figures = (
            f"D {record['discriminator_loss']:.3f} G {record['generator_loss']:.3f} "
            f"V {record['value']:.3f} (-log 4 = {-plots.LOG_4:.3f}) "
            f"acc real {record['real_accuracy']:.2f} fake {record['fake_accuracy']:.2f}"
        )
        if not self._bar.disable:
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        if self._first is None:
            self._first = step, now  # what came before was compiling: no measure of what is left
        if now - self._printed >= 10 or step == self._num_steps:
            self._printed = now
            done, seconds = step - self._first[0], now - self._first[1]
            pace = ""
            if done and seconds:
                left = time_left(seconds, done, self._num_steps - step)
                pace = f"{done / seconds:.1f} steps/s  ETA {left}  "
            print(f"step {step}/{self._num_steps}  {pace}{figures}", flush=True)

    def say(self, message: str) -> None:
        """Prints a line above the bar."""
        tqdm.write(message, file=sys.stdout if self._bar.disable else sys.stderr)

    def close(self) -> None:
        """Leaves the terminal in order."""
        self._bar.close()


@contextmanager
def progress(start: int, num_steps: int) -> Iterator[Progress]:
    """A `Progress`, closed in the end."""
    shown = Progress(start, num_steps)
    try:
        yield shown
    finally:
        shown.close()


def log(
    every: int,
    folder: RunFolder,
    shown: Progress,
    checkpoints: Checkpoints,
    *,
    before: float = 0.0,
    writer: Any = None,
) -> Hook:
    """Records the mean of each metric over the chunk, and watches that all of them are finite.

    Args:
      every: in steps.
      folder, shown, writer: where the record goes; the writer is a tensorboardX `SummaryWriter`.
      checkpoints: where the last good state is.
      before: the seconds that earlier visits to this run took.

    Raises:
      NonFinite: (when it finishes) naming the step and the metric, and the last good checkpoint.
    """
    began = time.monotonic()
    last = [began]

    def start(step: int, state: TrainState, metrics: Metrics) -> Finish:
        del state

        def finish() -> None:
            values = jax.device_get(metrics)
            _check_finite(step, values, checkpoints)
            now = time.monotonic()
            length = len(values["value"])
            record: dict[str, float] = {
                "step": step,
                **{name: float(np.mean(value)) for name, value in values.items()},
                "steps_per_second": length / (now - last[0]),
                "seconds": before + now - began,
            }
            last[0] = now
            folder.log(record)
            if writer is not None:
                for name in record.keys() - {"step", "seconds"}:
                    writer.add_scalar(name, record[name], step)
            shown.update(step, record)  # last: it fails if stdout's reader is gone

        return finish

    return Hook(every, start)


def _check_finite(step: int, metrics: dict[str, np.ndarray], checkpoints: Checkpoints) -> None:
    bad = {name: ~np.isfinite(values) for name, values in metrics.items()}
    first = min((int(np.argmax(b)) for b in bad.values() if b.any()), default=None)
    if first is None:
        return
    names = ", ".join(name for name, b in bad.items() if b[first])
    length = len(metrics["value"])
    raise NonFinite(f"{names} not finite at step {step - length + first + 1}. {_last(checkpoints)}")


def _last(checkpoints: Checkpoints) -> str:
    checkpoints.wait()
    steps = checkpoints.steps
    kept = f"The last good checkpoint is of step {steps[-1]}." if steps else "None was saved yet."
    return f"{kept} {_ADVICE}"


def draw(
    every: int,
    folder: RunFolder,
    sampler: Callable[[TrainState], Array],
    *,
    writer: Any = None,
) -> Hook:
    """Saves a grid of what `sampler` makes of the state: uint8 [N, H, W, C]."""

    def start(step: int, state: TrainState, metrics: Metrics) -> Finish:
        del metrics
        images = sampler(state)

        def finish() -> None:
            picture = plots.grid(np.asarray(images))
            plots.save_image(picture, folder.samples / f"{step:07d}.png")
            if writer is not None:
                writer.add_image(
                    "samples", np.asarray(picture.convert("RGB")), step, dataformats="HWC"
                )

        return finish

    return Hook(every, start)


def save(every: int, checkpoints: Checkpoints) -> Hook:
    """Saves the state, if it is finite, while training goes on.

    Raises:
      NonFinite: (when it finishes) some parameter or statistic is not finite.
    """

    def start(step: int, state: TrainState, metrics: Metrics) -> Finish:
        del metrics
        copy = snapshot(state)

        def finish() -> None:
            if not _is_finite(copy):
                raise NonFinite(f"the state is not finite at step {step}. {_last(checkpoints)}")
            if step not in checkpoints.steps:
                checkpoints.save(step, copy)

        return finish

    return Hook(every, start)


def _is_finite(state: PyTree) -> bool:
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return all(np.isfinite(leaf).all() for leaf in floats)


def release(every: int) -> Hook:
    """Gives the memory this process no longer uses back to the system: see `memory.release`."""

    def start(step: int, state: TrainState, metrics: Metrics) -> Finish:
        del step, state, metrics
        return memory.release

    return Hook(every, start)

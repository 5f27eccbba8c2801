"""The training loop: it runs steps in compiled chunks and calls hooks between chunks.

The loop trains any step `(state, batch) -> (state, metrics)`. Host and device work at the same
time. After the loop has dispatched a chunk, each hook dispatches its own work to the device and
returns a finish function. The loop then dispatches the next chunk. It calls the finish functions
after that, because they may wait for results.
"""

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.errors import UserError
from gan_jax.parallel import Step
from gan_jax.types import Array, Metrics, PyTree


class Work(NamedTuple):
    """The input of one chunk.

    Attributes:
      batch: K batches for the step, every leaf [K, ...]. None for a step that draws its own data.
      num: [] int32, the number of steps to take, at most K.
    """

    batch: PyTree
    num: Array | np.int32


def make_chunk(step: Step, length: int) -> Step:
    """Returns a pure function that takes up to `length` steps.

    The same compiled program takes any number of steps. `lax.scan` would need a program for each
    number of steps, and XLA would compile these programs differently. The last bits of the results
    would then depend on the step at which a run was interrupted.

    Args:
      step: `(state, batch) -> (state, metrics)`.
      length: K, the maximum number of steps in a chunk.

    Returns:
      `(state, Work) -> (state, metrics)`. Each metric is [..., K], and only its first `num` values
        are set. The function has the attribute `batch_axis`, which `parallel` reads. It is the
        step's `batch_axis` plus 1.
    """

    def chunk(state: PyTree, work: Work) -> tuple[PyTree, Metrics]:
        traced = jax.jit(step, inline=True)  # the step is then traced once for both uses below

        def take(index: Array) -> PyTree:
            return jax.tree.map(lambda leaf: leaf[index], work.batch)

        def body(index: Array, carry: tuple[PyTree, Metrics]) -> tuple[PyTree, Metrics]:
            state, history = carry
            state, metrics = traced(state, take(index))
            return state, jax.tree.map(lambda h, m: h.at[..., index].set(m), history, metrics)

        shapes = jax.eval_shape(traced, state, jax.eval_shape(take, 0))[1]
        history = jax.tree.map(lambda m: jnp.zeros((*m.shape, length), m.dtype), shapes)
        return jax.lax.fori_loop(0, work.num, body, (state, history))

    chunk.batch_axis = 1 + getattr(step, "batch_axis", 0)  # type: ignore[attr-defined]
    return chunk


Finish = Callable[[], None]

Every = int | Collection[int] | None
"""When a hook is due: every N steps (int), after the listed steps, or after every chunk (None)."""


class Hook(NamedTuple):
    """A function that the loop calls between chunks.

    Attributes:
      every: when the hook is due. A chunk ends at each step where a hook is due.
      start: `(step, state, metrics) -> finish`. `start` may only dispatch work to the device and
        must not keep `state`, which is donated to the next chunk. Each metric is [..., n] for the n
        steps of the chunk. `finish()` is called after the next chunk is dispatched, and may wait.
      when_stopped: whether the hook is also due when a signal ends the run early.
    """

    every: Every
    start: Callable[[int, Any, Metrics], Finish]
    when_stopped: bool = False

    def next(self, step: int) -> float:
        """Returns the first step after `step` at which the hook is due."""
        if self.every is None:
            return float("inf")
        if isinstance(self.every, int | np.integer):
            return step - step % self.every + self.every
        return min((at for at in self.every if at > step), default=float("inf"))

    def is_due(self, step: int) -> bool:
        """Returns whether the hook is due after a chunk that ends at this step."""
        return self.every is None or self.next(step - 1) == step


_NOTICE = (
    b"\nstopping: the current steps are finished and saved, then the run can be resumed "
    b"(Ctrl-C again stops at once and loses the steps since the last save)\n"
)


class NonFinite(UserError):
    """A metric or the state is not finite. The last finite state stays saved."""


class Interrupted(Exception):
    """A signal ended the run early. The current chunk was completed and the state was saved.

    Attributes:
      signum: SIGINT or SIGTERM, or SIGPIPE if the program that reads stdout has ended.
      step: the last completed step.
    """

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"{signal.Signals(signum).name} at step {step}")
        self.signum, self.step = signum, step


def run(
    chunk: Step,
    state: PyTree,
    batches: Callable[[int], PyTree],
    *,
    start: int,
    num_steps: int,
    chunk_length: int,
    hooks: Sequence[Hook],
) -> PyTree:
    """Trains from step `start` to step `num_steps` and returns the last state.

    Args:
      chunk: the compiled result of `make_chunk`. It may donate the state.
      state: the state after `start` steps.
      batches: a function of the number of steps already taken. It returns the batches of the next K
        = `chunk_length` steps, every leaf [K, ...].
      start: number of steps already taken.
      num_steps: number of steps to reach.
      chunk_length: maximum steps per chunk. A chunk also ends at each multiple of this number, and
        at each step where a hook is due.
      hooks: the hooks. After each chunk, the hooks that are due start in order. After the last
        chunk, all hooks start.

    Raises:
      Interrupted: SIGINT or SIGTERM came, or stdout is a closed pipe. Hooks with `when_stopped`
        have finished for the last completed step.
    """
    step, stop, unfinished = start, False, list[Finish]()
    with signals(_NOTICE) as received:

        def finish_all() -> None:
            """Calls every finish function, such as a save, even after another one failed."""
            failed = None
            while unfinished:
                try:
                    unfinished.pop(0)()
                except BrokenPipeError:  # Python raises this error in place of SIGPIPE
                    received.append(signal.SIGPIPE)
                except NonFinite:
                    raise
                except Exception as error:
                    failed = failed or error
            if failed is not None:
                raise failed

        while step < num_steps:
            end = min(step - step % chunk_length + chunk_length, num_steps)
            num = int(min([end, *(hook.next(step) for hook in hooks)])) - step
            try:
                state, metrics = chunk(state, Work(batches(step), np.int32(num)))
            finally:
                finish_all()  # even if the data cannot be read
            step += num
            stop = bool(received)  # read once, so a signal during the hooks takes effect later
            if num < chunk_length:  # a full chunk needs no slice, which JAX would have to compile
                metrics = {name: values[..., :num] for name, values in metrics.items()}
            unfinished = [
                hook.start(step, state, metrics)
                for hook in hooks
                if hook.is_due(step) or step == num_steps or (stop and hook.when_stopped)
            ]
            if stop:
                break
        finish_all()
        if stop and step < num_steps:
            raise Interrupted(received[0], step)
    return state


@contextmanager
def signals(notice: bytes = b"") -> Iterator[list[int]]:
    """Yields a list. The first SIGINT or SIGTERM is appended to it and does not end the process.

    The first signal restores the earlier handlers, so a second one ends the process at once.

    Args:
      notice: the text written to stderr when a signal arrives.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may handle signals
        return

    def receive(signum: int, _: object) -> None:
        received.append(signum)
        restore()
        with suppress(OSError):  # stderr may be closed
            os.write(2, notice)

    previous = {
        number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)
    }

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    try:
        yield received
    finally:
        restore()

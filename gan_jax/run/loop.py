"""The loop: chunks of steps fused into one program, and what is done between them.

It trains any step `(state, batch) -> (state, metrics)` on any batches. While the device works on a
chunk, the host finishes the work of the last one: a hook starts on the device right after a chunk
is dispatched and returns what is left to do on the host, which is done once the next chunk is under
way.
"""

import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.parallel import Step
from gan_jax.types import Array, Metrics, PyTree


class Work(NamedTuple):
    """The input of one chunk.

    Attributes:
      batch: K batches for the step, every leaf [K, ...]; None for a step that draws its own data.
      num: [] int32, how many of the K steps to take.
    """

    batch: PyTree
    num: Array | np.int32


def make_chunk(step: Step, length: int) -> Step:
    """Up to `length` steps as one pure program, whose length is data.

    A `lax.scan` would be another program for every length, and XLA compiles a scan of one step
    otherwise than one of two: the last bits would depend on where a run was interrupted.

    Args:
      step: `(state, batch) -> (state, metrics)`.
      length: K, the most steps in a chunk.

    Returns:
      `(state, Work) -> (state, metrics)`, each metric [..., K], the first `num` of K filled.
      Its attribute `batch_axis` is the step's own plus one, for the wrappers of `parallel`.
    """

    def chunk(state: PyTree, work: Work) -> tuple[PyTree, Metrics]:
        traced = jax.jit(step, inline=True)  # once, for its metrics' shapes and for itself

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
"""When something is due: every so many steps, after certain steps, or (None) after every chunk."""


class Hook(NamedTuple):
    """Something to do between chunks.

    Attributes:
      every: when it is due. A chunk ends wherever a hook is due.
      start: `(step, state, metrics) -> finish`. `start` may only dispatch work to the device;
        `finish`, called when the next chunk is under way, may wait for it. `state` is donated
        to the next chunk: keep nothing of it. Each metric is [..., n], of the chunk's n steps.
      when_stopped: whether it is also due where a signal ends the run early.
    """

    every: Every
    start: Callable[[int, Any, Metrics], Finish]
    when_stopped: bool = False

    def next(self, step: int) -> float:
        """The first step above this one at which a chunk must end for the hook."""
        if self.every is None:
            return float("inf")
        if isinstance(self.every, int):
            return step - step % self.every + self.every
        return min((at for at in self.every if at > step), default=float("inf"))

    def is_due(self, step: int) -> bool:
        """Whether to start it after a chunk that ends at this step."""
        return self.every is None or self.next(step - 1) == step


class Interrupted(Exception):
    """A signal ended the run early, after the current chunk, with everything saved.

    Attributes:
      signum: SIGINT, SIGTERM, or SIGPIPE if the reader of stdout is gone.
      step: the last step that was done.
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
    """Trains from step `start` to `num_steps`.

    Args:
      chunk: a compiled `make_chunk`; it may consume the state it is given.
      state: after `start` steps.
      batches: step -> every leaf [K, ...], the data of the K = `chunk_length` steps from there.
      start, num_steps: counted in calls of the step.
      chunk_length: chunks end at its multiples, and where a hook is due.
      hooks: started in order after each chunk that ends where they are due, and after the last.

    Raises:
      Interrupted: SIGINT or SIGTERM came, or a hook wrote to stdout and its reader is gone. The
        hooks that are due when a run is stopped have seen the last chunk.
    """
    step, stop, unfinished = start, False, list[Finish]()
    with signals() as received:

        def finish_all() -> None:
            for finish in unfinished:
                try:
                    finish()
                except BrokenPipeError:  # Python's form of SIGPIPE
                    received.append(signal.SIGPIPE)

        while step < num_steps:
            end = min(step - step % chunk_length + chunk_length, num_steps)
            num = int(min([end, *(hook.next(step) for hook in hooks)])) - step
            state, metrics = chunk(state, Work(batches(step), np.int32(num)))
            step += num
            finish_all()
            stop = bool(received)  # asked once: a signal during the hooks is for the next chunk
            if num < chunk_length:  # not for nothing: a slice is a program of its own
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
def signals() -> Iterator[list[int]]:
    """Yields a list to which a stop signal is appended, instead of ending the process.

    The first signal restores the earlier handlers, so that a second one acts at once.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may handle signals
        return

    def receive(signum: int, _: object) -> None:
        received.append(signum)
        restore()

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

"""The loop: chunks of steps fused into one program, and what is done between them.

While the device works on a chunk, the host finishes what the last one began: a hook starts on the
device right after a chunk is dispatched and returns what is left to do on the host, which is done
once the next chunk is under way.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.data.pipeline import dequantize
from gan_jax.parallel import Step
from gan_jax.types import Array, Batch, Metrics, StepFn, TrainState


class Work(NamedTuple):
    """What one chunk is given.

    Attributes:
      batch: uint8 images [K, n_critic, B, H, W, C], K minibatches for the train step.
      num: [] int32, how many of the K to take.
    """

    batch: Batch
    num: Array | np.int32


def make_chunk(step: StepFn) -> Callable[[TrainState, Work], tuple[TrainState, Metrics]]:
    """Up to K train steps as one pure program, whose length is data.

    A `lax.scan` would be another program for every length, and XLA compiles a scan of one step
    otherwise than one of two: the last bits would depend on where a run was interrupted.

    Returns:
      `(state, Work) -> (state, metrics)`, each metric [K], of which the first `num` are filled.
    """

    def chunk(state: TrainState, work: Work) -> tuple[TrainState, Metrics]:
        traced = jax.jit(step, inline=True)  # once, for its metrics' shapes and for itself

        def take(index: Array) -> Batch:
            batch: Batch = jax.tree.map(lambda leaf: leaf[index], work.batch)
            return batch._replace(x=dequantize(batch.x))

        def body(index: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, history = carry
            state, metrics = traced(state, take(index))
            return state, jax.tree.map(lambda h, m: h.at[index].set(m), history, metrics)

        shapes = jax.eval_shape(traced, state, jax.eval_shape(take, 0))[1]
        length = work.batch.x.shape[0]
        history = jax.tree.map(lambda m: jnp.zeros((length, *m.shape), m.dtype), shapes)
        return jax.lax.fori_loop(0, work.num, body, (state, history))

    return chunk


Finish = Callable[[], None]


class Hook(NamedTuple):
    """Something to do every so often.

    Attributes:
      every: in steps, a multiple of the chunk's length.
      start: `(step, state, metrics) -> finish`. `start` may only dispatch work to the device;
        `finish`, called when the next chunk is under way, may wait for it. `state` is donated
        to the next chunk: keep nothing of it.
    """

    every: int
    start: Callable[[int, TrainState, Metrics], Finish]


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
    state: TrainState,
    batches: Callable[[int], Batch],
    *,
    start: int,
    num_steps: int,
    chunk_length: int,
    hooks: Sequence[Hook],
) -> TrainState:
    """Trains from step `start` to `num_steps`.

    Args:
      chunk: a compiled `make_chunk`; it may consume the state it is given.
      state: after `start` steps.
      batches: step -> [K, n_critic, B, ...], the data of the K = `chunk_length` steps from there.
      start, num_steps: counted in updates of G.
      chunk_length: chunks end at its multiples.
      hooks: started in order after each chunk that ends at a multiple of their `every`, and
        after the last one.

    Raises:
      Interrupted: SIGINT or SIGTERM came, or a hook wrote to stdout and its reader is gone. The
        hooks have seen the last chunk.
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
            num = min(chunk_length - step % chunk_length, num_steps - step)
            state, metrics = chunk(state, Work(batches(step), np.int32(num)))
            step += num
            finish_all()
            stop = bool(received)  # asked once: a signal during the hooks is for the next chunk
            last = stop or step == num_steps
            if num < chunk_length:  # not for nothing: a slice is a program of its own
                metrics = {name: values[:num] for name, values in metrics.items()}
            unfinished = [
                hook.start(step, state, metrics) for hook in hooks if last or step % hook.every == 0
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

"""The loop: compiled chunks, hooks between them, signals."""

import itertools
import os
import signal
import threading

import chex
import jax
import numpy as np
import optax
import pytest

from gan_jax import (
    Batch,
    init,
    losses,
    make_discriminator_step,
    make_generator_step,
    make_train_step,
)
from gan_jax.data.pipeline import dequantize, on_bytes
from gan_jax.models import MODELS
from gan_jax.run.loop import Hook, Interrupted, Work, make_chunk, run

STEPS, N_CRITIC, BATCH = 4, 2, 4
AS_USERS = {"xla_cpu_use_fusion_emitters": True}
"""XLA's default, which conftest turns off: bits are compared of what users compile."""


class Game:
    """Returns a state, the train step, `STEPS` stacks of images and the chunk of that length."""

    def __init__(self, model, tx):
        shape = {"dcgan": (28, 28, 1), "mlp": (8, 8, 1)}[model]
        gan = MODELS[model](shape, latent=3, width=4)
        random = np.random.default_rng(0)
        self.images = random.integers(0, 256, (STEPS, N_CRITIC, BATCH, *shape), dtype=np.uint8)
        example = Batch(np.zeros((2, *shape), np.float32))
        self.state = jax.jit(lambda key: init(gan, tx, tx, key, example))(jax.random.key(0))
        self.step = make_train_step(
            make_discriminator_step(gan, losses.non_saturating, tx),
            make_generator_step(gan, losses.non_saturating, tx),
            n_critic=N_CRITIC,
        )
        self.chunk = jax.jit(make_chunk(on_bytes(self.step), STEPS), compiler_options=AS_USERS)

    def train(self, chunk, length, *ends):
        """Returns (players, metrics) after chunks that end there, by a program for `length`."""
        state, history = self.state, []
        for begin, end in itertools.pairwise((0, *ends)):
            padded = np.resize(self.images[begin:end], (length, *self.images.shape[1:]))
            state, metrics = chunk(state, Work(Batch(padded), np.int32(end - begin)))
            history.append({name: values[: end - begin] for name, values in metrics.items()})
        players = state.generator, state.discriminator, state.ema_params
        return players, jax.tree.map(lambda *parts: np.concatenate(parts), *history)


@pytest.fixture(scope="module")
def mlp():
    return Game("mlp", optax.sgd(0.1))


def test_a_chunk_is_its_steps_one_by_one(mlp):
    players, history = mlp.train(mlp.chunk, STEPS, STEPS)
    state, one = mlp.state, jax.jit(mlp.step)
    for i in range(STEPS):
        state, metrics = one(state, Batch(dequantize(mlp.images[i])))
        for name, value in metrics.items():
            np.testing.assert_allclose(history[name][i], value, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(
        players, (state.generator, state.discriminator, state.ema_params), atol=1e-6
    )


@pytest.mark.parametrize("model", ["mlp", pytest.param("dcgan", marks=pytest.mark.slow)])
def test_bits_do_not_depend_on_where_chunks_end(model, mlp):
    """The result depends neither on the steps taken per call nor on the program's maximum."""
    game = mlp if model == "mlp" else Game(model, optax.adam(1e-2))
    whole = game.train(game.chunk, 4, 4)
    assert not np.array_equal(*whole[1]["value"][:2])
    chex.assert_trees_all_equal(game.train(game.chunk, 4, 1, 2, 3, 4), whole)
    chex.assert_trees_all_equal(game.train(game.chunk, 4, 3, 4), whole)
    one = jax.jit(make_chunk(on_bytes(game.step), 1), compiler_options=AS_USERS)
    chex.assert_trees_all_equal(game.train(one, 1, 1, 2, 3, 4), whole)


def test_short_chunks_at_both_ends_of_a_run_compile_nothing_new(mlp):
    lengths = []
    state = run(
        jax.jit(chex.assert_max_traces(make_chunk(on_bytes(mlp.step), 4), n=1)),
        mlp.state,
        lambda step: Batch(mlp.images),
        start=1,
        num_steps=9,
        chunk_length=4,
        hooks=[
            Hook(None, lambda step, state, metrics: lambda: lengths.append(len(metrics["value"])))
        ],
    )
    assert lengths == [3, 4, 1]
    assert state.generator.step == 8


def test_the_step_is_traced_once_for_a_chunk(mlp):
    """Compiling twice would add a tenth to the time before the first step."""
    step = chex.assert_max_traces(lambda state, batch: mlp.step(state, batch), n=1)
    jax.jit(make_chunk(on_bytes(step), STEPS)).trace(
        mlp.state, Work(Batch(mlp.images), np.int32(STEPS))
    )


LENGTH = 2
"""Steps in a chunk of `Recorder`."""


class Recorder:
    """A chunk and hooks that only record the calls. The state counts steps."""

    def __init__(self):
        self.events = []

    def chunk(self, state, work):
        self.events.append(f"chunk {state}+{work.num}")
        metrics = {"value": state + 1 + np.arange(LENGTH)}
        return state + int(work.num), metrics

    def hook(self, name, every, then=lambda step: None, **options):
        def start(step, state, metrics):
            assert state == step == metrics["value"][-1]
            self.events.append(f"{name} {step}")
            then(step)
            return lambda: self.events.append(f"{name} {step} done")

        return Hook(every, start, **options)

    def run(self, *hooks, num_steps=7, start=0):
        return run(
            self.chunk,
            start,
            lambda step: step,
            start=start,
            num_steps=num_steps,
            chunk_length=LENGTH,
            hooks=hooks,
        )


def test_hooks_start_on_their_steps_and_finish_when_the_next_chunk_is_under_way():
    recorder = Recorder()
    assert recorder.run(recorder.hook("a", 2), recorder.hook("b", 4)) == 7
    assert recorder.events == [
        *("chunk 0+2", "a 2"),
        *("chunk 2+2", "a 2 done", "a 4", "b 4"),
        *("chunk 4+2", "a 4 done", "b 4 done", "a 6"),
        *("chunk 6+1", "a 6 done", "a 7", "b 7"),
        *("a 7 done", "b 7 done"),
    ]


def test_chunks_end_at_multiples_of_their_length_wherever_they_begin():
    recorder = Recorder()
    recorder.run(start=3)
    assert recorder.events == ["chunk 3+1", "chunk 4+2", "chunk 6+1"]


def test_chunks_also_end_where_a_hook_is_due():
    """The hooks are due every three steps, and after the steps 1 and 6. Others cut no chunk."""
    recorder = Recorder()
    recorder.run(recorder.hook("a", 3), recorder.hook("b", (1, 6)), recorder.hook("c", None))
    chunks = [event for event in recorder.events if event.startswith("chunk")]
    assert chunks == [f"chunk {a}+{b}" for a, b in ((0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (6, 1))]
    started = [event for event in recorder.events if event[:2] in ("a ", "b ")]
    assert [event for event in started if "done" not in event] == [
        *("b 1", "a 3", "a 6", "b 6", "a 7", "b 7")
    ]
    assert sum(event.startswith("c") and "done" in event for event in recorder.events) == 6


def test_nothing_is_left_to_do_at_the_end():
    recorder = Recorder()
    assert recorder.run(recorder.hook("a", 1), start=7) == 7
    assert recorder.events == []


def signals():
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


def send(signum, at):
    return lambda step: os.kill(os.getpid(), signum) if step == at else None


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_a_chunk_that_is_saved(signum):
    recorder, before = Recorder(), signals()
    with pytest.raises(Interrupted, match=f"{signum.name} at step 4") as stop:
        recorder.run(
            recorder.hook("a", 2, send(signum, 2)),
            recorder.hook("save", 100, when_stopped=True),
            recorder.hook("picture", 100),
        )
    assert (stop.value.signum, stop.value.step) == (signum, 4)
    assert recorder.events == [
        *("chunk 0+2", "a 2", "chunk 2+2", "a 2 done", "a 4", "save 4"),
        *("a 4 done", "save 4 done"),
    ]
    assert signals() == before


def test_a_signal_during_a_chunk_ends_the_run_after_it():
    recorder = Recorder()
    chunk = recorder.chunk

    def interrupted(state, work):
        os.kill(os.getpid(), signal.SIGTERM)
        return chunk(state, work)

    recorder.chunk = interrupted
    with pytest.raises(Interrupted, match="step 2"):
        recorder.run(recorder.hook("save", 100, when_stopped=True))
    assert recorder.events == ["chunk 0+2", "save 2", "save 2 done"]


def test_a_signal_in_the_last_chunk_changes_nothing():
    recorder, before = Recorder(), signals()
    assert recorder.run(recorder.hook("a", 2, send(signal.SIGTERM, 7))) == 7
    assert recorder.events[-1] == "a 7 done"
    assert signals() == before


@pytest.fixture
def pythons_own_handler():
    """Installs Python's handler of SIGINT for a test, and restores the handler from before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_acts_at_once(pythons_own_handler):
    recorder, before = Recorder(), signals()

    def twice(step):
        # The signals go to this thread, because two for the process may arrive as one.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        recorder.run(recorder.hook("a", 2, twice))
    assert recorder.events == ["chunk 0+2", "a 2"]
    assert signals() == before


def test_output_that_nobody_reads_ends_the_run_after_a_chunk_that_is_saved():
    recorder, before = Recorder(), signals()

    def fail():
        raise BrokenPipeError(32, "Broken pipe")

    show = Hook(2, lambda step, state, metrics: fail)
    with pytest.raises(Interrupted, match="SIGPIPE at step 4") as stop:
        recorder.run(show, recorder.hook("save", 100, when_stopped=True))
    assert stop.value.signum == signal.SIGPIPE
    assert recorder.events == ["chunk 0+2", "chunk 2+2", "save 4", "save 4 done"]
    assert signals() == before


def test_an_error_leaves_the_signals_as_they_were():
    recorder, before = Recorder(), signals()

    def fail(step):
        raise RuntimeError("a hook failed")

    with pytest.raises(RuntimeError, match="a hook failed"):
        recorder.run(recorder.hook("a", 2, fail))
    assert signals() == before


def test_outside_the_main_thread_the_loop_runs_without_signals():
    recorder, results = Recorder(), []
    thread = threading.Thread(target=lambda: results.append(recorder.run()))
    thread.start()
    thread.join()
    assert results == [7]

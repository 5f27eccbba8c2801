"""The worker of this library: a fused loop of train steps in several layouts."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from benchmarks import cases
from benchmarks.library import initial_state, library_gan, train_step
from benchmarks.problem import Problem
from benchmarks.workers.linen import Player, fill
from benchmarks.workers.protocol import Loop, Losses, Setting, serve
from gan_jax import GAN, Batch, Network, _cpu, from_linen, mixed_precision, parallel, priors
from gan_jax.data import synthetic
from gan_jax.data.pipeline import make_batches, on_bytes
from gan_jax.data.types import Dataset
from gan_jax.nn import Dense
from gan_jax.run.loop import Work, make_chunk
from gan_jax.types import Array, Metrics, PyTree, StepFn, TrainState

Advance = Callable[[TrainState, int, int], tuple[TrainState, Metrics]]
"""`(state, index of the chunk, steps in it) -> (state, metrics)`, with metrics [..., length]."""

Options = Mapping[str, str] | None
"""Options of the compiler."""


def build(setting: Setting) -> Loop:
    """Returns the loop of a contender whose name begins with `gan_jax`."""
    case, problem = setting.case, setting.problem
    ensemble = _ensemble(setting)
    long = problem.batch_size <= 64 or jax.default_backend() != "cpu"
    length = 1 if setting.fixed else 100 if case.on_ring else 50 if long else 20
    if not case.is_chain:
        length = min(length, 2)  # a step takes a second on a CPU
    if setting.contender == "gan_jax_1_core":
        parallel.use_one_core()
    elif ensemble > 1 or setting.contender == "gan_jax_shard":
        parallel.use_every_core()
    gan = _gan(case)
    if setting.precision == "bfloat16":
        gan = mixed_precision(gan)

    @jax.jit
    def init(key: Array) -> TrainState:
        return _with_weights(initial_state(case, gan, key), case, problem)

    key = jax.random.key(0)
    state = jax.vmap(init)(jax.random.split(key, ensemble)) if ensemble > 1 else init(key)
    step = train_step(case, _fixed(gan, problem) if setting.fixed else gan)
    advances = [
        _on_ring(step, setting, options, length)
        if case.on_ring
        else _on_images(step, setting, options, ensemble, length)
        for options in _options(setting)
    ]
    forms = partial(_cpu.only, *_forms(setting.contender))
    with forms():
        advance = advances[0] if len(advances) == 1 else _fastest(advances, state, length)
    chunks = 0

    def loop(steps: int) -> tuple[int, Losses]:
        nonlocal state, chunks
        made, wanted = 0, -(-steps // ensemble)
        with forms():
            while made < wanted:
                num = length if case.on_ring else min(length, wanted - made)
                state, metrics = advance(state, chunks, num)
                made, chunks = made + num, chunks + 1
        jax.block_until_ready(state)
        names = ("discriminator_loss", "generator_loss", *(("r1",) if case.r1 else ()))
        return made * ensemble, {n: float(jnp.mean(metrics[n][..., num - 1])) for n in names}

    return loop


def _forms(contender: str) -> tuple[str, ...]:
    """Returns the special forms for CPUs that a contender uses."""
    if contender in ("gan_jax_plain", "none"):
        return ()
    return tuple(form for form in _cpu.FORMS if contender != f"all but {form}")


def _ensemble(setting: Setting) -> int:
    """Returns the number of GANs in one program: 16 for `gan_jax_16`, and 1 without a number."""
    last = setting.contender.rsplit("_", 1)[-1]
    return int(last) if last.isdigit() else 1


def _gan(case: cases.Case) -> GAN:
    """Returns the library's model. It has none for a perceptron with different widths."""
    if case.model == "mlp":
        return GAN(
            from_linen(Player(case.generator, Dense)),
            from_linen(Player(case.discriminator, Dense)),
            priors.normal(case.latent),
        )
    gan = library_gan(case)
    if case.model == "maxout" and not case.dropout:
        return gan._replace(discriminator=_evaluated(gan.discriminator))
    return gan


def _evaluated(network: Network) -> Network:
    """Returns the network in evaluation mode. Only dropout depends on the mode here."""

    def apply(*arguments: Any, train: bool, **options: Any) -> tuple[Array, PyTree]:
        del train
        return network.apply(*arguments, train=False, **options)

    return network._replace(apply=apply)


def _fixed(gan: GAN, problem: Problem) -> GAN:
    """Returns the GAN with a G that always receives the problem's z.

    The library draws z example by example, so the prior alone cannot return a fixed batch.
    """

    def apply(
        params: PyTree, model_state: PyTree, z: Array, *label: Array | None, **options: Any
    ) -> tuple[Array, PyTree]:
        del z
        fixed = jnp.asarray(problem.z)
        return gan.generator.apply(params, model_state, fixed, *label, **options)

    return gan._replace(generator=gan.generator._replace(apply=apply))


def _with_weights(state: TrainState, case: cases.Case, problem: Problem) -> TrainState:
    """Returns the state with the problem's weights, and its directions of spectral norm if any."""
    players: dict[str, Any] = {}
    for name, weights in problem.weights.items():
        player = getattr(state, name)
        if case.is_chain:
            params = fill(player.params, getattr(case, name), weights, flip=False)
        else:
            by_path, *directions = weights
            params = jax.tree.map(jnp.asarray, unflatten_dict(by_path, sep="/"))
            for found in directions:
                known = {**player.model_state, "directions": jax.tree.map(jnp.asarray, found)}
                player = player.replace(model_state=known)
        players[name] = player.replace(params=params)
    ema_params = jax.tree.map(jnp.copy, players["generator"].params)
    return state.replace(**players, ema_params=ema_params)  # type: ignore[attr-defined]


def _options(setting: Setting) -> tuple[Options, ...]:
    """Returns the compiler options to compare.

    On a CPU they select XLA's library for matrix products. `torch_tuned` likewise compares numbers
    of threads.
    """
    usual = setting.contender == "gan_jax" and not setting.fixed and setting.case.is_chain
    return (None, parallel.EIGEN) if usual and jax.default_backend() == "cpu" else (None,)


def _fastest(advances: list[Advance], state: TrainState, length: int) -> Advance:
    """Returns the function with the faster steps."""
    seconds = []
    for advance in advances:
        trial, times = advance(jax.tree.map(jnp.copy, state), 0, length)[0], list[float]()
        while sum(times) < 0.5 or len(times) < 3:
            start = time.perf_counter()
            trial = jax.block_until_ready(advance(trial, 0, length)[0])
            times.append(time.perf_counter() - start)
        seconds.append(statistics.median(times))
    return advances[seconds.index(min(seconds))]


def _compiled(setting: Setting, chunk: parallel.Step, options: Options) -> parallel.Step:
    if _ensemble(setting) > 1:
        return parallel.ensemble_step(chunk)
    if setting.contender == "gan_jax_shard":
        return parallel.shard_step(chunk, batch_axis=2)
    return parallel.jit_step(chunk, compiler_options=options)


def _on_images(
    step: StepFn, setting: Setting, options: Options, ensemble: int, length: int
) -> Advance:
    """Returns chunks of steps on images. Each GAN of an ensemble has its own batches."""
    problem, n_critic = setting.problem, setting.case.n_critic
    chunk = make_chunk(on_bytes(step), length)
    shape: tuple[int, ...] = (length, n_critic, problem.batch_size)
    if ensemble > 1:
        shape = (ensemble, *shape)
    compiled = _compiled(setting, chunk, options)
    if setting.fixed:
        real = jnp.broadcast_to(problem.real, (*shape, *setting.case.shape))
        return lambda state, _, num: compiled(state, Work(Batch(real), np.int32(num)))
    dataset = Dataset(problem.images, None, "images", "embedded", problem.images[:0])
    batches = make_batches(dataset, jax.random.key(1), shape)
    size = int(np.prod(shape))
    return lambda state, index, num: compiled(state, Work(batches(index * size), np.int32(num)))


def _on_ring(step: StepFn, setting: Setting, options: Options, length: int) -> Advance:
    """Returns chunks of steps that draw their own real samples."""
    problem = setting.problem
    ring = synthetic.ring(cases.NUM_MODES, cases.RADIUS, cases.SCALE)
    if setting.fixed:
        real = jnp.tile(problem.real, (setting.case.n_critic, 1))
        ring = ring._replace(sample=lambda key, num: real)
    fed = synthetic.feed(step, ring, (setting.case.n_critic, problem.batch_size))

    def chunk(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(fed, state, length=length)

    compiled = _compiled(setting, chunk, options)
    return lambda state, _index, _num: compiled(state, None)


if __name__ == "__main__":
    serve(build, {"jax": jax.__version__, "gan_jax": metadata.version("gan-jax")})

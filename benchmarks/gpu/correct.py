"""Compares the accelerator with the CPU for every function of the library.

Each row runs one pure function on both devices in this process: three gradient-descent steps, or a
draw, a metric or an optimizer update. Gradient descent is used because its steps depend on the
gradient's scale. Results are compared leaf by leaf. The difference is divided by the largest number
of the leaf, or by 0.01 if that is larger. The networks are tiny, because most of the time goes into
compilation. Programs compile in parallel.
"""

import functools
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import gan_jax
from benchmarks.accelerators import lowered_text
from benchmarks.cases import CASES, Dense
from benchmarks.driver import ROOT
from benchmarks.flops import passes
from benchmarks.gpu.jax_worker import real, training
from benchmarks.gpu.sheet import Row, Sheet
from benchmarks.library import library_gan
from gan_jax import (
    GAN,
    Batch,
    TrainState,
    algorithms,
    augment,
    losses,
    mixed_precision,
    optimizers,
    packed,
    parallel,
    priors,
    rematerialised,
)
from gan_jax.augment import instance_noise, mixed_scales
from gan_jax.data import synthetic
from gan_jax.data.pipeline import on_bytes
from gan_jax.metrics import digits, fashion, inception, modes, two_sample
from gan_jax.metrics.classifier import Classifier
from gan_jax.metrics.kernel import squared_mmd
from gan_jax.metrics.sliced import sliced_wasserstein
from gan_jax.models import MODELS
from gan_jax.models.small_dcgan import small_dcgan
from gan_jax.networks import spectrally_normalised
from gan_jax.penalties import PENALTIES, r1
from gan_jax.run.checkpoint import Checkpoints
from gan_jax.run.loop import Work, make_chunk
from gan_jax.terms import CONDITIONAL_TERMS, ConditionalTerms
from gan_jax.types import PyTree, StepFn, WeightedPenalty

FLOAT32 = 1e-4
"""Largest allowed difference in float32."""

TF32, BFLOAT16 = 0.25, 0.4
"""Largest allowed relative error of a player's update compared with the update in float32. The
first bound is for products in TF32 (10 bits). The second is for networks in bfloat16 (8 bits). A
DCGAN on an H100 reaches 0.15 and 0.26, because batch norm at batch size 8 amplifies rounding
errors."""

SAME_DEVICE = 1e-5
"""Largest allowed difference between two programs of one step on one device, which sum in different
orders."""

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""XLA's flag for sums with the same order in every run."""

IN_A_HURRY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Compiler options for the CPU's programs. Full optimisation takes minutes, and each runs once."""

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint", "numpy", "torch")
"""The libraries whose versions are reported."""

_FLOOR = 1e-2
_CALLS = 3
_BATCH = 8
_SGD = optax.sgd(0.1)
_Check = tuple[str, str, Callable[[], Row]]
"""A table, a name, and a function that returns the row or raises an error."""


def run(sheet: Sheet, small: bool) -> None:
    """Adds all rows, table by table."""
    device = jax.devices()[0]
    sheet.facts(
        device=device.device_kind,
        versions=", ".join(f"{name} {_version(name)}" for name in LIBRARIES),
        bounds=f"float32 {FLOAT32:g}, TF32 {TF32:g}, bfloat16 {BFLOAT16:g}",
    )
    sheet.attempt("device", "a product of matrices", _product)
    # This check counts compilations, so it runs before any threads start.
    sheet.attempt("program", "a loop of 20 chunks", _loop)
    with ThreadPoolExecutor(1) as beside, ThreadPoolExecutor(2 if small else 8) as pool:
        resumed = beside.submit(sheet.attempt, "resume", "from a checkpoint", _resume_apart)
        checks = _few(_checks()) if small else _checks()
        waiting = [pool.submit(sheet.attempt, *check) for check in checks]
        for one in (*waiting, resumed):
            one.result()


def _checks() -> Iterator[_Check]:
    yield "program", "what the compiler is given", _lowered
    yield from _of_models()
    yield from _of_steps()
    yield from _of_losses()
    yield from _of_penalties()
    yield from _of_functions()
    yield from _of_wrappers()
    yield from _of_precisions()
    yield from _of_layouts()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _few(checks: Iterator[_Check]) -> Iterator[_Check]:
    """Yields the first check of each table."""
    known = set[str]()
    for table, name, make in checks:
        if table not in known:
            known.add(table)
            yield table, name, make


def difference(ours: PyTree, reference: PyTree) -> tuple[float, str]:
    """Returns the largest relative difference between leaves, and the path of that leaf.

    The difference is infinite for NaN, and for integers, booleans and keys that are not equal.
    """
    worst, where = 0.0, ""
    pairs = zip(
        jax.tree.leaves_with_path(_host(ours)), jax.tree.leaves(_host(reference)), strict=True
    )
    for (path, one), other in pairs:
        if one.shape != other.shape or one.dtype != other.dtype:
            kinds = f"{one.dtype}{one.shape}, not {other.dtype}{other.shape}"
            raise ValueError(f"{jax.tree_util.keystr(path)}: {kinds}")
        if not np.issubdtype(one.dtype, np.floating):
            apart = 0.0 if np.array_equal(one, other) else np.inf
        elif not one.size:
            continue
        else:
            scale = max(float(np.abs(other).max()), _FLOOR)
            apart = float(np.abs(one.astype(np.float64) - other).max()) / scale
        apart = apart if apart == apart else np.inf
        if apart >= worst:
            worst, where = apart, jax.tree_util.keystr(path)
    return worst, where


def _host(tree: PyTree) -> PyTree:
    def numbers(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf)

    return jax.tree.map(numbers, tree)


def within(bound: float, ours: PyTree, reference: PyTree) -> Row:
    """Returns the row with the difference between two results.

    Raises:
      ValueError: the difference exceeds the bound.
    """
    worst, where = difference(ours, reference)
    if not worst <= bound:
        raise ValueError(f"differs by {worst:.2e} of {bound:g} at {where}")
    return {"difference": worst, "bound": bound, "at": where[:80]}


def _cpu() -> jax.Device:
    return jax.devices("cpu")[0]


def _pair(
    function: Callable[..., PyTree],
    *arguments: PyTree,
    reference: Callable[..., PyTree] | None = None,
    precision: str = "highest",
) -> tuple[PyTree, PyTree]:
    """Returns a function's result on the accelerator and the reference result from the CPU."""
    with jax.default_matmul_precision(precision):
        ours = jax.jit(function)(*jax.device_put(arguments, jax.devices()[0]))
    with jax.default_matmul_precision("highest"):
        hurried = jax.jit(reference or function, compiler_options=IN_A_HURRY)
        theirs = hurried(*jax.device_put(arguments, _cpu()))
    return _host(ours), _host(theirs)


def _both(bound: float, function: Callable[..., PyTree], *arguments: PyTree) -> Row:
    """Returns the row that compares a function on both devices."""
    return within(bound, *_pair(function, *arguments))


class _Start(NamedTuple):
    """A GAN with its initial state and batch, on the CPU."""

    gan: GAN
    state: TrainState
    batch: Batch


def _begin(
    gan: GAN,
    shape: tuple[int, ...],
    *,
    penalties: tuple[WeightedPenalty, ...] = (),
    num_classes: int | None = None,
) -> _Start:
    """Returns a GAN with its initial state and a batch [1, B, ...] for a train step."""
    label = None if num_classes is None else np.arange(_BATCH, dtype=np.int32) % num_classes
    x = np.random.default_rng(0).uniform(-1, 1, (_BATCH, *shape)).astype(np.float32)

    def first(key: jax.Array) -> TrainState:
        batch = Batch(jnp.zeros(x.shape), label)
        return gan_jax.init(gan, _SGD, _SGD, key, batch, penalties=penalties)

    with jax.default_device(_cpu()):
        state = jax.jit(first, compiler_options=IN_A_HURRY)(jax.random.key(0))
        batch = jax.tree.map(lambda leaf: jax.device_put(leaf[None]), Batch(x, label))
        return _Start(gan, state, batch)


@functools.cache
def _plane() -> _Start:
    return _begin(MODELS["mlp"]((2,), latent=3, width=16, bounded=False), (2,))


@functools.cache
def _pictures() -> _Start:
    return _begin(MODELS["dcgan"]((28, 28, 1), latent=8, width=8), (28, 28, 1))


def _train(gan: GAN, **options: Any) -> StepFn:
    return gan_jax.adversarial(
        gan,
        options.pop("loss", losses.non_saturating),
        generator_tx=_SGD,
        discriminator_tx=_SGD,
        **options,
    ).step


def _repeated(step: StepFn) -> Callable[[TrainState, Batch], PyTree]:
    """Returns a function that returns the state and the metrics after a few steps on one batch."""

    def several(state: TrainState, batch: Batch) -> PyTree:
        def once(state: TrainState, _: None) -> tuple[TrainState, Any]:
            return step(state, batch)

        state, metrics = jax.lax.scan(once, state, length=_CALLS)
        return {"metrics": metrics, "state": state}

    return several


def _three(step: StepFn, start: _Start) -> Row:
    """Returns the row that compares a few steps on both devices."""
    return _both(FLOAT32, _repeated(step), start.state, start.batch)


def _product() -> Row:
    x = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    return _both(FLOAT32, jnp.matmul, x, x)


def _of_models() -> Iterator[_Check]:
    def row(model: Callable[..., GAN], shape: tuple[int, ...], **options: Any) -> Row:
        start = _begin(model(shape, latent=8, **options), shape)
        return _three(_train(start.gan), start)

    dcgan = functools.partial(row, MODELS["dcgan"], width=4)
    for side, channels in ((28, 1), (32, 3), (64, 3)):
        shape = (side, side, channels)
        yield "models", f"dcgan {side}", functools.partial(dcgan, shape)
    for name, model in MODELS.items():
        if name != "dcgan":
            yield "models", name, functools.partial(row, model, (8, 8, 1), width=8)
    digit = (28, 28, 1)
    without = functools.partial(dcgan, digit, discriminator_norm=False)
    yield "models", "dcgan, D without norm", without
    deviation = functools.partial(dcgan, digit, minibatch_std=True)
    yield "models", "dcgan, minibatch deviation", deviation
    for kind, terms in CONDITIONAL_TERMS.items():
        yield "models", f"dcgan, {kind}", functools.partial(_of_classes, kind, terms)
    yield "models", "small_dcgan", functools.partial(row, small_dcgan, digit)


def _of_classes(kind: str, terms: ConditionalTerms) -> Row:
    shape = (28, 28, 1)
    gan = MODELS["dcgan"](shape, latent=8, width=4, num_classes=3, conditional=kind)
    start = _begin(gan, shape, num_classes=3)
    step = _train(gan, discriminator_terms=terms.discriminator, generator_terms=terms.generator)
    return _three(step, start)


def _of_steps() -> Iterator[_Check]:
    start = _plane()
    gan, loss = start.gan, losses.non_saturating
    d_step = gan_jax.make_discriminator_step(gan, loss, _SGD)
    g_step = gan_jax.make_generator_step(gan, loss, _SGD)
    consensus = algorithms.make_consensus_steps(gan, loss, _SGD, _SGD, own=0.5, other=0.5)
    parts = gan_jax.make_discriminator_step(gan, loss, _SGD, accumulate=2)
    unrolled = algorithms.make_unrolled_generator_step(gan, loss, _SGD, d_step, unroll=2)
    one = start._replace(batch=Batch(start.batch.x[0]))
    two = start._replace(batch=Batch(jnp.concatenate([start.batch.x] * 2)))
    known = {
        "discriminator": (d_step, one),
        "generator": (g_step, one),
        "train, n_critic 2": (gan_jax.make_train_step(d_step, g_step, n_critic=2), two),
        "simultaneous": (algorithms.make_simultaneous_step(d_step, g_step), one),
        "consensus": (gan_jax.make_train_step(*consensus), start),
        "unrolled": (gan_jax.make_train_step(d_step, unrolled), start),
        "in two parts": (parts, one),
    }
    for name, (step, begun) in known.items():
        yield "steps", name, functools.partial(_three, step, begun)


def _of_losses() -> Iterator[_Check]:
    start = _plane()
    named = losses.LOSSES | {
        "smoothed": losses.smoothed(losses.non_saturating),
        "top_k": losses.top_k(losses.non_saturating, 0.5),
    }
    for name, loss in named.items():
        step = _train(start.gan, loss=loss)
        yield "losses", name, functools.partial(_three, step, start)


def _of_penalties() -> Iterator[_Check]:
    def row(weighted: tuple[WeightedPenalty, ...]) -> Row:
        start = _begin(MODELS["mlp"](shape, latent=3, width=16), shape, penalties=weighted)
        return _three(_train(start.gan, penalties=weighted), start)

    shape = (8, 8, 1)
    for name, penalty in PENALTIES.items():
        yield "penalties", name, functools.partial(row, ((penalty, 0.1),))


def _of_functions() -> Iterator[_Check]:
    key = jax.device_put(jax.random.key(1), _cpu())
    rng = np.random.default_rng(1)
    x = rng.normal(size=(64, 2)).astype(np.float32)
    images = rng.uniform(-1, 1, (_BATCH, 8, 8, 3)).astype(np.float32)

    known = {name: make().sample for name, make in synthetic.DISTRIBUTIONS.items()}
    known |= {"normal": priors.normal(3), "uniform": priors.uniform(3)}
    known["gaussian"] = synthetic.gaussian().sample

    def draws(key: jax.Array) -> PyTree:
        return {name: sample(key, 64) for name, sample in known.items()}

    def changes(key: jax.Array, images: jax.Array) -> PyTree:
        keys = jax.random.split(key, len(images))
        kinds = (
            *(augment.shift, augment.flip, augment.shift_and_flip, augment.diff_augment),
            functools.partial(augment.ada.pipe, p=0.5),
        )
        return [jax.vmap(change)(keys, images) for change in kinds]

    def energy(key: jax.Array, x: jax.Array) -> PyTree:
        return two_sample.energy_test(x, x[::-1] * 1.5, key, permutations=50)

    def coverage(x: jax.Array) -> PyTree:
        ring = synthetic.ring()
        label = jnp.arange(64) % 10
        return modes.mode_coverage(x, jnp.asarray(ring.modes), 0.2), modes.class_coverage(label, 12)

    def distances() -> PyTree:
        shifted = x[::-1] * 1.5 + 1
        made = squared_mmd(x, shifted), sliced_wasserstein(x, shifted, 0)
        return tuple(map(np.float32, made))

    yield "draws", "priors and distributions", lambda: _both(FLOAT32, draws, key)
    yield (
        "augmentations",
        "shift, flip, DiffAugment, ADA",
        lambda: _both(FLOAT32, changes, key, images),
    )
    yield "metrics", "energy test", lambda: _both(FLOAT32, energy, key, x)
    yield "metrics", "modes and classes", lambda: _both(FLOAT32, coverage, x)
    yield "metrics", "digits", functools.partial(_features, digits.CLASSIFIER)
    yield "metrics", "clothes", functools.partial(_features, fashion.CLASSIFIER)
    yield "metrics", "Inception network", _inception
    yield "metrics", "kernel and sliced distances", lambda: _on_each(distances)
    yield from _of_optimizers()


def _on_each(function: Callable[[], PyTree]) -> Row:
    """Returns the row that compares a function with a host part, run on each device in turn."""
    found = []
    for device in (jax.devices()[0], _cpu()):
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            found.append(function())
    return within(FLOAT32, *found)


def _features(classifier: Classifier) -> Row:
    x = np.random.default_rng(2).integers(0, 256, (64, 28, 28, 1), np.uint8)
    return _on_each(lambda: (classifier.features(x), classifier.class_probabilities(x)))


def _inception() -> Row:
    """Compares FID's network with random weights and a sixteenth of the channels."""
    oracle = import_module("tests.inception_oracle")
    weights, _ = inception.parse_weights(oracle.state(oracle.THIN))
    x = np.random.default_rng(3).uniform(-1, 1, (2, inception.SIZE, inception.SIZE, 3))

    def pooled(weights: inception.Weights, x: jax.Array) -> jax.Array:
        return jnp.mean(inception.layers(weights, x)["Mixed_7c"], axis=(1, 2))

    return _both(FLOAT32, pooled, weights, x.astype(np.float32))


def _of_optimizers() -> Iterator[_Check]:
    adam = optimizers.adam(1e-2, b1=0.5)
    known = {
        "adam": adam,
        "extragradient of adam": optimizers.extragradient(adam),
        "lookahead of adam": optimizers.lookahead(adam, every=3),
    }
    rng = np.random.default_rng(3)
    params = {"kernel": rng.normal(size=(16, 8)), "bias": rng.normal(size=8)}
    params = jax.tree.map(np.float32, params)
    gradients = jax.tree.map(lambda p: np.stack([p * (i + 1) for i in range(6)]), params)

    def row(tx: optax.GradientTransformation) -> Row:
        def updates(params: PyTree, gradients: PyTree) -> PyTree:
            def once(carry: PyTree, gradient: PyTree) -> tuple[PyTree, None]:
                params, state = carry
                update, state = tx.update(gradient, state, params)
                return (optax.apply_updates(params, update), state), None

            return jax.lax.scan(once, (params, tx.init(params)), gradients)[0]

        return _both(FLOAT32, updates, params, gradients)

    for name, tx in known.items():
        yield "optimizers", name, functools.partial(row, tx)


def _of_wrappers() -> Iterator[_Check]:
    mlp = functools.partial(MODELS["mlp"], latent=3, width=16)

    class Small(nn.Module):
        """A discriminator of plain Linen layers, for spectral norm."""

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(1)(nn.tanh(nn.Dense(8)(x.reshape(len(x), -1))))[:, 0]

    flat = mlp((8, 8, 1))._replace(discriminator=gan_jax.from_linen(Small()))
    known: dict[str, tuple[GAN, tuple[int, ...]]] = {
        "rematerialised": (rematerialised(mlp((2,), bounded=False)), (2,)),
        "packed": (packed(mlp((2,), bounded=False), 2), (2, 2)),
        "spectral norm": (spectrally_normalised(flat), (8, 8, 1)),
        "spectral norm of convolutions": (
            spectrally_normalised(
                MODELS["dcgan"]((28, 28, 1), latent=8, width=4, discriminator_norm=False)
            ),
            (28, 28, 1),
        ),
    }

    def row(gan: GAN, shape: tuple[int, ...]) -> Row:
        start = _begin(gan, shape)
        return _three(_train(gan), start)

    for name, arguments in known.items():
        yield "wrappers", name, functools.partial(row, *arguments)

    def noisy() -> Row:
        start = _begin(mlp((2,)), (2,))
        return _three(_train(start.gan, augmentation=instance_noise(mixed_scales(1.0))), start)

    yield "augmentations", "instance noise", noisy


def _of_precisions() -> Iterator[_Check]:
    def changes(gan: GAN) -> Callable[..., PyTree]:
        several = _repeated(_train(gan))

        def changed(state: TrainState, batch: Batch) -> dict[str, jax.Array]:
            after = several(state, batch)["state"]
            return {
                role: ravel_pytree(getattr(after, role).params)[0]
                - ravel_pytree(getattr(state, role).params)[0]
                for role in ("generator", "discriminator")
            }

        return changed

    def row(make: Callable[[], _Start], lower: bool) -> Row:
        gan, state, batch = make()
        ours, theirs = _pair(
            changes(mixed_precision(gan) if lower else gan),
            state,
            batch,
            reference=changes(gan),
            precision="default",
        )
        bound = BFLOAT16 if lower else TF32
        apart = {
            role: float(np.linalg.norm(ours[role] - theirs[role]) / np.linalg.norm(theirs[role]))
            for role in theirs
        }
        worst = max(apart, key=lambda role: apart[role])
        if not apart[worst] <= bound:
            raise ValueError(f"{worst}'s change differs by {apart[worst]:.2e}, not {bound:g}")
        return {"difference": apart[worst], "bound": bound, "at": f"{worst}'s change"}

    for name, make in (("dcgan 28", _pictures), ("mlp", _plane)):
        yield "precisions", f"TF32, {name}", functools.partial(row, make, False)
        yield "precisions", f"bfloat16, {name}", functools.partial(row, make, True)


def _of_layouts() -> Iterator[_Check]:
    def step(axis_name: str | None = None) -> StepFn:
        return _train(MODELS["dcgan"]((28, 28, 1), latent=8, width=8), axis_name=axis_name)

    def one(state: TrainState) -> tuple[TrainState, Batch]:
        return jax.device_put((state, _pictures().batch), jax.devices()[0])

    @functools.cache
    def alone() -> PyTree:
        with jax.default_matmul_precision("highest"):
            return _host(parallel.jit_step(step(), donate=False)(*one(_pictures().state)))

    def of(make: Callable[[], parallel.Step]) -> Row:
        with jax.default_matmul_precision("highest"):
            return within(SAME_DEVICE, make()(*one(_pictures().state)), alone())

    def ensemble() -> Row:
        together = parallel.ensemble_step(step(), batch_axis=None, devices=devices, donate=False)
        state, batch = one(_pictures().state)
        with jax.default_matmul_precision("highest"):
            members = together(jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), state), batch)
        return within(FLOAT32, jax.tree.map(lambda leaf: leaf[1], members), alone())

    def shard() -> parallel.Step:
        return parallel.shard_step(step(), batch_axis=1, devices=devices, donate=False)

    def pmap() -> parallel.Step:
        mapped = step(parallel.AXIS_NAME)
        return parallel.pmap_step(mapped, batch_axis=1, devices=devices, donate=False)

    devices = jax.devices()[:1]
    yield "layouts", "shard_step as jit_step", functools.partial(of, shard)
    yield "layouts", "pmap_step as jit_step", functools.partial(of, pmap)
    yield "layouts", "ensemble_step as jit_step", ensemble


def _lowered() -> Row:
    """Counts the convolutions and products in a DCGAN's step, as lowered and as compiled.

    Raises:
      ValueError: the counts differ from those of the architecture.
    """
    case = CASES["dcgan28"]
    expected = [0, 0]
    for placed, times in passes(case):
        expected[isinstance(placed.layer, Dense)] += times
    lowered = lowered_text(case, library_gan(case), "cuda", 64)
    found = [lowered.count(f"stablehlo.{name}") for name in ("convolution", "dot_general")]
    if found != expected:
        raise ValueError(f"convolutions and products {found}, expected {expected}")
    row: Row = {"convolutions": found[0], "products": found[1]}
    if jax.default_backend() == "cpu":
        return row
    state, step = training(case, "float32")
    text = jax.jit(step).lower(state, real(case, 64)).compile().as_text() or ""
    return row | {"compiled": compiled_operations(text)}


def compiled_operations(text: str) -> str:
    """Returns the counts of library calls, convolutions and products in a compiled program."""
    counts = Counter(re.findall(r'custom_call_target="([^"]+)"', text))
    counts |= Counter(re.findall(r" (convolution|dot)\(", text))
    counts |= Counter(re.findall(r'"kind":"(__[^"]+)"', text))
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


def _loop() -> Row:
    """Checks that 20 chunks of steps compile one program and transfer nothing from or to the host.

    Raises:
      ValueError: another program was compiled. A transfer raises JAX's own error.
    """
    names: list[str] = []

    def listen(event: str, duration_secs: float, **about: Any) -> None:
        del duration_secs
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(str(about.get("fun_name")))

    start = _pictures()
    x: Any = np.zeros((2, 1, _BATCH, 28, 28, 1), np.uint8)
    given = start.state, Work(Batch(x), np.int32(2))
    state, work = jax.device_put(given, jax.devices()[0], may_alias=False)  # the state is donated
    chunk = parallel.jit_step(make_chunk(on_bytes(_train(start.gan)), 2))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        state, metrics = chunk(state, work)
        with jax.transfer_guard("disallow"):
            for _ in range(20):
                state, metrics = chunk(state, work)
        jax.block_until_ready((state, metrics))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    if len(names) != 1:
        raise ValueError(f"compiled {len(names)} programs, expected one: {names}")
    return {"programs": len(names), "transfers": 0, "steps": int(state.generator.step)}


def _resume_apart() -> Row:
    """Runs `check_resume` in its own process, because XLA reads its flags once."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.correct"],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise RuntimeError("\n".join(done.stderr.strip().splitlines()[-5:]))
    return {"bit for bit": done.stdout.strip().splitlines()[-1]}


def check_resume() -> str:
    """Checks that a run with R1, resumed from a checkpoint, equals an uninterrupted run.

    Raises:
      ValueError: a bit differs.
    """
    start = _begin(
        MODELS["dcgan"]((28, 28, 1), latent=8, width=8, discriminator_norm=False), (28, 28, 1)
    )
    step = on_bytes(_train(start.gan, penalties=[(r1, 0.25)]))
    chunk = parallel.jit_step(make_chunk(step, 4), donate=False)
    x: Any = np.random.default_rng(4).integers(0, 256, (4, 1, _BATCH, 28, 28, 1), np.uint8)
    device = jax.devices()[0]

    def go(state: TrainState) -> TrainState:
        placed = jax.device_put((state, Work(Batch(x), np.int32(4))), device)
        return chunk(*placed)[0]

    halfway = go(start.state)
    whole = go(halfway)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder) / "checkpoints")
        checkpoints.save(4, halfway)
        restored = checkpoints.restore(jax.eval_shape(lambda: halfway))
        checkpoints.close()
    if restored is None:
        raise ValueError("nothing was restored")
    resumed = go(restored[1])
    pairs = zip(jax.tree.leaves(_host(whole)), jax.tree.leaves(_host(resumed)), strict=True)
    if not all(one.tobytes() == other.tobytes() for one, other in pairs):
        raise ValueError(f"the resumed run differs: {difference(resumed, whole)}")
    return f"{len(jax.tree.leaves(whole))} arrays after 4 + 4 steps, {DETERMINISTIC}"


if __name__ == "__main__":
    print(check_resume())

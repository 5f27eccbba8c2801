"""float16, bfloat16 and float64: layers against Flax, losses and accumulators against float64."""

from functools import partial
from itertools import product

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from gan_jax import AdversarialLoss, Batch, Network, losses
from gan_jax.models import MODELS
from gan_jax.models.mlp import mlp
from gan_jax.models.small_dcgan import small_dcgan
from gan_jax.networks.spectral import spectral_norm, spectrally_normalised
from gan_jax.nn import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Doubled,
    Halved,
    MinibatchStd,
    Repainted,
)
from gan_jax.penalties import PENALTIES, lazy, lecam

pytestmark = pytest.mark.usefixtures("quick_compile")

NARROW = ["float16", "bfloat16"]
TYPES = [*NARROW, "float32", "float64"]


def moved(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


# Layers


class _Normalised(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)


WINDOW = {"strides": (2, 2), "padding": ((1, 1), (1, 1))}
LAYERS = {
    "Conv": (Conv(3, use_bias=True), nn.Conv(3, (4, 4), **WINDOW)),
    "ConvTranspose": (ConvTranspose(3), nn.ConvTranspose(3, (4, 4), (2, 2), use_bias=False)),
    "Halved": (Halved(3, use_bias=True), nn.Conv(3, (3, 3), 2)),
    "Doubled": (Doubled(3, 8), nn.ConvTranspose(3, (3, 3), (2, 2), use_bias=False)),
    "Repainted": (Repainted(3), nn.ConvTranspose(3, (3, 3))),
    **{f"Dense of {n}": (Dense(n), nn.Dense(n)) for n in (1, 2, 3, 4)},
    "BatchNorm in training": (BatchNorm(), _Normalised()),
    "BatchNorm in evaluation": (BatchNorm(), _Normalised()),
}
"""Each layer of the library with the Linen layer that it replaces."""


@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_linens_types(name):
    """The types of initial parameters, results and gradients agree, for every pair of types."""
    options = {"train": "training" in name} if "BatchNorm" in name else {}
    with jax.enable_x64(True):
        for dtype, param_dtype in product(TYPES, TYPES):
            x = jax.ShapeDtypeStruct((2, 4, 4, 2), dtype)
            found = [types_of(layer, x, param_dtype, options) for layer in LAYERS[name]]
            assert found[0] == found[1], (dtype, param_dtype)
            assert found[0][0] == {"float32"}


def types_of(layer, x, param_dtype, options):
    """Returns the types of initial parameters, and of results with parameters of another type."""
    variables = jax.eval_shape(lambda: layer.init(jax.random.key(1), jnp.zeros_like(x), **options))
    params, rest = variables["params"], {k: v for k, v in variables.items() if k != "params"}

    def total(params, x, rest):
        y, _ = layer.apply({"params": params, **rest}, x, mutable=["batch_stats"], **options)
        return jnp.sum(y.astype(jnp.float32)), y

    given = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, param_dtype), params)
    slopes, y = jax.eval_shape(jax.grad(total, (0, 1), has_aux=True), given, x, rest)
    return [{str(leaf.dtype) for leaf in jax.tree.leaves(t)} for t in (params, y, *slopes)]


@pytest.mark.parametrize(
    ("dtype", "param_dtype"), [("bfloat16", "float32"), ("float32", "float16")]
)
def test_the_convolution_of_two_types_is_linens(dtype, param_dtype):
    ours, linens = LAYERS["Conv"]
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (2, 4, 4, 2), dtype)
        variables = moved(ours.init(jax.random.key(1), x), param_dtype)
        made = ours.apply(variables, x)
        params = variables["params"]
        expected = linens.apply({"params": {**params, "bias": params["bias"].ravel()}}, x)
    np.testing.assert_allclose(*np.float64((made, expected)), rtol=0.01, atol=1e-3)


@pytest.mark.parametrize(
    ("model", "x64"),
    [
        ("dcgan", True),
        ("small_dcgan", False),
        ("mlp", True),
        ("mlp", False),
        pytest.param("dcgan", False, marks=pytest.mark.slow),
        pytest.param("small_dcgan", True, marks=pytest.mark.slow),
    ],
)
def test_models_train_on_images_of_every_type(model, x64):
    """The state keeps its types, as a loop needs. Metrics are float32 or wider."""
    make = {**MODELS, "small_dcgan": small_dcgan}[model]
    gan, tx = make((28, 28, 1), latent=3, width=2), optax.sgd(1e-3)
    with jax.enable_x64(x64):
        for dtype in TYPES if x64 else TYPES[:-1]:
            batch = Batch(jax.ShapeDtypeStruct((2, 28, 28, 1), dtype))
            state = jax.eval_shape(
                lambda batch: gan_jax.init(gan, tx, tx, jax.random.key(1), batch), batch
            )
            for make_step in (gan_jax.make_discriminator_step, gan_jax.make_generator_step):
                step = make_step(gan, losses.non_saturating, tx)
                after, metrics = jax.eval_shape(step, state, batch)
                assert after == state
                assert {leaf.dtype.name for leaf in metrics.values()} <= {"float32", "float64"}


def test_x64_alone_changes_no_first_parameter():
    """A float32 program has the same initial weights with and without x64."""
    gan, x = MODELS["dcgan"]((28, 28, 1), latent=3, width=2), jnp.zeros((2, 28, 28, 1))
    plain = jax.jit(gan.discriminator.init)(jax.random.key(0), x)
    with jax.enable_x64(True):
        wide = jax.jit(gan.discriminator.init)(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, plain, wide)
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {jnp.dtype("float32")}


# Small and large numbers in float16


@pytest.mark.parametrize("dtype", NARROW)
def test_the_deviation_of_equal_examples_has_a_finite_slope(dtype):
    x = jnp.full((4, 2, 2, 3), 0.3, dtype)
    apply = MinibatchStd().apply
    y, slope = jax.value_and_grad(lambda x: jnp.sum(apply({}, x)[..., -1].astype(float)))(x)
    np.testing.assert_allclose(y, 4 * 4 * 1e-4, rtol=0.01)
    assert np.isfinite(np.float64(slope)).all()


@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])
def test_the_deviation_of_float16_features_is_that_of_float64(scale):
    """Squares of these numbers, or the 1e-8 under the root, overflow or vanish in float16."""
    x = (scale * jax.random.normal(jax.random.key(0), (8, 5))).astype(jnp.float16)
    made = MinibatchStd().apply({}, x)[0, -1]
    expected = np.sqrt(np.var(np.float64(x), axis=0) + 1e-8).mean()
    np.testing.assert_allclose(np.float64(made), expected, rtol=2e-3)


OF_SLOPE = {
    "r1": lambda norm: norm**2,
    "r2": lambda norm: norm**2,
    "gradient_penalty": lambda norm: (norm - 1) ** 2,
    "one_sided_gradient_penalty": lambda norm: max(norm - 1, 0) ** 2,
    "dragan": lambda norm: (norm - 1) ** 2,
}


@pytest.mark.parametrize("slope", [1.0, 2.0**-13])
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", OF_SLOPE)
def test_the_slope_of_a_large_image_neither_overflows_nor_vanishes(name, dtype, slope):
    """D(x) = slope * sum(x) has a norm of 256 slope, with a square that float16 cannot hold."""
    real, fake = jnp.zeros((2, 2, 256, 256, 1), dtype)

    def critic(x):
        return (slope * jnp.sum(x, axis=(1, 2, 3))).astype(dtype)

    made = PENALTIES[name](critic, real, fake, jax.random.key(0))
    np.testing.assert_allclose(made, np.full(2, OF_SLOPE[name](256 * slope)), rtol=1e-3)
    assert made.dtype == jnp.float32


def test_a_float16_kernel_of_zeros_stays_one_under_spectral_norm():
    network, x = spectral_norm(gan_jax.from_linen(nn.Dense(3))), jnp.ones((2, 5), jnp.float16)
    params, model_state = network.init(jax.random.key(0), x)
    zeros = moved(jax.tree.map(jnp.zeros_like, params), jnp.float16)
    y, _ = network.apply(zeros, model_state, x, train=True)
    np.testing.assert_array_equal(y, np.zeros((2, 3)))


# Every loss and penalty


def in_type(network, dtype):
    """Returns the network with parameters of that type, which computes in that type."""

    def init(*arguments):
        params, model_state = network.init(*arguments)
        return moved(params, dtype), model_state

    def apply(params, model_state, x, label=None, **options):
        return network.apply(params, model_state, x.astype(dtype), label, **options)

    return Network(init, apply)


def always(weight):
    return weight


@pytest.mark.parametrize(
    ("dtype", "schedule"),
    [
        ("float16", always),
        ("bfloat16", lazy),
        pytest.param("float16", lazy, marks=pytest.mark.slow),
        pytest.param("bfloat16", always, marks=pytest.mark.slow),
    ],
)
def test_every_loss_and_penalty_is_finite_on_narrow_batches(dtype, schedule):
    """One program computes every loss, selected by an input, and all penalties."""
    gan = mlp((6, 6, 1), latent=2, width=4, depth=1)
    gan = gan._replace(
        generator=in_type(gan.generator, dtype), discriminator=in_type(gan.discriminator, dtype)
    )
    tx = optax.sgd(1e-3)
    batch = Batch(jnp.tanh(jax.random.normal(jax.random.key(0), (4, 6, 6, 1), dtype)))
    penalties = [(penalty, schedule(0.01)) for penalty in PENALTIES.values()]
    state = gan_jax.init(gan, tx, tx, jax.random.key(1), batch, penalties=penalties)

    @jax.jit
    def step(index, state):
        def player(role):
            branches = [getattr(loss, role) for loss in losses.LOSSES.values()]
            return lambda real, fake: jax.lax.switch(index, branches, real, fake)

        loss = AdversarialLoss(player("discriminator"), player("generator"))
        state, of_d = gan_jax.make_discriminator_step(gan, loss, tx, penalties=penalties)(
            state, batch
        )
        state, of_g = gan_jax.make_generator_step(gan, loss, tx)(state, batch)
        return state, {**of_d, **of_g}

    for index, name in enumerate(losses.LOSSES):
        after, metrics = step(jnp.asarray(index), state)
        for key in metrics.keys() - {"discriminator_gradient_norm", "generator_gradient_norm"}:
            assert metrics[key].dtype == jnp.float32, (name, key)
        assert all(np.isfinite(value) for value in metrics.values()), name
        for leaf in jax.tree.leaves((after.discriminator, after.generator)):
            assert np.isfinite(np.float64(leaf)).all(), name


def test_a_lazy_penalty_of_another_type_has_one_type():
    """A user's penalty in float16, and in float64 with float32 losses."""
    gan, tx = mlp((3,), latent=2, width=4, depth=1), optax.sgd(0.1)
    for dtype in ("float16", "float64"):
        with jax.enable_x64(dtype == "float64"):
            batch = Batch(jnp.ones((4, 3), jnp.float32))

            def one(critic, real, fake, key, dtype=dtype):
                return jnp.ones(len(real), dtype)

            state = jax.eval_shape(partial(gan_jax.init, gan, tx, tx), jax.random.key(0), batch)
            step = gan_jax.make_discriminator_step(
                gan, losses.minimax, tx, penalties=[(one, lazy(0.5, 2))]
            )
            _, metrics = jax.eval_shape(step, state, batch)
            assert metrics["one"].dtype == metrics["discriminator_loss"].dtype


# Accumulators


def running_by_numpy(xs):
    mean, var = np.zeros(3), np.ones(3)
    for x in np.float64(xs):
        flat = x.reshape(-1, 3)
        mean, var = 0.9 * mean + 0.1 * flat.mean(0), 0.9 * var + 0.1 * flat.var(0)
    return {"mean": mean, "var": var}


@pytest.mark.parametrize("how", ["parameters", "mixed_precision"])
@pytest.mark.parametrize("dtype", NARROW)
def test_running_statistics_are_those_of_float64(dtype, how):
    """Running statistics of 200 batches in the narrow type are exact to float32's rounding."""
    xs = 1.0 + 0.1 * jax.random.normal(jax.random.key(0), (200, 16, 2, 2, 3))
    xs = xs.astype(dtype)
    network = gan_jax.from_linen(BatchNorm())
    params, model_state = network.init(jax.random.key(1), xs[0])
    if how == "parameters":
        params = moved(params, dtype)
    else:
        gan = mlp((3,))._replace(discriminator=network)
        network = gan_jax.mixed_precision(gan, jnp.dtype(dtype)).discriminator
    after, _ = jax.jit(
        lambda start: jax.lax.scan(
            lambda s, x: (network.apply(params, s, x, train=True)[1], None), start, xs
        )
    )(model_state)
    made, expected = after["batch_stats"]["BatchNorm_0"], running_by_numpy(xs)
    for name in expected:
        assert made[name].dtype == jnp.float32
        np.testing.assert_allclose(made[name], expected[name], rtol=2e-5)


@pytest.mark.parametrize("dtype", NARROW)
def test_lecams_memory_is_that_of_float64(dtype):
    """The moving average of logits in the narrow type over 300 updates."""
    penalty, decay = lecam(0.99), 0.99
    batches = (3 + jax.random.normal(jax.random.key(0), (300, 2, 4))).astype(dtype)

    def update(memory, pair):
        return penalty.apply(lambda x: x, pair[0], pair[1], jax.random.key(0), memory)[1], None

    memory, _ = jax.jit(lambda: jax.lax.scan(update, penalty.init(), batches))()
    expected = np.zeros(2)
    for pair in np.float64(batches):
        expected = decay * expected + (1 - decay) * pair.mean(1)
    np.testing.assert_allclose((memory["real"], memory["fake"]), expected, rtol=2e-5)
    assert {leaf.dtype for leaf in memory.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize("change", [gan_jax.mixed_precision, spectrally_normalised])
def test_the_state_keeps_its_types_on_float16_batches(change):
    gan, tx = change(mlp((3,), latent=2, width=4, depth=1)), optax.sgd(0.1)
    batch = Batch(jnp.ones((4, 3), jnp.float16))
    state = jax.eval_shape(partial(gan_jax.init, gan, tx, tx), jax.random.key(0), batch)
    step = gan_jax.make_discriminator_step(gan, losses.hinge, tx)
    assert jax.eval_shape(step, state, batch)[0] == state

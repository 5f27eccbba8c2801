"""Models at their shapes, and their layers against batch norm and dropout in NumPy."""

from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from gan_jax import AdversarialLoss, Batch, batches
from gan_jax.losses import LOSSES
from gan_jax.models import MODELS
from gan_jax.nn import BatchNorm, Dropout

DCGAN_SHAPES = [(side, side, channels) for side in (28, 32, 64) for channels in (1, 3)]
CASES = [("dcgan", shape) for shape in DCGAN_SHAPES] + [
    (name, shape) for name in ("mlp", "maxout") for shape in [(28, 28, 1), (6, 5, 3), (2,)]
]

pytestmark = pytest.mark.usefixtures("quick_compile")


def build(name, shape):
    return MODELS[name](shape, latent=5, width=2)


def start(gan, shape, tx, num=4):
    return gan_jax.init(gan, tx, tx, jax.random.key(0), Batch(jnp.zeros((num, *shape))))


CLASSIC = ["dcgan", "mlp", "maxout"]


def test_every_model_has_a_case_or_a_file_of_its_own():
    assert {name for name, _ in CASES} == set(CLASSIC)
    for name in set(MODELS) - set(CLASSIC):
        assert Path(__file__).with_name(f"test_{name}.py").exists()


def play(name, shape, scale=1.0):
    """Returns three samples and their logits, with all weights multiplied by `scale`."""
    gan = build(name, shape)
    state = start(gan, shape, optax.sgd(0.1))
    generator, discriminator = jax.tree.map(
        lambda leaf: scale * leaf, (state.generator.params, state.discriminator.params)
    )
    x = gan_jax.sample(gan, state.replace(ema_params=generator), jax.random.key(1), 3)
    model_state = state.discriminator.model_state
    return x, gan.discriminator.apply(discriminator, model_state, x, train=False)[0]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_samples_have_the_shape_of_the_data_and_logits_one_figure_each(name, shape):
    x, logits = jax.eval_shape(lambda: play(name, shape))
    assert x.shape == (3, *shape)
    assert logits.shape == (3,)


@pytest.mark.parametrize("name", CLASSIC)
def test_samples_fill_but_never_leave_their_range_and_logits_are_unbounded(name):
    """With huge weights x reaches the ends of [-1, 1], and logits exceed the range of a sigmoid."""
    x, logits = jax.jit(lambda: play(name, (28, 28, 1), 1000.0))()
    assert x.min() >= -1
    assert x.max() <= 1
    assert np.abs(x).max() > 0.99
    assert np.abs(logits).max() > 1


def one_of_the_losses(which):
    """Returns the loss with the index `which`, a traced number, so one compilation serves all."""

    def player(field):
        def function(real, fake):
            return jnp.stack([loss[field](real, fake) for loss in LOSSES.values()])[which]

        return function

    return AdversarialLoss(player(0), player(1))


@pytest.mark.parametrize("name", CLASSIC)
def test_one_step_with_each_loss_gives_finite_figures_and_moves_every_kernel(name):
    shape = (28, 28, 1)
    gan, tx = build(name, shape), optax.sgd(0.1)
    x = jax.random.uniform(jax.random.key(1), (1, 4, *shape), minval=-1.0)

    @jax.jit
    def train(state, which):
        loss = one_of_the_losses(which)
        step = gan_jax.make_train_step(
            gan_jax.make_discriminator_step(gan, loss, tx),
            gan_jax.make_generator_step(gan, loss, tx),
        )
        return step(state, Batch(x))

    state = jax.jit(lambda: start(gan, shape, tx))()
    for which in range(len(LOSSES)):
        after, metrics = train(state, which)
        for leaf in jax.tree.leaves((after.replace(key=0), metrics)):
            assert np.isfinite(leaf).all()
        for role in ["generator", "discriminator"]:
            new, old = (jax.tree.leaves(getattr(s, role).params) for s in (after, state))
            kernels = [pair for pair in zip(new, old, strict=True) if pair[0].ndim > 1]
            assert len(kernels) >= 3
            assert all((a != b).any() for a, b in kernels)


@pytest.mark.parametrize("shape", [(30, 30, 1), (28, 32, 1), (128, 128, 3)])
def test_dcgan_refuses_other_sizes(shape):
    with pytest.raises(ValueError, match=f"28, 32, 64 pixels, got {shape[0]}x{shape[1]}"):
        MODELS["dcgan"](shape)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_maxout_is_the_architecture_of_2014():
    """Weights and biases of G 100-1200-1200-784 and D 784-(240 x 5)-(240 x 5)-1."""
    shape = (28, 28, 1)
    state = jax.eval_shape(lambda: start(MODELS["maxout"](shape), shape, optax.sgd(0.1)))
    of_generator = (100 + 1) * 1200 + (1200 + 1) * 1200 + (1200 + 1) * 784
    of_discriminator = (784 + 1) * 1200 + (240 + 1) * 1200 + (240 + 1)
    assert count(state.generator.params) == of_generator
    assert count(state.discriminator.params) == of_discriminator


def test_dcgan_has_the_parameters_of_its_plan():
    """64 pixels and 3 channels: the generator of Radford et al. with four levels from 4 x 4."""
    shape, w = (64, 64, 3), 16
    gan = MODELS["dcgan"](shape, latent=10, width=w)
    state = jax.eval_shape(lambda: start(gan, shape, optax.sgd(0.1)))
    kernels = 16 * (8 * w * 4 * w + 4 * w * 2 * w + 2 * w * w + w * 3)
    norms = 2 * (8 + 4 + 2 + 1) * w
    assert count(state.generator.params) == 10 * 16 * 8 * w + kernels + norms
    norms, dense = 2 * (8 + 4 + 2) * w, 16 * 8 * w + 1
    assert count(state.discriminator.params) == kernels + norms + dense


# Layers


def test_batch_norm_over_eight_devices_is_that_of_the_whole_batch():
    """Output and running statistics against NumPy over all 16 examples."""
    x = np.random.default_rng(0).normal(3, 2, (8, 2, 3, 3, 4)).astype(np.float32)
    layer = BatchNorm()
    variables = layer.init(jax.random.key(0), x[0], train=True)

    def apply(x):
        with batches.split_over("devices"):
            return layer.apply(variables, x, train=True, mutable=["batch_stats"])

    y, updated = jax.pmap(apply, axis_name="devices")(x)
    mean, variance = x.mean((0, 1, 2, 3)), x.var((0, 1, 2, 3))
    scale = variables["params"]["BatchNorm_0"]["scale"]
    expected = np.asarray(scale) * (x - mean) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    statistics = updated["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], np.tile(0.1 * mean, (8, 1)), rtol=1e-5)
    expected = np.tile(0.9 + 0.1 * variance, (8, 1))
    np.testing.assert_allclose(statistics["var"], expected, rtol=1e-5)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 4, 5)])
def test_batch_norm_is_linens_and_so_are_its_derivatives(shape, train):
    """Values, running statistics, first and second derivatives, in float64."""
    with jax.enable_x64(True):
        layer = BatchNorm()
        linen = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5)
        rng = np.random.default_rng(0)
        x, direction = jnp.asarray(rng.normal(2, 3, shape)), jnp.asarray(rng.normal(size=shape))
        params, statistics = (
            {name: jnp.asarray(rng.uniform(0.5, 2, 5)) for name in names}
            for names in (("scale", "bias"), ("mean", "var"))
        )

        def ours(params, x):
            nested = {"params": {"BatchNorm_0": params}, "batch_stats": {"BatchNorm_0": statistics}}
            y, updated = layer.apply(nested, x, train=train, mutable=["batch_stats"])
            return y, updated["batch_stats"]["BatchNorm_0"]

        def theirs(params, x):
            variables = {"params": params, "batch_stats": statistics}
            y, updated = linen.apply(variables, x, mutable=["batch_stats"])
            return y, updated["batch_stats"]

        def everything(norm):
            def penalty(params, x):
                gradient = jax.grad(lambda x: jnp.sum(jnp.sin(norm(params, x)[0])))(x)
                return jnp.sum(jnp.square(gradient) * direction)

            first = jax.grad(lambda *at: jnp.sum(norm(*at)[0] * direction), argnums=(0, 1))
            second = jax.grad(penalty, argnums=(0, 1))
            return [f(params, x) for f in (norm, first, second)]

        made, expected = (jax.jit(partial(everything, norm))() for norm in (ours, theirs))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), made, expected)


def test_batch_norm_is_as_exact_as_linens_where_the_mean_is_ten_deviations():
    """Output and gradient in float32 against Linen in float64.

    The errors are relative to the largest number.
    """
    rng = np.random.default_rng(0)
    x, direction = rng.normal(10, 1, (64, 7, 7, 8)), rng.normal(size=(64, 7, 7, 8))
    params = {"scale": rng.uniform(0.5, 2, 8), "bias": rng.normal(size=8)}
    start = {"mean": jnp.zeros(8, np.float32), "var": jnp.ones(8, np.float32)}

    def ours(params, x):
        nested = {"params": {"BatchNorm_0": params}, "batch_stats": {"BatchNorm_0": start}}
        return BatchNorm().apply(nested, x, train=True, mutable=["batch_stats"])[0]

    def theirs(params, x):
        variables = {"params": params, "batch_stats": start}
        linen = nn.BatchNorm(False, momentum=0.9, epsilon=1e-5)
        return linen.apply(variables, x, mutable=["batch_stats"])[0]

    def output_and_gradients(norm, dtype):
        at = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (params, x))
        gradient = jax.grad(lambda *at: jnp.sum(norm(*at) * direction.astype(dtype)), (0, 1))
        made = jax.jit(lambda *at: (norm(*at), gradient(*at)))(*at)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(made)]

    with jax.enable_x64(True):
        exact = output_and_gradients(theirs, np.float64)

    def errors(norm):
        made = output_and_gradients(norm, np.float32)
        return [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(made, exact, strict=True)]

    mine, linens = errors(ours), errors(theirs)
    assert all(a < 1.5 * b for a, b in zip(mine, linens, strict=True)), (mine, linens)


def drop(x, train=True, rate=0.25):
    key = jax.random.key(0)
    return Dropout(rate).apply({}, x, train=train, rngs={"dropout": key})


def test_dropout_over_eight_devices_is_that_of_the_whole_batch():
    x = jnp.ones((16, 50))

    def shard(x):
        with batches.split_over("devices"):
            return drop(x)

    split = jax.pmap(shard, axis_name="devices")(x.reshape(8, 2, 50))
    np.testing.assert_array_equal(split.reshape(16, 50), drop(x))
    assert len(np.unique(split.reshape(16, 50), axis=0)) == 16


def test_dropout_keeps_the_mean_by_its_rate():
    """A quarter of 40,000 ones become 0, within 5 standard errors. The others become 4/3."""
    y = drop(jnp.ones((200, 200)))
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(np.mean(y == 0), 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 40000))
    np.testing.assert_array_equal(drop(jnp.ones((3, 3)), train=False), np.ones((3, 3)))
    np.testing.assert_array_equal(drop(jnp.ones((3, 3)), rate=0.0), np.ones((3, 3)))

"""Models at their shapes, and their layers against batch norm and dropout worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from gan_jax import AdversarialLoss, Batch
from gan_jax.losses import LOSSES
from gan_jax.models import MODELS
from gan_jax.models.layers import BatchNorm, Dropout

DCGAN_SHAPES = [(side, side, channels) for side in (28, 32, 64) for channels in (1, 3)]
CASES = [("dcgan", shape) for shape in DCGAN_SHAPES] + [
    (name, shape) for name in ("mlp", "maxout") for shape in [(28, 28, 1), (6, 5, 3), (2,)]
]

pytestmark = pytest.mark.usefixtures("quick_compile")


def build(name, shape):
    return MODELS[name](shape, latent=5, width=2)


def start(gan, shape, tx, num=4):
    return gan_jax.init(gan, tx, tx, jax.random.key(0), Batch(jnp.zeros((num, *shape))))


def test_every_model_has_a_case():
    assert {name for name, _ in CASES} == set(MODELS)


def play(name, shape, scale=1.0):
    """Three samples and their logits, all weights made `scale` times larger."""
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


@pytest.mark.parametrize("name", MODELS)
def test_samples_fill_but_never_leave_their_range_and_logits_are_unbounded(name):
    """With huge weights: x reaches the ends of [-1, 1], logits what no sigmoid could give."""
    x, logits = jax.jit(lambda: play(name, (28, 28, 1), 1000.0))()
    assert x.min() >= -1
    assert x.max() <= 1
    assert np.abs(x).max() > 0.99
    assert np.abs(logits).max() > 1


def one_of_the_losses(which):
    """The loss of a traced number: one compilation serves all."""

    def player(field):
        def function(real, fake):
            return jnp.stack([loss[field](real, fake) for loss in LOSSES.values()])[which]

        return function

    return AdversarialLoss(player(0), player(1))


@pytest.mark.parametrize("name", MODELS)
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
    """G 100-1200-1200-784; D 784-(240 x 5)-(240 x 5)-1, weights and biases."""
    shape = (28, 28, 1)
    state = jax.eval_shape(lambda: start(MODELS["maxout"](shape), shape, optax.sgd(0.1)))
    of_generator = (100 + 1) * 1200 + (1200 + 1) * 1200 + (1200 + 1) * 784
    of_discriminator = (784 + 1) * 1200 + (240 + 1) * 1200 + (240 + 1)
    assert count(state.generator.params) == of_generator
    assert count(state.discriminator.params) == of_discriminator


def test_dcgan_has_the_parameters_of_its_plan():
    """64 pixels, 3 channels: the generator of Radford et al. with four levels from 4 x 4."""
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
    """Output and running statistics against NumPy's over all 16 examples."""
    x = np.random.default_rng(0).normal(3, 2, (8, 2, 3, 3, 4)).astype(np.float32)
    layer = BatchNorm(axis_name="devices")
    variables = layer.init(jax.random.key(0), x[0], train=True)
    y, updated = jax.pmap(
        lambda x: layer.apply(variables, x, train=True, mutable=["batch_stats"]),
        axis_name="devices",
    )(x)
    mean, variance = x.mean((0, 1, 2, 3)), x.var((0, 1, 2, 3))
    scale = variables["params"]["BatchNorm_0"]["scale"]
    expected = np.asarray(scale) * (x - mean) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    statistics = updated["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], np.tile(0.1 * mean, (8, 1)), rtol=1e-5)
    expected = np.tile(0.9 + 0.1 * variance, (8, 1))
    np.testing.assert_allclose(statistics["var"], expected, rtol=1e-5)


def drop(x, axis_name=None, train=True, rate=0.25):
    key = jax.random.key(0)
    return Dropout(rate, axis_name).apply({}, x, train=train, rngs={"dropout": key})


def test_dropout_over_eight_devices_is_that_of_the_whole_batch():
    x = jnp.ones((16, 50))
    split = jax.pmap(lambda x: drop(x, "devices"), axis_name="devices")(x.reshape(8, 2, 50))
    np.testing.assert_array_equal(split.reshape(16, 50), drop(x))
    assert len(np.unique(split.reshape(16, 50), axis=0)) == 16


def test_dropout_keeps_the_mean_by_its_rate():
    """Of 40,000 ones a quarter become 0, within 5 standard errors, and the rest 4/3."""
    y = drop(jnp.ones((200, 200)))
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(np.mean(y == 0), 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 40000))
    np.testing.assert_array_equal(drop(jnp.ones((3, 3)), train=False), np.ones((3, 3)))
    np.testing.assert_array_equal(drop(jnp.ones((3, 3)), rate=0.0), np.ones((3, 3)))

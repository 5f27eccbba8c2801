"""Spectral normalisation against the singular values of the layers' explicit matrices."""

from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_runs import compiled_in_a_hurry

import gan_jax
from gan_jax import Batch, Network, losses
from gan_jax.models import MODELS
from gan_jax.models.layers import Conv, ConvTranspose
from gan_jax.models.mlp import mlp
from gan_jax.models.small_dcgan import small_dcgan
from gan_jax.models.spectral import spectral_norm, spectrally_normalised
from gan_jax.parallel import AXIS_NAME, pmap_step

pytestmark = pytest.mark.usefixtures("quick_compile")

SHAPE = (8, 8, 1)


class EveryLayer(nn.Module):
    """All kinds there are, with sizes that change from each to the next."""

    @nn.compact
    def __call__(self, x):
        x = nn.leaky_relu(Conv(3, use_bias=True)(x), 0.2)
        x = nn.leaky_relu(ConvTranspose(2)(x), 0.2)
        x = nn.leaky_relu(nn.Conv(3, (3, 3), strides=2)(x), 0.2)
        x = nn.leaky_relu(nn.ConvTranspose(2, (3, 3), padding="VALID")(x), 0.2)
        return nn.Dense(1)(x.reshape(x.shape[0], -1))[:, 0]


def transposed(x, kernel):
    """The transposed convolution as the transpose of the convolution's map."""
    shape = (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], kernel.shape[2])
    pull = jax.linear_transpose(
        lambda y: convolution(y, kernel), jax.ShapeDtypeStruct(shape, x.dtype)
    )
    return pull(x)[0]


def convolution(x, kernel, strides=2, padding=((1, 1), (1, 1))):
    return jax.lax.conv_general_dilated(
        x, kernel, (strides, strides), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


OF_LAYER = {
    "Conv_0": (lambda x, k: convolution(x, k), (8, 8, 1)),
    "ConvTranspose_0": (transposed, (4, 4, 3)),
    "Conv_1": (lambda x, k: convolution(x, k, 2, "SAME"), (8, 8, 2)),
    "ConvTranspose_1": (
        lambda x, k: jax.lax.conv_transpose(x, k, (1, 1), "VALID"),
        (4, 4, 3),
    ),
    "Dense_0": (lambda x, k: x @ k, (6 * 6 * 2,)),
}
"""The layers of `EveryLayer` by their names in Linen, which our layers share: what each computes,
of inputs of which shape."""


def largest(function, kernel, shape):
    """The largest singular value of the matrix of a linear map."""
    units = jnp.eye(int(np.prod(shape))).reshape(-1, *shape)
    matrix = function(units, kernel).reshape(units.shape[0], -1)
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)[0]


def handed_on(network, player, x, train):
    """The parameters the network inside is applied to in a pass of either kind."""
    seen = []

    def apply(params, *arguments, **options):
        seen.append(params)
        return network.apply(params, *arguments, **options)

    def one(params, model_state):
        spectral_norm(Network(network.init, apply)).apply(params, model_state, x, train=train)
        return seen.pop()

    return jax.jit(one)(player.params, player.model_state)


def trained(gan, shape, num, rate=2e-4, seed=0):
    """D after `num` steps on one batch, and the batch."""
    tx = optax.adam(rate, b1=0.5)
    batch = Batch(jax.random.uniform(jax.random.key(1), (8, *shape), minval=-1.0))
    step = gan_jax.make_discriminator_step(gan, losses.hinge, tx)

    @jax.jit
    def run(key):
        state = gan_jax.init(gan, tx, tx, key, batch)
        return jax.lax.scan(lambda state, _: step(state, batch), state, length=num)[0]

    return run(jax.random.key(seed)).discriminator, batch


@pytest.fixture(scope="module")
def after_training():
    """A D of every layer, its state after 100 steps and the batch."""
    discriminator = gan_jax.from_linen(EveryLayer())
    gan = mlp(SHAPE, latent=2, width=8)._replace(discriminator=discriminator)
    with compiled_in_a_hurry():
        return discriminator, *trained(spectrally_normalised(gan), SHAPE, 100, rate=1e-3)


@pytest.mark.parametrize("train", [True, False])
def test_every_kind_of_layer_has_norm_1_in_the_midst_of_training(after_training, train):
    discriminator, player, batch = after_training
    normalised = handed_on(discriminator, player, batch.x, train)
    plain = player.params
    assert set(OF_LAYER) == set(plain)
    for name, (function, shape) in OF_LAYER.items():
        made = largest(function, normalised[name]["kernel"], shape)
        np.testing.assert_allclose(made, 1, atol=1e-3, err_msg=name)
        # It is the kernel that is normalised, by a positive number, and nothing else.
        ratio = np.asarray(plain[name]["kernel"]) / np.asarray(normalised[name]["kernel"])
        norm = largest(function, plain[name]["kernel"], shape)
        np.testing.assert_allclose(ratio, np.full_like(ratio, norm), rtol=2e-3)
        assert abs(norm - 1) > 0.01, "nothing to normalise"
        for other in set(plain[name]) - {"kernel"}:
            np.testing.assert_array_equal(plain[name][other], normalised[name][other])


def test_the_network_is_1_lipschitz(after_training):
    """Leaky ReLUs are, so their compositions with it are: D's slope is at most 1."""
    discriminator, player, _ = after_training
    apply = spectral_norm(discriminator).apply
    x = 3 * jax.random.normal(jax.random.key(2), (64, *SHAPE))

    def total(x):
        return jnp.sum(apply(player.params, player.model_state, x, train=False)[0])

    slopes = np.linalg.norm(jax.jit(jax.grad(total))(x).reshape(64, -1), axis=1)
    assert 0.01 < slopes.max() < 1 + 2e-3


def test_what_is_orthogonal_to_the_direction_is_found():
    """In one pass from a singular vector of half the norm, which no iteration alone would leave."""
    spectrum = 1.0 - np.arange(200) / 398
    network, x = spectral_norm(gan_jax.from_linen(Linear(200))), jnp.ones((2, 200))
    params, model_state = jax.jit(network.init)(jax.random.key(0), x)
    params = {"a": {**params["a"], "kernel": jnp.diag(jnp.asarray(spectrum, jnp.float32))}}
    kept = {**model_state, "directions": {"a": jnp.zeros(200).at[-1].set(1.0)}}
    y, _ = jax.jit(partial(network.apply, train=True))(params, kept, x)
    np.testing.assert_allclose(y[0], spectrum, rtol=1e-3)


def test_a_change_that_leaves_the_direction_as_it_was_is_found():
    """The kept direction's norm is 1 as before, when another's has become 3."""
    spectrum = np.linspace(1.0, 0.5, 200, dtype=np.float32)
    network, x = spectral_norm(gan_jax.from_linen(Linear(200))), jnp.ones((2, 200))
    params, model_state = jax.jit(network.init)(jax.random.key(0), x)
    params = {"a": {**params["a"], "kernel": jnp.diag(spectrum)}}
    apply = jax.jit(partial(network.apply, train=True))
    for _ in range(2):
        y, model_state = apply(params, model_state, x)
    np.testing.assert_allclose(y[0], spectrum, rtol=1e-3)
    spectrum[77] = 3.0
    params = {"a": {**params["a"], "kernel": jnp.diag(spectrum)}}
    y, _ = apply(params, model_state, x)
    np.testing.assert_allclose(y[0], spectrum / 3, rtol=1e-3)


def test_a_small_change_is_found_in_a_large_kernel():
    """The norm up by a thousandth, in a random direction, of a kernel of random entries."""
    network, x = spectral_norm(gan_jax.from_linen(Linear(300))), jnp.ones((2, 400))
    params, model_state = jax.jit(network.init)(jax.random.key(0), x)
    u, v = (rng / np.linalg.norm(rng) for rng in np.random.default_rng(0).normal(size=(2, 400)))
    v = v[:300] / np.linalg.norm(v[:300])
    kernel = np.asarray(params["a"]["kernel"])
    apply = jax.jit(partial(network.apply, train=True))
    _, model_state = apply(params, model_state, x)
    norm = np.linalg.norm(kernel, 2)
    changed = kernel + 1e-3 * norm * np.outer(u, v)
    _, after = apply({"a": {**params["a"], "kernel": jnp.asarray(changed)}}, model_state, x)
    assert after["prints"]["a"] != model_state["prints"]["a"]
    assert not np.array_equal(after["directions"]["a"], model_state["directions"]["a"])
    _, same = apply(params, model_state, x)
    assert np.array_equal(same["directions"]["a"], model_state["directions"]["a"])


@pytest.mark.slow
def test_the_small_networks_of_mode_studies_are_normalised_whole():
    """Their layers, too, have norm 1, by the singular values of each in turn."""
    gan = small_dcgan((28, 28, 3), latent=4, width=1, discriminator_norm=False)
    key = jax.random.key(0)
    for network, x, inner in (
        (gan.discriminator, jax.random.normal(key, (2, 28, 28, 3)), {"Halved_0": (28, 28, 3)}),
        (gan.generator, jax.random.normal(key, (2, 4)), {"Repainted_0": (28, 28, 1)}),
    ):
        params, model_state = jax.jit(spectral_norm(network).init)(key, x)
        kernels = {name for name, values in params.items() if "kernel" in values}
        assert set(model_state["directions"]) == kernels
        player = SimpleNamespace(params=params, model_state=model_state)
        normalised = handed_on(network, player, x, True)
        for name, shape in {**inner, "Dense_0": (params["Dense_0"]["kernel"].shape[0],)}.items():
            made = largest(SMALL_LAYERS[name], normalised[name]["kernel"], shape)
            np.testing.assert_allclose(made, 1, atol=1e-3, err_msg=name)


SMALL_LAYERS = {
    "Dense_0": lambda x, k: x @ k,
    "Halved_0": lambda x, k: convolution(x, k, 2, "SAME"),
    # A convolution with the kernel turned round.
    "Repainted_0": lambda x, k: convolution(x, k[::-1, ::-1].swapaxes(2, 3), 1, "SAME"),
}


def test_only_training_moves_the_directions():
    network, x = spectral_norm(gan_jax.from_linen(Linear())), jnp.ones((2, 9))
    params, before = jax.jit(network.init)(jax.random.key(0), x)
    for train in (False, True):
        _, after = jax.jit(partial(network.apply, train=train))(params, before, x)
        same = np.array_equal(after["directions"]["a"], before["directions"]["a"])
        assert same == (not train)
        assert after["seed"] == before["seed"] + train


DCGAN = ("dcgan", (28, 28, 1))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [2e-4, 1e-3])
@pytest.mark.parametrize("num", [1, 30, 100, 200, 300])
@pytest.mark.parametrize(
    ("name", "shape", "width"), [(*DCGAN, 4), (*DCGAN, 16), ("mlp", (6, 5, 3), 16)]
)
def test_models_have_layers_of_norm_1_in_the_midst_of_training(name, shape, width, num, rate):
    options = {"dcgan": {"discriminator_norm": False}, "mlp": {}}[name]
    gan = MODELS[name](shape, latent=4, width=width, **options)
    player, batch = trained(spectrally_normalised(gan), shape, num, rate, seed=num)
    sizes = {"Conv_0": (28, 28, 1), "Conv_1": (14, 14, width)}
    for train in (True, False):
        for layer, values in handed_on(gan.discriminator, player, batch.x, train).items():
            kernel = values["kernel"]
            function = (lambda x, k: x @ k) if layer.startswith("Dense") else convolution
            made = largest(function, kernel, sizes.get(layer, kernel.shape[:1]))
            np.testing.assert_allclose(made, 1, atol=1e-3, err_msg=layer)


class Linear(nn.Module):
    features: int = 3

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.features, name="a")(x)


def test_gradients_are_those_of_the_normalised_kernel():
    """Of <c, x W / |W|> in W, by differences in NumPy; to first order u and v are constant."""
    with jax.enable_x64(True):
        network = spectral_norm(gan_jax.from_linen(Linear()))
        x, c = jax.random.normal(jax.random.key(1), (2, 5)), np.arange(6.0).reshape(2, 3)
        params, model_state = network.init(jax.random.key(0), x)
        params = jax.tree.map(lambda leaf: leaf.astype(float), params)

        def value(params):
            return jnp.sum(c * network.apply(params, model_state, x, train=True)[0])

        made = jax.grad(value)(params)["a"]["kernel"]
        kernel = np.asarray(params["a"]["kernel"])

        def by_numpy(kernel):
            return np.sum(c * (np.asarray(x) @ kernel / np.linalg.norm(kernel, 2)))

        steps = 1e-6 * np.eye(15).reshape(15, 5, 3)
        slopes = [(by_numpy(kernel + h) - by_numpy(kernel - h)) / 2e-6 for h in steps]
        np.testing.assert_allclose(made, np.reshape(slopes, (5, 3)), rtol=1e-6, atol=1e-8)


SMALL = (3,)


def small_step(change=lambda gan: gan, axis_name=None, **options):
    """D's step of an MLP, and a state."""
    gan = change(spectrally_normalised(mlp(SMALL, latent=2, width=5, depth=1)))
    tx = optax.sgd(0.5)
    step = gan_jax.make_discriminator_step(
        gan,
        losses.hinge,
        tx,
        axis_name=axis_name,
        **options,
    )
    batch = Batch(jax.random.normal(jax.random.key(1), (8, *SMALL)))
    return step, gan_jax.init(gan, tx, tx, jax.random.key(0), batch), batch


@pytest.mark.slow
def test_it_composes():
    """With pmap and recomputation the same step; in parts, in bfloat16, under vmap one like it."""
    step, state, batch = small_step()
    expected = jax.jit(step)(state, batch)

    def assert_like(made, tolerance):
        for a, b in zip(
            *(jax.tree.leaves((s.discriminator.params, m)) for s, m in (made, expected)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)

    mapped = pmap_step(small_step(axis_name=AXIS_NAME)[0], devices=jax.devices()[:2], donate=False)
    assert_like(mapped(state, batch), 1e-5)
    assert_like(jax.jit(small_step(gan_jax.rematerialised)[0])(state, batch), 1e-5)
    in_parts = jax.jit(small_step(accumulate=2)[0])(state, batch)
    assert_like(in_parts, 1e-2)  # the second part sees better norms than the first
    lowered = jax.jit(small_step(gan_jax.mixed_precision)[0])(state, batch)
    assert_like(lowered, 5e-2)
    assert {leaf.dtype for leaf in jax.tree.leaves(lowered[0].discriminator)} == {
        jnp.dtype("float32"),
        jnp.dtype("int32"),
    }
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    many = jax.jit(jax.vmap(step, in_axes=(0, None)))(states, batch)
    assert_like(jax.tree.map(lambda leaf: leaf[1], many), 1e-5)


@pytest.mark.parametrize("dim", [1, 2, 5, 9])
def test_small_layers(dim):
    """Where there are fewer dimensions than steps: exact at once; and a kernel of zeros."""
    network = spectral_norm(gan_jax.from_linen(Linear()))
    x = jnp.ones((2, dim))
    params, model_state = jax.jit(network.init)(jax.random.key(0), x)
    kernel = np.asarray(params["a"]["kernel"])
    apply = jax.jit(partial(network.apply, train=True))
    y, model_state = apply(params, model_state, x)
    np.testing.assert_allclose(y[0], kernel.sum(0) / np.linalg.norm(kernel, 2), rtol=1e-4)
    zeros = jax.tree.map(jnp.zeros_like, params)
    y, model_state = apply(zeros, model_state, x)
    np.testing.assert_array_equal(y, np.zeros((2, 3)))
    assert np.isfinite(model_state["directions"]["a"]).all()


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = Conv(1)
        return layer(layer(x))


def test_what_is_refused(linear_gan):
    twice = gan_jax.from_linen(Twice())
    with pytest.raises(ValueError, match="found no layer, and can normalise"):
        spectral_norm(linear_gan.discriminator).init(jax.random.key(0), jnp.ones((2, 2)))
    another = gan_jax.from_linen(nn.Sequential([nn.Dense(3), nn.DenseGeneral(2)]))
    with pytest.raises(ValueError, match="found layers_1/kernel, and can normalise"):
        spectral_norm(another).init(jax.random.key(0), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"'Conv_0' is used on .* \(8, 8, 1\) and \(4, 4, 1\)"):
        spectral_norm(twice).init(jax.random.key(0), jnp.ones((2, *SHAPE)))

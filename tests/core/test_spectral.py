"""Spectral normalisation against the singular values of explicit layer matrices."""

from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from small_runs import compiled_in_a_hurry

import gan_jax
from gan_jax import Batch, Network, losses, penalties
from gan_jax.models import MODELS
from gan_jax.models.mlp import mlp
from gan_jax.models.small_dcgan import small_dcgan
from gan_jax.networks.spectral import spectral_norm, spectrally_normalised
from gan_jax.nn import Conv, ConvTranspose
from gan_jax.parallel import AXIS_NAME, pmap_step

pytestmark = pytest.mark.usefixtures("quick_compile")

SHAPE = (8, 8, 1)


class EveryLayer(nn.Module):
    """A network with every kind of layer, where each layer changes the size."""

    @nn.compact
    def __call__(self, x):
        x = nn.leaky_relu(Conv(3, use_bias=True)(x), 0.2)
        x = nn.leaky_relu(ConvTranspose(2)(x), 0.2)
        x = nn.leaky_relu(nn.Conv(3, (3, 3), strides=2)(x), 0.2)
        x = nn.leaky_relu(nn.ConvTranspose(2, (3, 3), padding="VALID")(x), 0.2)
        return nn.Dense(1)(x.reshape(x.shape[0], -1))[:, 0]


def transposed(x, kernel):
    """Returns the transposed convolution as the transpose of the convolution's map."""
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
"""The layers of `EveryLayer` by name, each as a function with its input shape.

The names are Linen's, which the library's layers share.
"""


def largest(function, kernel, shape):
    """Returns the largest singular value of the matrix of a linear map."""
    units = jnp.eye(int(np.prod(shape))).reshape(-1, *shape)
    matrix = function(units, kernel).reshape(units.shape[0], -1)
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)[0]


def handed_on(network, player, x, train):
    """Returns the parameters that the inner network gets in a training or evaluation pass."""
    seen = []

    def apply(params, *arguments, **options):
        seen.append(params)
        return network.apply(params, *arguments, **options)

    def one(params, model_state):
        spectral_norm(Network(network.init, apply)).apply(params, model_state, x, train=train)
        return seen.pop()

    return jax.jit(one)(player.params, player.model_state)


def passed(network, params, model_state, x, num, label=None):
    """Returns the model state after training passes with fixed parameters."""

    def one(model_state, _):
        return network.apply(params, model_state, x, label, train=True)[1], None

    return jax.jit(lambda state: jax.lax.scan(one, state, length=num)[0])(model_state)


def trained(gan, shape, num, rate=2e-4, seed=0):
    """Returns D after `num` steps on one batch, and the batch."""
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
    """Returns a D with every layer, its state after 100 steps and the batch."""
    discriminator = gan_jax.from_linen(EveryLayer())
    gan = mlp(SHAPE, latent=2, width=8)._replace(discriminator=discriminator)
    with compiled_in_a_hurry():
        return discriminator, *trained(spectrally_normalised(gan), SHAPE, 100, rate=1e-3)


@pytest.mark.parametrize("train", [True, False])
def test_only_kernels_are_normalised_and_by_nearly_their_norms(after_training, train):
    """The estimate is within 10 % after 100 steps of Adam at 1e-3, five times the usual rate."""
    discriminator, player, batch = after_training
    normalised = handed_on(discriminator, player, batch.x, train)
    plain = player.params
    assert set(OF_LAYER) == set(plain)
    for name, (function, shape) in OF_LAYER.items():
        made = largest(function, normalised[name]["kernel"], shape)
        assert 1 - 1e-5 < made < 1.1, name  # the estimate never exceeds the norm
        ratio = np.asarray(plain[name]["kernel"]) / np.asarray(normalised[name]["kernel"])
        np.testing.assert_allclose(ratio, np.full_like(ratio, ratio.max()), rtol=1e-5)
        assert abs(ratio.max() - 1) > 0.001, "nothing to normalise"
        for other in set(plain[name]) - {"kernel"}:
            np.testing.assert_array_equal(plain[name][other], normalised[name][other])


@pytest.mark.parametrize("iterations", [1, 5])
def test_the_estimate_rises_to_the_norm_of_every_kind_of_layer(after_training, iterations):
    """The estimate converges over passes with fixed parameters, from random directions."""
    discriminator, player, batch = after_training
    model_state = {
        **player.model_state,
        "directions": {
            name: jax.random.normal(jax.random.key(3), v.shape) / np.sqrt(v.size)
            for name, v in player.model_state["directions"].items()
        },
    }
    network = spectral_norm(discriminator, iterations=iterations)

    def one(model_state, _):
        _, after = network.apply(player.params, model_state, batch.x, train=True)
        return after, after["directions"]

    passes = 600 // iterations
    each = jax.jit(lambda state: jax.lax.scan(one, state, length=passes)[1])(model_state)
    for name, (function, shape) in OF_LAYER.items():
        kernel = player.params[name]["kernel"]
        exact = largest(function, kernel, shape)
        images = jax.vmap(lambda v, f=function, k=kernel: f(v[None], k).ravel())(each[name])
        estimates = np.linalg.norm(np.asarray(images), axis=1)
        np.testing.assert_allclose(np.linalg.norm(each[name].reshape(passes, -1), axis=1), 1, 1e-5)
        assert (np.diff(estimates) > -1e-5 * exact).all(), name
        assert estimates[0] < 0.99 * exact or name == "Dense_0"
        assert estimates.max() < (1 + 1e-5) * exact, name
        np.testing.assert_allclose(estimates[-1], exact, rtol=1e-3, err_msg=name)


def test_a_pass_makes_the_power_steps_of_numpy():
    """Algorithm 1 with matrices in float64, in the first passes after the kernel has changed."""
    network, x = spectral_norm(gan_jax.from_linen(Linear(6)), iterations=3), jnp.ones((2, 9))
    params, model_state = jax.jit(network.init)(jax.random.key(0), x)
    matrix = np.random.default_rng(0).normal(size=(9, 6))
    params = {"a": {**params["a"], "kernel": jnp.asarray(matrix, jnp.float32)}}
    v = np.float64(model_state["directions"]["a"])
    for train in (True, True, False):
        for _ in range(3 * train):
            u = v @ matrix / np.linalg.norm(v @ matrix)
            v = matrix @ u / np.linalg.norm(matrix @ u)
        y, model_state = jax.jit(partial(network.apply, train=train))(params, model_state, x)
        np.testing.assert_allclose(model_state["directions"]["a"], v, atol=1e-5)
        sigma = np.linalg.norm(v @ matrix)
        np.testing.assert_allclose(y[0], matrix.sum(0) / sigma, rtol=1e-4)


def test_the_first_estimate_is_within_5_percent():
    """A random kernel has largest singular values that lie close together."""
    network, x = spectral_norm(gan_jax.from_linen(Linear(256))), jnp.ones((2, 256))
    for seed in range(5):
        params, model_state = jax.jit(network.init)(jax.random.key(seed), x)
        kernel = np.asarray(params["a"]["kernel"])
        estimate = np.linalg.norm(model_state["directions"]["a"] @ kernel)
        assert 0.95 < estimate / np.linalg.norm(kernel, 2) < 1 + 1e-5


def test_the_network_is_1_lipschitz(after_training):
    """D's slope is at most the product of the norms, to the accuracy of the estimates.

    This holds because leaky ReLUs have slopes of at most 1.
    """
    discriminator, player, batch = after_training
    normalised = handed_on(discriminator, player, batch.x, False)
    apply = spectral_norm(discriminator).apply
    x = 3 * jax.random.normal(jax.random.key(2), (64, *SHAPE))

    def total(x):
        return jnp.sum(apply(player.params, player.model_state, x, train=False)[0])

    slopes = np.linalg.norm(jax.jit(jax.grad(total))(x).reshape(64, -1), axis=1)
    norms = [largest(f, normalised[name]["kernel"], shape) for name, (f, shape) in OF_LAYER.items()]
    assert 0.01 < slopes.max() < np.prod(norms) < 1.3


@pytest.mark.slow
def test_the_small_networks_of_mode_studies_are_normalised_whole():
    """The layers of these models have norm 1 after 200 passes, by their singular values."""
    gan = small_dcgan((28, 28, 3), latent=4, width=1, discriminator_norm=False)
    key = jax.random.key(0)
    for network, x, inner in (
        (gan.discriminator, jax.random.normal(key, (2, 28, 28, 3)), {"Halved_0": (28, 28, 3)}),
        (gan.generator, jax.random.normal(key, (2, 4)), {"Repainted_0": (28, 28, 1)}),
    ):
        normed = spectral_norm(network)
        params, model_state = jax.jit(normed.init)(key, x)
        model_state = passed(normed, params, model_state, x, 200)
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
    # A convolution with the flipped kernel.
    "Repainted_0": lambda x, k: convolution(x, k[::-1, ::-1].swapaxes(2, 3), 1, "SAME"),
}


def test_only_training_moves_the_directions():
    network, x = spectral_norm(gan_jax.from_linen(Linear())), jnp.ones((2, 9))
    params, before = jax.jit(network.init)(jax.random.key(0), x)
    params = {"a": {**params["a"], "kernel": jax.random.normal(jax.random.key(1), (9, 3))}}
    for train in (False, True):
        y, after = jax.jit(partial(network.apply, train=train))(params, before, x)
        same = np.array_equal(after["directions"]["a"], before["directions"]["a"])
        assert same == (not train)
    # A training pass and an evaluation pass after it divide by the same norm.
    z, _ = jax.jit(partial(network.apply, train=False))(params, after, x)
    np.testing.assert_allclose(y, z, rtol=1e-6)


DCGAN = ("dcgan", (28, 28, 1))


@pytest.mark.slow
@pytest.mark.parametrize("num", [1, 30, 300])
@pytest.mark.parametrize(
    ("name", "shape", "width"), [(*DCGAN, 4), (*DCGAN, 16), ("mlp", (6, 5, 3), 16)]
)
def test_models_have_layers_of_norm_near_1_in_the_midst_of_training(name, shape, width, num):
    """With Adam at 2e-4 the estimate is within 20 % in the first steps, and within 8 % later."""
    options = {"dcgan": {"discriminator_norm": False}, "mlp": {}}[name]
    gan = MODELS[name](shape, latent=4, width=width, **options)
    player, batch = trained(spectrally_normalised(gan), shape, num, seed=num)
    sizes = {"Conv_0": (28, 28, 1), "Conv_1": (14, 14, width)}
    for layer, values in handed_on(gan.discriminator, player, batch.x, False).items():
        kernel = values["kernel"]
        function = (lambda x, k: x @ k) if layer.startswith("Dense") else convolution
        made = largest(function, kernel, sizes.get(layer, kernel.shape[:1]))
        assert 1 - 1e-5 < made < (1.08 if num == 300 else 1.2), layer


class Linear(nn.Module):
    features: int = 3

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.features, name="a")(x)


@pytest.mark.parametrize("train", [True, False])
def test_gradients_are_those_of_equation_12(train):
    """The gradient of <c, x W / <v W, u>> in W, by finite differences with u and v frozen."""
    with jax.enable_x64(True):
        network = spectral_norm(gan_jax.from_linen(Linear()))
        x, c = jax.random.normal(jax.random.key(1), (2, 5)), np.arange(6.0).reshape(2, 3)
        params, model_state = network.init(jax.random.key(0), x)
        # The kernel has changed a lot since the direction was computed.
        params = {
            "a": {"kernel": jax.random.normal(jax.random.key(2), (5, 3)), "bias": jnp.ones(3)}
        }

        def value(params):
            y, after = network.apply(params, model_state, x, train=train)
            return jnp.sum(c * y), after["directions"]["a"]

        made, v = jax.grad(value, has_aux=True)(params)
        kernel, v = np.asarray(params["a"]["kernel"]), np.asarray(v)
        u = v @ kernel / np.linalg.norm(v @ kernel)
        assert v @ kernel @ u < 0.999 * np.linalg.norm(kernel, 2)

        def by_numpy(kernel):
            return np.sum(c * (np.asarray(x) @ kernel / (v @ kernel @ u)))

        steps = 1e-6 * np.eye(15).reshape(15, 5, 3)
        slopes = [(by_numpy(kernel + h) - by_numpy(kernel - h)) / 2e-6 for h in steps]
        np.testing.assert_allclose(
            made["a"]["kernel"], np.reshape(slopes, (5, 3)), rtol=1e-6, atol=1e-8
        )


def test_second_derivatives_are_those_of_equation_12():
    """R1 through a normalised linear D: |w / sigma|^2 and its gradient, by hand."""
    network, x = spectral_norm(gan_jax.from_linen(Linear(1))), jnp.ones((2, 4))
    params, model_state = jax.jit(network.init)(jax.random.key(0), x)

    @jax.jit
    @jax.grad
    def slope(params):
        def total(x):
            return jnp.sum(network.apply(params, model_state, x, train=True)[0])

        return jnp.sum(jnp.square(jax.grad(total)(x))) / 2

    # With one feature sigma is |w|, so the slope has length 1 for any w.
    np.testing.assert_allclose(slope(params)["a"]["kernel"], np.zeros((4, 1)), atol=1e-5)


SMALL = (3,)


def small_step(change=lambda gan: gan, axis_name=None, **options):
    """Returns D's step of an MLP with R1, and a state."""
    gan = change(spectrally_normalised(mlp(SMALL, latent=2, width=5, depth=1)))
    tx = optax.sgd(0.1)
    step = gan_jax.make_discriminator_step(
        gan,
        losses.hinge,
        tx,
        axis_name=axis_name,
        penalties=[(penalties.r1, 0.1)],
        **options,
    )
    batch = Batch(jax.random.normal(jax.random.key(1), (8, *SMALL)))
    return step, gan_jax.init(gan, tx, tx, jax.random.key(0), batch), batch


@pytest.mark.slow
def test_it_composes():
    """Devices and recomputation give the same step.

    Microbatches, bfloat16 and vmap give a similar one.
    """
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
    mesh = jax.sharding.Mesh(jax.devices()[:2], (AXIS_NAME,))
    for check_vma in (True, False):
        sharded = jax.shard_map(
            small_step(axis_name=AXIS_NAME)[0],
            mesh=mesh,
            in_specs=(P(), P(AXIS_NAME)),
            out_specs=P(),
            check_vma=check_vma,
        )
        assert_like(jax.jit(sharded)(state, batch), 1e-5)
    assert_like(jax.jit(small_step(gan_jax.rematerialised)[0])(state, batch), 1e-5)
    in_parts = jax.jit(small_step(accumulate=2)[0])(state, batch)
    assert_like(in_parts, 2e-2)  # the second microbatch sees better estimates than the first
    lowered = jax.jit(small_step(gan_jax.mixed_precision)[0])(state, batch)
    assert_like(lowered, 5e-2)
    assert {leaf.dtype for leaf in jax.tree.leaves(lowered[0].discriminator)} == {
        jnp.dtype("float32"),
        jnp.dtype("int32"),
    }
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    many = jax.jit(jax.vmap(step, in_axes=(0, None)))(states, batch)
    assert_like(jax.tree.map(lambda leaf: leaf[1], many), 1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("train", [True, False])
def test_a_kernel_of_zeros_stays_one(train, dtype):
    """A zero kernel has a finite gradient.

    The direction keeps length 1, so the kernel may grow later.
    """
    network, x = spectral_norm(gan_jax.from_linen(Linear())), jnp.ones((2, 5), dtype)
    params, model_state = jax.jit(network.init)(jax.random.key(0), x)
    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, dtype), params)

    @jax.jit
    def run(params):
        def total(params):
            y, after = network.apply(params, model_state, x, train=train)
            return jnp.sum(y), (y, after)

        return jax.grad(total, has_aux=True)(params)

    slopes, (y, after) = run(zeros)
    np.testing.assert_array_equal(y, np.zeros((2, 3)))
    np.testing.assert_array_equal(slopes["a"]["kernel"], np.full((5, 3), 2.0))
    np.testing.assert_array_equal(after["directions"]["a"], model_state["directions"]["a"])
    assert after["directions"]["a"].dtype == jnp.float32


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_small_and_large_kernels_are_normalised(scale):
    """The squared norms would underflow or overflow, but the iteration does not compute them."""
    network, x = spectral_norm(gan_jax.from_linen(Linear())), jnp.ones((2, 9))
    params, model_state = jax.jit(network.init)(jax.random.key(0), x)
    kernel = np.random.default_rng(0).normal(size=(9, 3))
    params = {"a": {**params["a"], "kernel": jnp.asarray(scale * kernel, jnp.float32)}}
    model_state = passed(network, params, model_state, x, 50)
    y, _ = jax.jit(partial(network.apply, train=False))(params, model_state, x)
    np.testing.assert_allclose(y[0], kernel.sum(0) / np.linalg.norm(kernel, 2), rtol=1e-4)


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = Conv(1)
        return layer(layer(x))


class Embedded(nn.Module):
    """A projection: the dot product of the label's row and the features."""

    attends: bool = False

    @nn.compact
    def __call__(self, x, label):
        features = nn.Dense(4, name="a")(x)
        rows = nn.Embed(6, 4, name="rows")
        return rows.attend(features)[:, 0] if self.attends else jnp.sum(features * rows(label), 1)


@pytest.mark.parametrize("attends", [False, True])
def test_an_embedding_has_norm_1(attends):
    """The norm is a singular value of the matrix [V, F], at any scale."""
    network = gan_jax.from_linen(Embedded(attends))
    x, label = jnp.ones((2, 3)), jnp.array([1, 5])
    seen = []

    def apply(params, *arguments, **options):
        seen.append(params)
        return network.apply(params, *arguments, **options)

    @jax.jit
    def run(key):
        params, model_state = spectral_norm(network).init(key, x, label)
        params = jax.tree.map(lambda leaf: 100 * leaf, params)
        model_state = passed(spectral_norm(network), params, model_state, x, 50, label)
        wrapped = spectral_norm(Network(network.init, apply))
        wrapped.apply(params, model_state, x, label, train=True)
        return params, seen.pop()

    plain, normalised = run(jax.random.key(0))
    for name, parameter in (("rows", "embedding"), ("a", "kernel")):
        before, after = (np.float64(p[name][parameter]) for p in (plain, normalised))
        np.testing.assert_allclose(after, before / np.linalg.norm(before, 2), atol=1e-4)
    assert np.linalg.norm(plain["rows"]["embedding"], 2) > 10


class Recurrent(nn.Module):
    cell: nn.Module

    @nn.compact
    def __call__(self, x):
        carry = self.cell.initialize_carry(jax.random.key(0), x.shape)
        return self.cell(carry, x)[1]


class Wrapped(nn.Module):
    wrapper: type[nn.Module]

    @nn.compact
    def __call__(self, x):
        options = {"update_stats": False} if self.wrapper is nn.SpectralNorm else {}
        return self.wrapper(nn.Dense(3))(x, **options)


class Matrix(nn.Module):
    name_of: str = "W"

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(3)(x)
        return x + self.param(self.name_of, nn.initializers.ones, (2, 3))


class Repeated(nn.Module):
    @nn.compact
    def __call__(self, x):
        many = nn.vmap(
            nn.Dense,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            axis_size=2,
            in_axes=None,
        )
        return many(3, name="many")(x)


VECTOR, IMAGE, SEQUENCE = (3,), (4, 4, 2), (5, 4)
CANNOT = {
    "DenseGeneral": (nn.DenseGeneral(2), VECTOR, "kernel"),
    "Einsum": (nn.Einsum((3, 2), "bi,io->bo"), VECTOR, "kernel"),
    "ConvLocal": (nn.ConvLocal(2, (2, 2)), IMAGE, "kernel"),
    "attention": (nn.MultiHeadDotProductAttention(2), SEQUENCE, "key/kernel, out/kernel"),
    "OptimizedLSTMCell": (Recurrent(nn.OptimizedLSTMCell(2)), VECTOR, "cell/hf/kernel, "),
    "WeightNorm": (Wrapped(nn.WeightNorm), VECTOR, "WeightNorm_0"),
    "SpectralNorm": (Wrapped(nn.SpectralNorm), VECTOR, "SpectralNorm_0"),
    "a matrix": (Matrix(), VECTOR, "W"),
    "several in one": (Repeated(), VECTOR, "many/kernel"),
}
"""A module, the shape of an input, and the parameters that are refused."""

CAN = {
    "LSTMCell": (Recurrent(nn.LSTMCell(2)), VECTOR),
    "PReLU": (nn.Sequential([nn.Dense(3), nn.PReLU()]), VECTOR),
    "a matrix that is a bias": (Matrix("bias"), VECTOR),
    **{
        norm.__name__: (nn.Sequential([nn.Dense(4), norm(**options)]), VECTOR)
        for norm, options in [
            (nn.LayerNorm, {}),
            (nn.RMSNorm, {}),
            (nn.GroupNorm, {"num_groups": 2}),
            (nn.BatchNorm, {"use_running_average": False}),
        ]
    },
}
"""Networks in which every matrix is normalised."""


def start(module, shape):
    network = spectral_norm(gan_jax.from_linen(module))
    return jax.eval_shape(network.init, jax.random.key(0), jnp.ones((2, *shape)))


@pytest.mark.parametrize("name", CANNOT)
def test_layers_that_cannot_be_normalised_are_refused_by_name(name):
    module, shape, parameters = CANNOT[name]
    with pytest.raises(ValueError, match=f"found {parameters}.* but can normalise only"):
        start(module, shape)


@pytest.mark.parametrize("name", CAN)
def test_vectors_biases_and_scales_are_let_through(name):
    params, model_state = start(*CAN[name])
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    kernels = {"/".join(e.key for e in path[:-1]) for path in paths if path[-1].key == "kernel"}
    assert model_state["directions"].keys() == kernels


def test_a_generator_of_several_noises_is_normalised():
    class OfTwo(nn.Module):
        @nn.compact
        def __call__(self, z):
            return nn.Dense(3, name="a")(z["noise"]) + nn.Dense(3, name="b")(z["code"])

    z = {"noise": jnp.ones((2, 4)), "code": jnp.ones((2, 5))}
    network = spectral_norm(gan_jax.from_linen(OfTwo()))

    def made(key):
        params, model_state = network.init(key, z)
        return params, network.apply(params, model_state, z, train=True)[0]

    params, y = jax.jit(made)(jax.random.key(0))
    kernels = [np.float64(params[name]["kernel"]) for name in "ab"]
    expected = sum(kernel.sum(0) / np.linalg.norm(kernel, 2) for kernel in kernels)
    np.testing.assert_allclose(y[0], expected, rtol=1e-3)


def test_what_is_refused(linear_gan):
    twice = gan_jax.from_linen(Twice())
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        spectrally_normalised(linear_gan, iterations=0)
    with pytest.raises(ValueError, match="found no layer, but can normalise"):
        spectral_norm(linear_gan.discriminator).init(jax.random.key(0), jnp.ones((2, 2)))
    another = gan_jax.from_linen(nn.Sequential([nn.Dense(3), nn.DenseGeneral(2)]))
    with pytest.raises(ValueError, match="found layers_1/kernel, but can normalise"):
        spectral_norm(another).init(jax.random.key(0), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"'Conv_0' is used on .* \(8, 8, 1\) and \(4, 4, 1\)"):
        spectral_norm(twice).init(jax.random.key(0), jnp.ones((2, *SHAPE)))

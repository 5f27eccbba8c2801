"""Residual blocks and SNGAN against NumPy, hand counts and singular values."""

from functools import partial
from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from gan_jax import Batch, Network, losses, penalties
from gan_jax.models.biggan import biggan
from gan_jax.models.sngan import sngan
from gan_jax.networks.spectral import spectral_norm
from gan_jax.nn import BatchNorm
from gan_jax.nn.residual import Conv3, DownBlock, ResidualDiscriminator, UpBlock

pytestmark = pytest.mark.usefixtures("quick_compile")

RNG = np.random.default_rng(0)
LABEL = jnp.array([2, 0, 1])


# NumPy's forms of the operations, in the order of the paper


def convolved(x, kernel, bias=0.0):
    """Returns the convolution of stride 1 that keeps the size, as a sum over the window."""
    (height, width), (rows, columns) = x.shape[1:3], kernel.shape[:2]
    margin = [(0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)]
    x = np.pad(x, margin)
    return bias + sum(
        x[:, i : i + height, j : j + width] @ kernel[i, j]
        for i in range(rows)
        for j in range(columns)
    )


def doubled(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def halved(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def relu(x):
    return np.maximum(x, 0)


def random_like(tree):
    """Returns the tree with random numbers, so that no bias or scale has a special value."""
    return jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape), leaf.dtype), tree)


def played(module, x, *arguments, **options):
    """Returns a module's result for random parameters, and the parameters as NumPy arrays."""
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), jnp.asarray(x), *arguments, **options)
    )
    params = random_like(shapes["params"])
    variables = {"params": params, "batch_stats": shapes.get("batch_stats", {})}
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), variables)
    variables["params"] = params
    y, _ = jax.jit(partial(module.apply, mutable=["batch_stats"], **options))(
        variables, jnp.asarray(x, jnp.float32), *arguments
    )
    return y, jax.tree.map(np.float64, params)


@pytest.mark.parametrize("resize", [None, "double", "halve"])
def test_a_convolution_that_resizes_is_two_operations(resize):
    x = RNG.normal(size=(2, 4, 6, 2))
    y, params = played(Conv3(3, resize), x)
    if resize == "double":
        x = doubled(x)
    expected = convolved(x, params["kernel"], params["bias"][0])
    if resize == "halve":
        expected = halved(expected)
    np.testing.assert_allclose(y, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("halve", "features", "first", "hidden"),
    [(True, 3, True, None), (False, 3, False, 5), (False, 2, False, None)],
)
def test_a_block_of_d_is_the_papers(halve, features, first, hidden):
    init = nn.initializers.ones
    x = RNG.normal(size=(2, 4, 6, 2))
    y, p = played(DownBlock(features, halve, init, init, hidden, first), x)

    def layer(name, x):
        return convolved(x, p[name]["kernel"], p[name]["bias"][0])

    assert p["Conv3_0"]["kernel"].shape[-1] == (hidden or features)
    h = layer("Conv3_1", relu(layer("Conv3_0", x if first else relu(x))))
    shortcut = layer("Conv_0", x) if halve or features != 2 else x
    expected = halved(h) + halved(shortcut) if halve else h + shortcut
    np.testing.assert_allclose(y, expected, atol=2e-3)


def test_a_block_of_g_is_the_papers():
    """With conditional batch norm: statistics of all classes, and scale and bias of each class."""
    init = nn.initializers.ones
    x = RNG.normal(size=(3, 2, 3, 2))
    y, p = played(UpBlock(4, partial(BatchNorm, 3), init, init), x, LABEL, train=True)

    def norm(name, x):
        x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
        scale, bias = (p[name]["BatchNorm_0"][part][LABEL] for part in ("scale", "bias"))
        return x * scale[:, None, None] + bias[:, None, None]

    def layer(name, x):
        return convolved(x, p[name]["kernel"], p[name]["bias"][0])

    h = layer("Conv3_0", doubled(relu(norm("BatchNorm_0", x))))
    h = layer("Conv3_1", relu(norm("BatchNorm_1", h)))
    np.testing.assert_allclose(y, h + layer("Conv_0", doubled(x)), atol=2e-3)


# Spectral norm of reshaped kernels


class EveryLayer(nn.Module):
    @nn.compact
    def __call__(self, x, label):
        for resize in ("double", "halve"):
            x = nn.relu(Conv3(2, resize)(x))
        x = nn.Dense(4)(x.reshape(x.shape[0], -1))
        return jnp.sum(x * nn.Embed(3, 4)(label), axis=1)


def handed_on(network, params, model_state, x, label, **options):
    """Returns the parameters that the inner network gets in an evaluation pass."""
    seen = []

    def apply(params, *arguments, **options):
        seen.append(params)
        return network.apply(params, *arguments, **options)

    @jax.jit
    def normalised(params, model_state):
        wrapped = spectral_norm(Network(network.init, apply), **options)
        wrapped.apply(params, model_state, x, label, train=False)
        return seen.pop()

    return normalised(params, model_state)


def assert_norms_are(made, plain, norm, embeddings=True):
    """Checks every matrix of a tree: `made` is `plain` divided by a number, and has the norm."""
    for (path, a), b in zip(
        jax.tree_util.tree_flatten_with_path(made)[0], jax.tree.leaves(plain), strict=True
    ):
        name = path[-1].key
        if name == "kernel" or (name == "embedding" and embeddings):
            a, b = (np.float64(leaf).reshape(-1, leaf.shape[-1]) for leaf in (a, b))
            assert abs(np.linalg.norm(b, 2) - 1) > 1e-3, "nothing to normalise"
            np.testing.assert_allclose(np.linalg.norm(a, 2), norm, rtol=2e-2, err_msg=str(path))
            np.testing.assert_allclose(a * np.linalg.norm(b) / np.linalg.norm(a), b, atol=1e-4)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("embeddings", [pytest.param(True, marks=pytest.mark.slow), False])
def test_reshaped_kernels_have_norm_1(embeddings):
    network, x = gan_jax.from_linen(EveryLayer()), jnp.ones((3, 4, 4, 3))
    options = {"as_matrix": True, "embeddings": embeddings}
    params, state = jax.jit(spectral_norm(network, **options).init)(jax.random.key(0), x, LABEL)
    names = {"Conv3_0", "Conv3_1", "Dense_0", *(["Embed_0"] if embeddings else [])}
    assert set(state["directions"]) == names
    made = handed_on(network, params, state, x, LABEL, **options)
    assert_norms_are(made, params, 1, embeddings)


# SNGAN


def variables(gan, shape, labels, latent=128):
    label = None if labels is None else jnp.zeros(2, int)
    return [
        jax.eval_shape(lambda n=n, s=s: n.init(jax.random.key(0), jnp.zeros((2, *s)), label))
        for n, s in ((gan.generator, (latent,)), (gan.discriminator, shape))
    ]


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def dense(i, o):
    return i * o + o


def conv3(i, o):
    return 9 * i * o + o


@pytest.mark.parametrize(
    ("shape", "labels", "g", "d", "down"),
    [
        ((32, 32, 3), 10, [256] * 4, [128] * 4, 2),
        pytest.param((28, 56, 1), None, [256] * 3, [128] * 4, 2, marks=pytest.mark.slow),
        pytest.param(
            (48, 48, 3),
            None,
            [512, 256, 128, 64],
            [64, 128, 256, 512, 1024],
            4,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (64, 64, 3),
            5,
            [1024, 512, 256, 128, 64],
            [64, 128, 256, 512, 1024],
            4,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_parameters_are_those_of_the_tables(shape, labels, g, d, down):
    """Tables 4 and 5 of Miyato et al. 2018, counted by hand."""
    doublings = len(g) - 1
    start = (shape[0] // 2**doublings) * (shape[1] // 2**doublings)
    expected_g = dense(128, start * g[0]) + 2 * g[-1] + conv3(g[-1], shape[-1])
    for i, o in pairwise(g):
        norms = 2 * (labels or 1) * (i + o)
        expected_g += norms + conv3(i, o) + conv3(o, o) + dense(i, o)
    expected_d = conv3(shape[-1], d[0]) + conv3(d[0], d[0]) + dense(shape[-1], d[0])
    for n, (i, o) in enumerate(pairwise(d)):
        changes = n + 1 < down or i != o
        expected_d += conv3(i, i) + conv3(i, o) + (dense(i, o) if changes else 0)
    expected_d += dense(d[-1], 1) + (labels or 0) * d[-1]
    of_g, of_d = variables(sngan(shape, num_classes=labels), shape, labels)
    assert (count(of_g[0]), count(of_d[0])) == (expected_g, expected_d)
    paths = jax.tree_util.tree_flatten_with_path(of_d[0])[0]
    matrices = {p[:-1] for p, _ in paths if p[-1].key in ("kernel", "embedding")}
    names = {"/".join(part.key for part in path) for path in matrices}
    assert set(of_d[1]["directions"]) == names
    assert ("Embed_0" in names) == (labels is not None)


@pytest.mark.parametrize("model", [sngan, biggan])
@pytest.mark.parametrize("shape", [(7, 7, 1), (30, 30, 1), (36, 36, 3), (32, 36, 3)])
def test_sizes_that_cannot_be_halved_are_refused(model, shape):
    sides = f"{shape[0]}x{shape[1]}"
    with pytest.raises(ValueError, match=f"{model.__name__} takes images of .* got {sides}: res"):
        model(shape)


@pytest.mark.slow
def test_initial_weights_are_glorots():
    """Uniform numbers with the variance 2 gain^2 / (fan in + fan out), to 5 standard errors."""
    shape = (8, 8, 3)
    gan = sngan(shape, width=16)
    for network, x in (
        (gan.generator, jnp.ones((2, 128))),
        (gan.discriminator, jnp.ones((2, *shape))),
    ):
        params, _ = jax.jit(network.init)(jax.random.key(0), x)
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
            names = [part.key for part in path]
            if names[-1] == "kernel":
                fans = leaf[0, 0].shape if leaf.ndim == 4 else leaf.shape
                window = leaf.size // np.prod(fans)
                gain = 2.0 if names[-2].startswith("Conv3") and len(names) == 3 else 1.0
                variance = 2 * gain / (window * sum(fans))
                np.testing.assert_allclose(
                    np.var(leaf), variance, rtol=5 * np.sqrt(0.8 / leaf.size), err_msg=str(names)
                )
                assert np.abs(leaf).max() <= np.sqrt(3 * variance)
            else:
                assert (leaf == (names[-1] == "scale")).all()


@pytest.mark.slow
@pytest.mark.parametrize("labels", [None, 3])
@pytest.mark.parametrize("model", [sngan, biggan])
def test_a_step_with_r1_on_images_that_are_not_square(model, labels):
    """Everything is finite, every kernel moves, and samples of two labels differ."""
    shape = (8, 16, 2)
    gan, tx = model(shape, latent=6, width=2, num_classes=labels), optax.adam(0.1)
    label = None if labels is None else jnp.array([0, 1, 2, 1])
    batch = Batch(jax.random.uniform(jax.random.key(1), (4, *shape), minval=-1.0), label)
    algorithm = gan_jax.adversarial(
        gan,
        losses.hinge,
        generator_tx=tx,
        discriminator_tx=tx,
        penalties=[(penalties.r1, 1.0)],
    )
    before = jax.jit(algorithm.init)(jax.random.key(0), batch)
    step, after = jax.jit(algorithm.step), before
    for _ in range(2):  # attention moves after its factor
        after, metrics = step(after, jax.tree.map(lambda leaf: leaf[None], batch))
    for leaf in jax.tree.leaves((after.replace(key=0), metrics)):
        assert np.isfinite(leaf).all()
    for role in ("generator", "discriminator"):
        old, new = (
            jax.tree_util.tree_flatten_with_path(getattr(state, role).params)[0]
            for state in (before, after)
        )
        for (path, a), (_, b) in zip(old, new, strict=True):
            assert path[-1].key != "kernel" or (a != b).any(), path
    z = jnp.tile(gan.prior(jax.random.key(2), 1), (2, 1))
    of = None if labels is None else jnp.array([0, 2])
    x, _ = jax.jit(partial(gan.generator.apply, train=False))(
        after.generator.params, after.generator.model_state, z, of
    )
    assert x.shape == (2, *shape)
    assert np.abs(x).max() <= 1
    assert (labels is None) == np.array_equal(x[0], x[1])


@pytest.mark.slow
@pytest.mark.parametrize("model", [sngan, biggan])
def test_every_layer_of_d_has_norm_1(model):
    shape, label = (8, 8, 3), jnp.array([0, 1])
    gan = model(shape, width=4, latent=6, num_classes=3)
    params, state = jax.jit(gan.discriminator.init)(jax.random.key(0), jnp.ones((2, *shape)), label)
    params = random_like(params)

    @jax.jit
    def passes(state):
        def one(state, _):
            x = jnp.ones((2, *shape))
            return gan.discriminator.apply(params, state, x, label, train=True)[1], None

        return jax.lax.scan(one, state, length=100)[0]

    wide = model is biggan
    inner = ResidualDiscriminator(
        (16 if wide else 8,) * 4,
        1,
        3,
        "projection",
        nn.initializers.ones,
        nn.initializers.ones,
        wide=wide,
        attention=wide,
    )
    x = jnp.ones((2, *shape))
    made = handed_on(gan_jax.from_linen(inner), params, passes(state), x, label, as_matrix=True)
    assert_norms_are(made, params, 1)

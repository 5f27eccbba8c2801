"""BigGAN, its attention and its modulated batch norm against NumPy and published counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sngan import count, played, variables

from gan_jax.models.biggan import biggan
from gan_jax.nn.attention import SelfAttention
from gan_jax.nn.norms import ModulatedBatchNorm

pytestmark = pytest.mark.usefixtures("quick_compile")

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(5, 4)])
def test_attention_is_a_weighted_mean_of_pooled_pixels(shape):
    """Pixel by pixel in float64. An odd last row has no values, but attends."""
    x = RNG.normal(size=(2, *shape, 16))
    y, p = played(SelfAttention(), x)
    query, key, value, out = (p[name]["kernel"][0, 0] for name in ("query", "key", "value", "out"))
    assert (query.shape, key.shape, value.shape) == ((16, 2), (16, 2), (16, 8))
    for image, made in zip(x, y, strict=True):
        squares = [
            image[i : i + 2, j : j + 2].reshape(4, 16)
            for i in range(0, shape[0] - 1, 2)
            for j in range(0, shape[1] - 1, 2)
        ]
        keys, values = (np.stack([(s @ w).max(0) for s in squares]) for w in (key, value))
        for i, row in enumerate(image):
            for j, pixel in enumerate(row):
                weights = np.exp(keys @ (pixel @ query))
                seen = weights @ values / weights.sum()
                expected = pixel + p["gamma"] * (seen @ out)
                np.testing.assert_allclose(made[i, j], expected, atol=1e-3)


def test_modulated_batch_norm_is_linear_in_the_condition():
    x, condition = RNG.normal(3, 2, size=(3, 2, 2, 4)), jnp.asarray(RNG.normal(size=(3, 5)))
    condition = condition.astype(jnp.float32)
    y, p = played(ModulatedBatchNorm(), x, condition, train=True)
    scale, bias = (np.asarray(condition) @ p[name]["kernel"] for name in ("scale", "bias"))
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    expected = x * (1 + scale)[:, None, None] + bias[:, None, None]
    np.testing.assert_allclose(y, expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "options", "expected"),
    [
        # ImageNet, 128 pixels, width 96: compare_gan's test of its resnet_biggan.
        (128, {"num_classes": 1000, "width": 96}, (70_433_988, 87_982_370)),
        # The same with width 64: ajbrock's BigGAN-PyTorch. Its count of G omits the embedding.
        (128, {"num_classes": 1000, "width": 64}, (31_850_628 + 128 * 1000, 39_448_258)),
    ],
)
def test_parameters_are_those_of_the_published_code(side, options, expected):
    of_g, of_d = variables(
        biggan((side, side, 3), **options), (side, side, 3), options["num_classes"], latent=120
    )
    assert (count(of_g[0]), count(of_d[0])) == expected


@pytest.mark.slow
def test_cifar_sizes_without_attention():
    """D has the parameters of BigGAN-PyTorch's D for CIFAR-10, with 256 features in each layer."""
    gan = biggan((32, 32, 3), num_classes=10, attention=False)
    of_g, of_d = variables(gan, (32, 32, 3), 10, latent=120)
    conv, shortcut = 9 * 256**2 + 256, 256**2 + 256
    first = (27 * 256 + 256) + conv + (3 * 256 + 256)
    assert count(of_d[0]) == first + 6 * conv + shortcut + 257 + 10 * 256
    norms = 6 * 2 * 256 * (128 + 30) + 2 * 256
    ends = 30 * 4096 + 4096 + 10 * 128 + 27 * 256 + 3
    assert count(of_g[0]) == 6 * conv + 3 * shortcut + norms + ends
    assert "Embed_0" in of_d[1]["directions"]
    assert "Embed_0" not in of_g[1]["directions"]
    assert "UpBlock_2/ModulatedBatchNorm_1/scale" in of_g[1]["directions"]


def test_a_latent_too_short_to_cut_is_refused():
    with pytest.raises(ValueError, match="z into 4 chunks, got latent=3: use at least 4 dim"):
        biggan((32, 32, 3), latent=3)


@pytest.mark.slow
def test_initial_kernels_are_orthogonal_and_attention_is_off():
    shape = (8, 8, 3)
    gan, label = biggan(shape, width=4, latent=6, num_classes=3), jnp.zeros(2, int)
    of_g, of_d = (
        jax.jit(network.init)(jax.random.key(0), jnp.ones((2, *example)), label)[0]
        for network, example in ((gan.generator, (6,)), (gan.discriminator, shape))
    )
    assert of_d["SelfAttention_0"]["gamma"] == 0
    of_d.pop("Embed_0")  # D divides it by its norm
    kernels = [
        leaf.reshape(-1, leaf.shape[-1])
        for path, leaf in jax.tree_util.tree_flatten_with_path((of_g, of_d))[0]
        if path[-1].key in ("kernel", "embedding")
    ]
    assert len(kernels) > 20
    for kernel in kernels:
        np.testing.assert_allclose(np.linalg.svd(kernel, compute_uv=False), 1, atol=1e-5)

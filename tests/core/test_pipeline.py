"""The stream of training images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.data.pipeline import dequantize, make_batches, order, quantize
from gan_jax.data.types import Dataset

KEY = jax.random.key(0)
COUNT = 7


def stream(key, start, num):
    return order(np.asarray(jax.random.key_data(key)).tolist(), start, num, COUNT)


def test_every_epoch_is_a_permutation_of_its_own():
    epochs = stream(KEY, 0, 5 * COUNT).reshape(5, COUNT)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(COUNT), (5, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 5


@pytest.mark.parametrize("num", [1, 3, COUNT, COUNT + 1, 3 * COUNT])
def test_a_stream_is_the_same_however_it_is_cut(num):
    whole = stream(KEY, 0, 6 * COUNT)
    for start in range(6 * COUNT - num + 1):
        np.testing.assert_array_equal(stream(KEY, start, num), whole[start : start + num])


def test_every_permutation_is_as_likely():
    """Chi-squared of the 24 of four examples over 4,800 epochs, at five standard deviations."""
    epochs = order([0, 1], 0, 4 * 4800, 4).reshape(-1, 4)
    counts = np.unique(epochs, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert np.square(counts - 200.0).sum() / 200 < 23 + 5 * np.sqrt(2 * 23)


def test_another_key_is_another_order():
    assert (stream(KEY, 0, 5 * COUNT) != stream(jax.random.key(1), 0, 5 * COUNT)).any()


@pytest.mark.parametrize("label", [None, np.arange(COUNT, dtype=np.int32)])
@pytest.mark.parametrize("limit", [0, 2**30], ids=["host", "resident"])
def test_batches_are_the_images_in_the_order_of_the_stream(label, limit):
    x = np.random.default_rng(0).integers(0, 256, (COUNT, 2, 3, 1), dtype=np.uint8)
    batches = make_batches(
        Dataset(x, label, "noise", "idx", x[:0]), KEY, (2, 3), resident_limit=limit
    )
    for start in (0, 6, 12):
        batch, index = batches(start), stream(KEY, start, 6).reshape(2, 3)
        np.testing.assert_array_equal(batch.x, x[index])
        assert batch.x.dtype == np.uint8
        assert isinstance(batch.x, jax.Array if limit else np.ndarray)
        if label is None:
            assert batch.label is None
        else:
            np.testing.assert_array_equal(batch.label, index)


def test_pixels_survive_the_way_to_floats_and_back():
    pixels = np.arange(256, dtype=np.uint8)
    floats = dequantize(jnp.asarray(pixels))
    np.testing.assert_allclose(floats, np.linspace(-1, 1, 256), atol=1e-6)
    np.testing.assert_array_equal(quantize(floats), pixels)


def test_floats_beyond_the_range_are_clipped():
    np.testing.assert_array_equal(quantize(jnp.array([-7.0, -1.0, 1.0, 7.0])), [0, 0, 255, 255])
    np.testing.assert_array_equal(quantize(jnp.array([jnp.nan, -jnp.inf, jnp.inf])), [0, 0, 255])


def test_each_conversion_takes_its_own_type():
    with pytest.raises(
        TypeError, match=r"dequantize takes uint8 images in \[0, 255\], got float32"
    ):
        dequantize(jnp.zeros(3))
    with pytest.raises(TypeError, match=r"quantize takes floats in \[-1, 1\], got uint8"):
        quantize(jnp.zeros(3, jnp.uint8))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_floats_are_rounded_once(dtype):
    x = jnp.linspace(-1, 1, 4001).astype(dtype)
    expected = np.round((np.asarray(x, np.float64) + 1) * 127.5)
    assert np.abs(np.asarray(quantize(x), int) - expected).max() <= 0


def dataset(count: int, labels: int | None = None) -> Dataset:
    x = np.zeros((count, 2, 2, 1), np.uint8)
    label = None if labels is None else np.zeros(labels, np.int32)
    return Dataset(x, label, "noise", "idx", x[:0])


@pytest.mark.parametrize("limit", [0, 2**30], ids=["host", "resident"])
def test_batches_that_cannot_be_made(limit):
    for data, shape, message in (
        (dataset(0), (2,), "the data set noise has no images"),
        (dataset(3), (2, 0), r"dimensions of 1 or more, got \(2, 0\)"),
        (dataset(3), (-1, -2), r"dimensions of 1 or more, got \(-1, -2\)"),
        (dataset(3, labels=2), (2,), "3 images, but 2 labels"),
    ):
        with pytest.raises(ValueError, match=message):
            make_batches(data, KEY, shape, resident_limit=limit)
    with pytest.raises(ValueError, match="start=-1"):
        make_batches(dataset(3), KEY, (2,), resident_limit=limit)(-1)

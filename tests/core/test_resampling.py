"""Resampling of images against SciPy's upfirdn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import upfirdn

from gan_jax.nn.resampling import downsample, upsample

FILTER = np.array([1, 3, 3, 1]) / 8


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (8, 5)])
def test_upsample_is_zero_insertion_and_a_filter_of_gain_4(size):
    y = x = images(2, *size, 3)
    for axis in (1, 2):
        y = 2 * upfirdn(FILTER, y, up=2, axis=axis)
        y = np.take(y, range(1, y.shape[axis] - 1), axis)
    np.testing.assert_allclose(upsample(x), y, atol=1e-6)


@pytest.mark.parametrize("size", [(2, 2), (6, 4), (8, 14)])
def test_downsample_is_a_filter_of_gain_1_and_every_second_pixel(size):
    y = x = images(2, *size, 3)
    for axis in (1, 2):
        y = upfirdn(FILTER, y, axis=axis)
        y = np.take(y, range(2, y.shape[axis] - 2, 2), axis)
    np.testing.assert_allclose(downsample(x), y, atol=1e-6)


def test_each_gradient_is_the_other_map():
    """upfirdn's transpose is a filter of the same, symmetric weights, so gains alone differ."""
    small, large = images(2, 3, 5, 2), images(2, 6, 10, 2)
    pull = jax.jit(lambda f, x, ct: jax.vjp(f, x)[1](ct)[0], static_argnums=0)
    np.testing.assert_allclose(pull(upsample, small, large), 4 * downsample(large), atol=1e-5)
    np.testing.assert_allclose(pull(downsample, large, small), upsample(small) / 4, atol=1e-5)


def test_resampling_keeps_narrow_types_and_maps():
    narrow = jnp.asarray(images(2, 1, 2, 4, 1), jnp.bfloat16)
    for resample, size in ((upsample, (4, 8)), (downsample, (1, 2))):
        y = jax.vmap(resample)(narrow)
        assert y.dtype == jnp.bfloat16
        assert y.shape == (2, 1, *size, 1)


def test_downsample_refuses_odd_sizes():
    with pytest.raises(ValueError, match="even height and width, got 7x4"):
        downsample(images(1, 7, 4, 1))

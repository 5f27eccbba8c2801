"""DiffAugment against the changes recovered from its own results, and by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from gan_jax.augment import diff_augment

pytestmark = pytest.mark.usefixtures("quick_compile")

NUM = 1000


def drawn(x, policy):
    keys = jax.random.split(jax.random.key(0), NUM)
    return np.asarray(jax.jit(jax.vmap(lambda key: diff_augment(key, x, policy=(policy,))))(keys))


def test_colour_moves_the_mean_and_scales_the_deviations_from_it():
    x = np.asarray(jax.random.normal(jax.random.key(1), (4, 5, 3)))
    y = drawn(x, "colour")
    grey, greys = x.mean(axis=-1), y.mean(axis=-1)
    brightness = y.mean(axis=(1, 2, 3)) - x.mean()
    contrast = np.ptp(greys, axis=(1, 2)) / np.ptp(grey)
    saturation = np.ptp(y[:, 0, 0], axis=-1) / np.ptp(x[0, 0]) / contrast
    for found, low, width in ((brightness, -0.5, 1), (contrast, 0.5, 1), (saturation, 0, 2)):
        assert stats.kstest(found, "uniform", args=(low, width)).pvalue > 0.01
    c, s, b = (each[:, None, None, None] for each in (contrast, saturation, brightness))
    saturated = s * (x - grey[..., None]) + grey[..., None]
    np.testing.assert_allclose(y, c * (saturated - x.mean()) + x.mean() + b, atol=1e-5)


def test_a_grey_image_has_no_saturation():
    x = jnp.linspace(-1.0, 1.0, 16).reshape(4, 4, 1)
    y = drawn(x, "colour")
    slopes = np.diff(y.reshape(NUM, -1), axis=1) / np.diff(np.ravel(x))[None]
    np.testing.assert_allclose(slopes, slopes[:, :1] + 0 * slopes, atol=1e-4)
    assert 0.5 <= slopes.min() < 0.51 < 1.49 < slopes.max() <= 1.5


def test_translations_are_scipys_and_all_alike_often():
    """An eighth of 12 and of 20 is 1.5 and 2.5, rounded up."""
    x = np.asarray(jax.random.uniform(jax.random.key(1), (12, 20, 2), minval=0.5))
    y = drawn(x, "translation")
    expected = {
        (dy, dx): ndimage.shift(x, (dy, dx, 0), order=0)
        for dy in range(-2, 3)
        for dx in range(-3, 4)
    }
    counts = [(y == e).all(axis=(1, 2, 3)).sum() for e in expected.values()]
    assert sum(counts) == NUM
    assert stats.chisquare(counts).pvalue > 0.01


def test_cutouts_are_squares_around_each_place_alike_often():
    """The rectangle is 4 x 3. Its centre is a pixel, or past the end where the side is even."""
    y = drawn(jnp.ones((8, 6, 1)), "cutout")[..., 0]
    masks = []
    for a in range(9):  # the side 4 is even, so its centre may be on the far edge
        for b in range(6):  # the side 3 is odd
            mask = np.ones((8, 6))
            mask[max(a - 2, 0) : a + 2, max(b - 1, 0) : b + 2] = 0
            masks.append(mask)
    counts = [(y == mask).all(axis=(1, 2)).sum() for mask in masks]
    assert sum(counts) == NUM
    assert stats.chisquare(counts).pvalue > 0.01


def test_it_keeps_types_and_refuses_what_it_does_not_know():
    key, x = jax.random.key(0), jnp.ones((4, 4, 1), jnp.bfloat16)
    assert jax.eval_shape(diff_augment, key, x) == jax.eval_shape(lambda: x)
    with pytest.raises(ValueError, match=r"policy must be .* colour, translation, cutout, got"):
        diff_augment(key, x, policy=("color",))
    with pytest.raises(ValueError, match="one image"):
        diff_augment(key, x[0])

"""Mode coverage, by hand and for a perfect sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gan_jax.data import synthetic
from gan_jax.metrics.modes import class_coverage, expected_reverse_kl, mode_coverage

pytestmark = pytest.mark.usefixtures("quick_compile")

MODES = jnp.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])


def test_by_hand():
    """With scale 1, mode one has two near samples, mode two one far sample, and mode three none."""
    x = jnp.array([[0.0, 1.0], [2.9, -0.5], [1.5, 0.0], [7.5, 0.0]])
    made = mode_coverage(x[jnp.array([0, 2, 3])], MODES, 1.0)
    assert made.captured == 1
    np.testing.assert_allclose(made.high_quality, 2 / 3, rtol=1e-6)
    expected = 2 / 3 * np.log(3 * 2 / 3) + 1 / 3 * np.log(3 / 3)
    np.testing.assert_allclose(made.reverse_kl, expected, rtol=1e-5)
    np.testing.assert_allclose(made.width, np.sqrt((1 + 2.25) / 2 / 2), rtol=1e-6)
    found = mode_coverage(x, MODES, 1.0)
    assert found.captured == 2
    assert found.narrowest == 0  # the third mode has no sample
    found = mode_coverage(x, MODES[:2], 1.0)
    np.testing.assert_allclose(found.narrowest, np.sqrt((1.1**2 + 0.5**2) / 2), rtol=1e-6)
    np.testing.assert_allclose(found.widest, np.sqrt((1 + 2.25) / 2 / 2), rtol=1e-6)
    # With these scales, [0, 1] and [1.5, 0] are two and three scales from their modes.
    made = mode_coverage(x, MODES, jnp.array([0.5, 0.1, 1.0]))
    assert made.captured == 1
    np.testing.assert_allclose(made.high_quality, 2 / 4, rtol=1e-6)
    np.testing.assert_allclose(made.width, np.sqrt((4 + 9) / 2 / 2), rtol=1e-6)


def test_a_sample_belongs_to_the_mode_that_is_nearest_in_its_own_deviations():
    """It is 1.2 deviations from the first mode, and 8 from the second, whose centre is nearer."""
    made = mode_coverage(
        jnp.array([[1.2, 0.0]]), jnp.array([[0.0, 0.0], [2.0, 0.0]]), np.array([1.0, 0.1])
    )
    assert (made.captured, made.high_quality) == (1, 1)
    np.testing.assert_allclose(made.width, 1.2 / np.sqrt(2), rtol=1e-6)


def test_all_in_one_mode():
    made = mode_coverage(jnp.zeros((10, 2)), MODES, 1.0)
    assert (made.captured, made.high_quality) == (1, 1.0)
    np.testing.assert_allclose(made.reverse_kl, np.log(3), rtol=1e-6)


def test_samples_of_no_quality_capture_nothing():
    made = mode_coverage(jnp.full((5, 2), 50.0), MODES, 1.0)
    assert (made.captured, made.high_quality, made.width) == (0, 0.0, 0.0)


def test_a_perfect_sampler():
    """A share of 98.89 % lies within three standard deviations.

    The mean KL at 2,500 samples is .0014.
    """
    ring = synthetic.ring()
    keys = jax.random.split(jax.random.key(0), 40)
    measured = jax.vmap(
        lambda key: mode_coverage(ring.sample(key, 2500), jnp.asarray(ring.modes), 0.01)
    )(keys)
    assert (np.asarray(measured.captured) == 8).all()
    error = np.sqrt(0.9889 * 0.0111 / (40 * 2500))
    assert np.mean(measured.high_quality) == pytest.approx(1 - np.exp(-4.5), abs=4 * error)
    # A Gaussian radius in the plane, cut off at 3, has the mean square 2 - 9 / (e^4.5 - 1).
    expected = np.sqrt(1 - 4.5 / (np.exp(4.5) - 1))
    assert np.mean(measured.width) == pytest.approx(expected, abs=0.005)
    # The KL of a histogram of N over K equal modes has mean (K - 1) / 2N, with chi-squared spread.
    floor, error = 7 / 5000, np.sqrt(14) / 5000 / np.sqrt(40)
    assert np.mean(measured.reverse_kl) == pytest.approx(floor, abs=4 * error)


def test_classes_are_counted_as_numpy_and_scipy_count_them():
    label = np.random.default_rng(0).zipf(1.5, 200) % 50
    made = class_coverage(jnp.asarray(label), 50)
    assert made.captured == len(set(label.tolist())) < 50
    expected = scipy.stats.entropy(np.bincount(label, minlength=50), np.full(50, 1 / 50))
    np.testing.assert_allclose(made.reverse_kl, expected, rtol=1e-5)


@pytest.mark.parametrize(("num", "samples"), [(8, 2500), (1000, 26_000)])
def test_what_a_perfect_sampler_is_to_expect(num, samples):
    """The exact value is a binomial sum.

    The function is first order in 1 / N, and the second is known.
    """
    count = np.arange(1, samples + 1)
    terms = count / samples * np.log(num * count / samples)
    exact = num * np.sum(scipy.stats.binom.pmf(count, samples, 1 / num) * terms)
    second = (num**2 - 1) / (12 * samples**2)
    assert exact - expected_reverse_kl(num, samples) == pytest.approx(second, rel=0.2)


@pytest.mark.parametrize(
    ("label", "num", "error", "match"),
    [
        (jnp.array([0, 3]), 3, ValueError, r"label must be in 0..2 for num=3 classes, got 0..3"),
        (np.array([-1, 2]), 3, ValueError, "got -1..2"),
        (jnp.array([0.0, 1.0]), 3, TypeError, "integers, got float32"),
        (jnp.array([[0, 1]]), 3, ValueError, r"label must be \[N\].*\[1, 2\]"),
        (jnp.zeros(0, int), 3, ValueError, "N >= 1"),
        (jnp.array([0]), 0, ValueError, "num, the number of classes, must be at least 1"),
    ],
)
def test_labels_that_are_no_classes_are_refused(label, num, error, match):
    with pytest.raises(error, match=match):
        class_coverage(label, num)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_labels_out_of_range_show_under_jit(wrong):
    made = jax.jit(class_coverage, static_argnums=1)(jnp.array([0, 0, wrong]), 3)
    assert made.captured == 1
    assert jnp.isnan(made.reverse_kl)


@pytest.mark.parametrize(
    ("x", "modes", "scale", "within", "match"),
    [
        (jnp.zeros((4, 3)), MODES, 1.0, 3.0, "same dimensions D"),
        (jnp.zeros(2), MODES, 1.0, 3.0, r"x must be points .*shape \[2\]"),
        (jnp.zeros((0, 2)), MODES, 1.0, 3.0, r"x must be points .*\[0, 2\]"),
        (jnp.zeros((4, 2)), MODES[0], 1.0, 3.0, "modes must be points"),
        (jnp.zeros((4, 2)), MODES, jnp.ones(2), 3.0, r"one for each of 3 modes, got shape \[2\]"),
        (jnp.zeros((4, 2)), MODES, jnp.ones((1, 3)), 3.0, r"got shape \[1, 3\]"),
        (jnp.zeros((4, 2)), MODES, jnp.array([1.0, 0.0, 1.0]), 3.0, "scale must be above 0"),
        (jnp.zeros((4, 2)), MODES, np.nan, 3.0, "scale must be above 0, got nan"),
        (jnp.zeros((4, 2)), MODES, 1.0, 0.0, "within must be above 0"),
    ],
)
def test_what_is_near_no_mode_is_refused(x, modes, scale, within, match):
    with pytest.raises(ValueError, match=match):
        mode_coverage(x, modes, scale, within=within)


def test_a_sample_that_is_not_finite_is_near_no_mode():
    x = jnp.array([[0.0, 0.0], [jnp.nan, 0.0]])
    made = mode_coverage(x, MODES, 1.0)
    assert (made.captured, made.high_quality) == (1, 0.5)
    assert jnp.isnan(made.reverse_kl)


@pytest.mark.parametrize(("num", "samples"), [(0, 10), (10, 0), (-1, 10)])
def test_no_class_or_no_sample_has_no_expectation(num, samples):
    with pytest.raises(ValueError, match="num and samples must be at least 1"):
        expected_reverse_kl(num, samples)


def test_points_of_few_bits_are_measured_in_float32():
    """The squared distance from 16 is 256, which is 0 in bytes. From 1 it is 1."""
    x, modes = jnp.array([[0]], jnp.uint8), jnp.array([[16], [1]], jnp.uint8)
    made = mode_coverage(x, modes, 1.0)
    assert (made.captured, made.high_quality, made.width) == (1, 1, 1)
    assert made.width.dtype == jnp.float32
    assert mode_coverage(jnp.array([[250]], jnp.uint8), jnp.array([[4]], jnp.uint8), 1.0)[1] == 0
    far = mode_coverage(jnp.array([[300.0]], jnp.float16), jnp.array([[0]], jnp.int8), 100.0)
    assert (far.high_quality, far.width) == (1, 3)


def test_a_scale_and_a_reach_of_few_bits_are_squared_in_float32():
    x, modes = jnp.array([[16.0]]), jnp.array([[0.0]])
    assert mode_coverage(x, modes, np.uint8(16)).width == 1
    assert mode_coverage(x, modes, 1.0, within=np.uint8(16)).high_quality == 1
    assert mode_coverage(300 * x, modes, 1.0, within=np.float16(300)).high_quality == 0


def test_lists_are_points_and_labels_too():
    assert mode_coverage([[0.0, 1.0]], [[0, 0], [9, 9]], 1.0).captured == 1
    assert class_coverage([0, 1, 1], 3).captured == 2


@pytest.mark.parametrize("x", [jnp.zeros((2, 2), bool), jnp.zeros((2, 2), jnp.complex64)])
def test_points_that_are_no_real_numbers_are_refused(x):
    with pytest.raises(TypeError, match=f"x must be real numbers, got {x.dtype}"):
        mode_coverage(x, MODES, 1.0)
    with pytest.raises(TypeError, match=f"modes must be real numbers, got {x.dtype}"):
        mode_coverage(MODES, x, 1.0)
    with pytest.raises(TypeError, match="scale must be a real number, got complex"):
        mode_coverage(MODES, MODES, 1j)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8])
def test_labels_of_few_bits_name_as_many_classes(dtype, traced):
    count = jax.jit(class_coverage, static_argnums=1) if traced else class_coverage
    num = jnp.iinfo(dtype).max + 1  # does not fit into the type
    made = count(jnp.arange(num).astype(dtype), num)
    assert made.captured == num
    np.testing.assert_allclose(made.reverse_kl, 0, atol=1e-6)


def test_labels_of_64_bits_are_checked_as_they_are():
    with pytest.raises(ValueError, match=r"got 0\.\.4294967296"):
        class_coverage(np.array([0, 2**32]), 3)

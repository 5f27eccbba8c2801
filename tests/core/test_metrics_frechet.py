"""The Fréchet distance against closed forms and SciPy's matrix square root."""

import numpy as np
import pytest
import scipy.linalg

from gan_jax.metrics.frechet import gaussian_distance, statistics


def random_gaussian(rng: np.random.Generator, dim: int, rank: int):
    """Returns a mean [dim] and a covariance [dim, dim] of the given rank."""
    factor = rng.normal(size=(dim, rank))
    return rng.normal(size=dim), factor @ factor.T


def test_scaled_identities_have_a_closed_form():
    identity = np.eye(8)
    distance = gaussian_distance(np.zeros(8), 4 * identity, np.ones(8), identity)
    assert distance == pytest.approx(8 + 8 * (2 - 1) ** 2)


def test_diagonal_covariances_have_a_closed_form():
    rng = np.random.default_rng(0)
    mean_1, mean_2, std_1, std_2 = rng.uniform(0, 3, (4, 12))
    distance = gaussian_distance(mean_1, np.diag(std_1**2), mean_2, np.diag(std_2**2))
    assert distance == pytest.approx(np.sum((mean_1 - mean_2) ** 2 + (std_1 - std_2) ** 2))


@pytest.mark.parametrize("dim", [1, 2, 5, 64])
def test_agrees_with_scipy_sqrtm(dim):
    rng = np.random.default_rng(dim)
    for _ in range(5):
        (m1, s1), (m2, s2) = (random_gaussian(rng, dim, 2 * dim) for _ in range(2))
        root = scipy.linalg.sqrtm(s1 @ s2)
        expected = np.sum((m1 - m2) ** 2) + np.trace(s1 + s2 - 2 * root.real)
        assert gaussian_distance(m1, s1, m2, s2) == pytest.approx(expected, rel=1e-7)


def test_singular_covariances_of_rank_one():
    """For the covariances u u' and v v' the trace of the root is |u . v|."""
    rng = np.random.default_rng(3)
    u, v = rng.normal(size=(2, 20))
    distance = gaussian_distance(np.zeros(20), np.outer(u, u), np.zeros(20), np.outer(v, v))
    assert distance == pytest.approx(u @ u + v @ v - 2 * abs(u @ v), rel=1e-6)


def test_singular_covariances_are_the_limit_of_regular_ones():
    rng = np.random.default_rng(4)
    (m1, s1), (m2, s2) = (random_gaussian(rng, 30, 7) for _ in range(2))
    ridge = 1e-10 * np.eye(30)
    root = scipy.linalg.sqrtm((s1 + ridge) @ (s2 + ridge)).real
    expected = np.sum((m1 - m2) ** 2) + np.trace(s1 + s2 - 2 * root)
    assert gaussian_distance(m1, s1, m2, s2) == pytest.approx(expected, rel=1e-3)
    # The distance to a point mass is the mean squared distance: |m1 - m2|^2 + tr S1.
    zero = np.zeros((30, 30))
    assert gaussian_distance(m1, s1, m2, zero) == pytest.approx(
        np.sum((m1 - m2) ** 2) + np.trace(s1)
    )


@pytest.mark.parametrize("rank", [1, 10, 40])
def test_identical_gaussians_are_at_zero_and_the_distance_is_symmetric(rank):
    rng = np.random.default_rng(rank)
    (m1, s1), (m2, s2) = (random_gaussian(rng, 20, rank) for _ in range(2))
    assert 0 <= gaussian_distance(m1, s1, m1, s1) < 1e-9 * np.trace(s1)
    forth, back = gaussian_distance(m1, s1, m2, s2), gaussian_distance(m2, s2, m1, s1)
    assert isinstance(forth, float)
    assert forth == pytest.approx(back)


def test_statistics_are_numpys():
    x = np.random.default_rng(5).normal(size=(50, 4)).astype(np.float32)
    mean, cov = statistics(x)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0))
    np.testing.assert_allclose(cov, np.cov(x.astype(np.float64), rowvar=False))
    assert mean.dtype == cov.dtype == np.float64


@pytest.mark.parametrize("shape", [(4,), (1, 4), (0, 4), (3, 0), (2, 3, 4)])
def test_statistics_refuse_shapes(shape):
    with pytest.raises(ValueError, match="features must be"):
        statistics(np.zeros(shape))


def test_what_is_not_a_gaussian_is_refused():
    mean, cov = np.zeros(3), np.eye(3)
    for args in (
        (mean, cov, np.zeros(2), cov),
        (mean, cov, mean, np.eye(2)),
        (mean[None], cov, mean[None], cov),
    ):
        with pytest.raises(ValueError, match="expected means"):
            gaussian_distance(*args)
    with pytest.raises(ValueError, match="symmetric"):
        gaussian_distance(mean, cov + np.triu(np.ones((3, 3)), 1), mean, cov)
    with pytest.raises(ValueError, match="semi-definite"):
        gaussian_distance(mean, -cov, mean, cov)
    with pytest.raises(ValueError, match="finite"):
        gaussian_distance(mean * np.nan, cov, mean, cov)
    with pytest.raises(ValueError, match="finite"):
        statistics(np.full((3, 2), np.inf))


def test_masked_values_are_refused_and_a_mask_of_nothing_is_not():
    x = np.ma.masked_array(np.arange(8.0).reshape(4, 2), mask=False)
    np.testing.assert_array_equal(statistics(x)[0], [3, 4])
    x[1, 1] = np.ma.masked
    with pytest.raises(ValueError, match="features has masked values: leave out the rows"):
        statistics(x)


def test_complex_numbers_are_refused():
    mean, cov = np.zeros(3), np.eye(3)
    with pytest.raises(TypeError, match="features must be real"):
        statistics(np.ones((4, 3), complex))
    with pytest.raises(TypeError, match="cov_2 must be real"):
        gaussian_distance(mean, cov, mean, cov.astype(complex))

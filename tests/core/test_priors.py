"""Draws against the distributions of SciPy."""

import jax
import numpy as np
import pytest
from scipy import stats

from gan_jax import priors

DRAWS = {
    "normal": (priors.normal(2), stats.norm(0, 1)),
    "scaled": (priors.normal(2, 4.0), stats.norm(0, 4)),
    "uniform": (priors.uniform(2), stats.uniform(-(3**0.5), 2 * 3**0.5)),
    "bounded": (priors.uniform(2, 0.5), stats.uniform(-0.5, 1.0)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_of_the_distribution(name):
    prior, expected = DRAWS[name]
    z = np.asarray(prior(jax.random.key(0), 4000))
    assert z.shape == (4000, 2)
    for coordinate in z.T:
        assert stats.kstest(coordinate, expected.cdf).pvalue > 1e-3
    assert abs(stats.pearsonr(*z.T).statistic) < 5 / 4000**0.5


def test_signs_are_independent_and_equally_likely():
    z = np.asarray(priors.signs(3, 2.0)(jax.random.key(0), 8000))
    values, counts = np.unique(z, axis=0, return_counts=True)
    assert len(values) == 8
    assert set(np.abs(values).ravel()) == {2.0}
    assert stats.chisquare(counts).pvalue > 1e-3


def test_joined_draws_each_part_independently():
    prior = priors.joined(priors.normal(1), priors.signs(1), priors.normal(1))
    z = np.asarray(prior(jax.random.key(0), 4000))
    assert z.shape == (4000, 3)
    assert set(z[:, 1]) == {-1.0, 1.0}
    assert abs(stats.pearsonr(z[:, 0], z[:, 2]).statistic) < 5 / 4000**0.5
    with pytest.raises(ValueError, match="at least one prior"):
        priors.joined()

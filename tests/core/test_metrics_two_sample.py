"""The energy distance against SciPy and a closed form, and the test's level and power."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from gan_jax.metrics.distances import squared_distances
from gan_jax.metrics.two_sample import energy_test


def test_on_the_line_it_is_scipys():
    """On a line, SciPy gives the root of the distance."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=60), rng.normal(0.5, 2.0, size=40)
    made = energy_test(jnp.array(x[:, None]), jnp.array(y[:, None]), jax.random.key(0))
    assert made.distance == pytest.approx(stats.energy_distance(x, y) ** 2, rel=1e-4)


def test_two_points():
    """All of x is at one point and all of y at another, r apart: the distance is 2 r."""
    x, y = jnp.zeros((5, 3)), jnp.tile(jnp.array([[0.0, 3.0, 4.0]]), (7, 1))
    made = energy_test(x, y, jax.random.key(0))
    assert made.distance == pytest.approx(10.0, rel=1e-5)
    assert made.p_value == pytest.approx(1 / 200, rel=0.05)  # almost no permutation separates them


def test_its_level_is_what_it_says_and_it_tells_shrunken_modes():
    """For 100 pairs of samples of one Gaussian, p is uniform. For 0.8 of the width, p is small."""
    keys = jax.random.split(jax.random.key(0), 100)

    @jax.jit
    @jax.vmap
    def p_values(key):
        key_x, key_y, key_test = jax.random.split(key, 3)
        x, y = (jax.random.normal(k, (80, 2)) for k in (key_x, key_y))
        same = energy_test(x, y, key_test, permutations=99).p_value
        return same, energy_test(0.5 * x, y, key_test, permutations=99).p_value

    same, shrunken = p_values(keys)
    assert stats.kstest(np.asarray(same), "uniform").pvalue > 1e-2
    assert np.mean(np.asarray(shrunken) <= 0.05) > 0.9


def test_of_bytes_it_is_that_of_the_numbers():
    keys = jax.random.split(jax.random.key(0))
    x, y = (jax.random.randint(k, (20, 3), 0, 256).astype(jnp.uint8) for k in keys)
    made = energy_test(x, y, keys[0])
    expected = energy_test(x.astype(jnp.float32), y.astype(jnp.float32), keys[0])
    assert made == expected
    assert 0 < made.p_value < 1


@pytest.mark.parametrize(
    ("n", "m", "dim"), [(1, 1, 1), (7, 5, 1), (9, 4, 2), (9, 4, 4), (5, 6, 40), (30, 30, 784)]
)
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_distances_are_scipys_in_double_precision(n, m, dim, offset):
    """The result is also right far from the origin, where |x|^2 + |y|^2 - 2 x.y cancels."""
    rng = np.random.default_rng(0)
    x, y = (offset + rng.normal(size=(k, dim)).astype(np.float32) for k in (n, m))
    y[0] = x[0] + np.float32(1e-2)
    expected = cdist(x.astype(np.float64), y.astype(np.float64), "sqeuclidean")
    np.testing.assert_allclose(squared_distances(x, y), expected, rtol=5e-6)


def test_its_memory_is_what_it_says():
    """More dimensions cost copies of the samples only, and no array [N + M, N + M, D]."""

    def scratch(dim):
        samples = jax.ShapeDtypeStruct((200, dim), jnp.float32)
        key = jax.eval_shape(lambda: jax.random.key(0))
        program = jax.jit(energy_test).lower(samples, samples, key).compile()
        return program.memory_analysis().temp_size_in_bytes / 4

    distances, divisions = 400**2, 200 * 400
    assert distances < scratch(1) < 2 * (distances + divisions)
    assert scratch(784) < 2 * (distances + divisions) + 4 * 400 * 784


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "match"),
    [
        (jnp.zeros(5), jnp.zeros((5, 2)), {}, ValueError, r"x must be .* got shape \[5\]: flatten"),
        (jnp.zeros((5, 2)), jnp.zeros((5, 2, 1)), {}, ValueError, r"y must be .*\[5, 2, 1\]"),
        (jnp.zeros((1, 2)), jnp.zeros((5, 2)), {}, ValueError, r"x must be .* N >= 2"),
        (jnp.zeros((5, 2)), jnp.zeros((0, 2)), {}, ValueError, r"y must be .* N >= 2"),
        (jnp.zeros((5, 2)), jnp.zeros((5, 1)), {}, ValueError, "same dimensions D, got shapes"),
        (jnp.zeros((5, 2)), jnp.zeros((5, 2), complex), {}, TypeError, "must be real"),
        (jnp.zeros((5, 2)), jnp.zeros((5, 2)), {"permutations": 0}, ValueError, "permutations"),
    ],
)
def test_what_cannot_be_tested_is_refused(x, y, options, error, match):
    with pytest.raises(error, match=match):
        energy_test(x, y, jax.random.key(0), **options)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_is_not_finite_has_no_p_value(bad):
    x = jax.random.normal(jax.random.key(0), (10, 2))
    made = energy_test(x.at[3, 1].set(bad), x, jax.random.key(1))
    assert jnp.isnan(made.distance)
    assert jnp.isnan(made.p_value)

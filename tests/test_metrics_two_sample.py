"""The energy distance against SciPy's and a closed form; the test's level and power."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gan_jax.metrics.two_sample import energy_test


def test_on_the_line_it_is_scipys():
    """SciPy gives the root of the distance on the line."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=60), rng.normal(0.5, 2.0, size=40)
    made = energy_test(jnp.array(x[:, None]), jnp.array(y[:, None]), jax.random.key(0))
    assert made.distance == pytest.approx(stats.energy_distance(x, y) ** 2, rel=1e-4)


def test_two_points():
    """All of x at one point, all of y at another, r apart: 2 r."""
    x, y = jnp.zeros((5, 3)), jnp.tile(jnp.array([[0.0, 3.0, 4.0]]), (7, 1))
    made = energy_test(x, y, jax.random.key(0))
    assert made.distance == pytest.approx(10.0, rel=1e-5)
    assert made.p_value == pytest.approx(1 / 200, rel=0.05)  # hardly a permutation separates them


def test_its_level_is_what_it_says_and_it_tells_shrunken_modes():
    """100 pairs of samples of one Gaussian: p is uniform. One of .8 the width: p is small."""
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

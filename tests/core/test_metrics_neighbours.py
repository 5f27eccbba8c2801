"""Nearest neighbours against SciPy's tree, and the ratio of data with and without copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

from gan_jax.metrics.neighbours import memorisation, nearest

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("rows", [7, 1000])
def test_nearest_points_are_scipys(rows):
    x, y = RNG.normal(size=(100, 5)), RNG.normal(size=(70, 5))
    distance, index = nearest(jnp.array(x), jnp.array(y), rows=rows)
    expected, place = cKDTree(y).query(x)
    np.testing.assert_allclose(distance, expected, rtol=1e-5)
    np.testing.assert_array_equal(index, place)


def test_the_distance_of_a_copy_far_from_the_origin_is_exact():
    y = RNG.integers(0, 256, size=(50, 20)).astype(np.uint8)
    distance, index = nearest(y[::-1], y)
    np.testing.assert_array_equal(distance, 0)
    np.testing.assert_array_equal(index, np.arange(50)[::-1])


def test_the_ratio_tells_copies_from_new_samples():
    training, held_out, new = (RNG.normal(size=(400, 4)) for _ in range(3))
    copies = training + 0.01 * RNG.normal(size=(400, 4))
    assert memorisation(new, training, held_out).ratio == pytest.approx(1, abs=0.15)
    found = memorisation(copies, training, held_out)
    assert found.ratio < 0.1
    np.testing.assert_array_equal(found.nearest, np.arange(400))
    expected = np.median(found.samples) / np.median(cKDTree(training).query(held_out)[0])
    assert found.ratio == pytest.approx(expected, rel=1e-4)


def test_memory_holds_some_rows_of_the_distances():
    num, rows = 4096, 8
    shapes = [jax.ShapeDtypeStruct((num, 2), float)] * 2
    compiled = jax.jit(lambda x, y: nearest(x, y, rows=rows)).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 3 * rows * num + 16 * 4 * 2 * num


def test_what_is_refused():
    with pytest.raises(
        ValueError,
        match=r"x and y must .* D, got shapes \[2, 3\] and \[2, 4\]",
    ):
        nearest(jnp.ones((2, 3)), jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        nearest(jnp.ones((2, 3)), jnp.ones((2, 3)), rows=0)

"""Fourier features against NumPy."""

import jax
import numpy as np

from gan_jax.models.mlp import mlp
from gan_jax.nn import FourierFeatures


def test_the_features_are_plane_waves():
    x = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    layer = FourierFeatures(5, 2.0, 32.0)
    assert layer.init(jax.random.key(0), x) == {}
    made = layer.apply({}, x)
    assert made.shape == (4, 3 + 2 * 5)
    np.testing.assert_array_equal(made[:, :3], x)
    np.testing.assert_allclose(made[:, 3:8] ** 2 + made[:, 8:] ** 2, 1, rtol=1e-5)
    # The gradient of sin(w.x) at 0 is w. Its length is the frequency.
    waves = jax.jacobian(lambda x: layer.apply({}, x[None])[0, 3:8])(np.zeros(3, np.float32))
    np.testing.assert_allclose(np.linalg.norm(waves, axis=1), [2, 4, 8, 16, 32], rtol=1e-5)
    np.testing.assert_allclose(made[:, 8:], np.cos(x @ waves.T), rtol=1e-3, atol=1e-4)


def test_the_perceptron_of_d_sees_them():
    gan = mlp((2,), width=8, depth=1, fourier=6)
    params, _ = gan.discriminator.init(jax.random.key(0), np.zeros((1, 2), np.float32))
    assert (2 + 2 * 6, 8) in {leaf.shape for leaf in jax.tree.leaves(params)}

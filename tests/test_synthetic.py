"""Distributions with a known density: their draws against it, and training on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import gan_jax
from gan_jax import Batch
from gan_jax.data import synthetic
from gan_jax.theory.quadrature import box, interval

THREE = synthetic.mixture(
    np.array([[-2.0], [0.5], [3.0]]), np.array([0.5, 1.0, 0.25]), np.array([0.2, 0.5, 0.3])
)


def test_the_density_of_a_mixture_is_scipys():
    x = np.linspace(-4, 4, 17)
    parts = [stats.norm.pdf(x, m, s) for m, s in ((-2, 0.5), (0.5, 1.0), (3, 0.25))]
    expected = np.log(np.array([0.2, 0.5, 0.3]) @ parts)
    np.testing.assert_allclose(THREE.log_prob(jnp.array(x[:, None])), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("distribution", "cdf"),
    [
        (synthetic.gaussian(1.0, 0.5), lambda x: stats.norm.cdf(x, 1, 0.5)),
        (synthetic.uniform(-1.0, 3.0), lambda x: stats.uniform.cdf(x, -1, 4)),
        (
            THREE,
            lambda x: (
                np.array([0.2, 0.5, 0.3])
                @ [stats.norm.cdf(x, m, s) for m, s in ((-2, 0.5), (0.5, 1.0), (3, 0.25))]
            ),
        ),
    ],
)
def test_draws_follow_the_distribution(distribution, cdf):
    """Kolmogorov and Smirnov's test of 20,000 draws; the density integrates to one."""
    x = distribution.sample(jax.random.key(0), 20_000)
    assert x.shape == (20_000, 1)
    assert stats.kstest(np.asarray(x[:, 0]), cdf).pvalue > 1e-3
    nodes, weights = interval(-8.0, 10.0, 20_001)
    mass = jnp.sum(weights * jnp.exp(distribution.log_prob(nodes[:, None])))
    np.testing.assert_allclose(mass, 1.0, atol=1e-3)


def test_outside_a_uniform_there_is_nothing():
    made = synthetic.uniform(-1.0, 3.0).log_prob(jnp.array([[-1.1], [0.0], [3.1]]))
    np.testing.assert_allclose(made, [-np.inf, -np.log(4), -np.inf])


def test_a_ring_has_as_many_modes_as_it_says():
    """An endpoint counted twice would make it seven."""
    ring = synthetic.ring(8, radius=2.0, scale=0.1)
    distances = np.linalg.norm(ring.modes[:, None] - ring.modes[None], axis=2)
    assert np.sort(distances, axis=1)[:, 1].min() == pytest.approx(4 * np.sin(np.pi / 8))
    np.testing.assert_allclose(np.linalg.norm(ring.modes, axis=1), 2.0)
    axis = interval(-3.0, 3.0, 301)
    nodes, weights = box(axis, axis)
    mass = jnp.sum(weights * jnp.exp(ring.log_prob(nodes)))
    np.testing.assert_allclose(mass, 1.0, rtol=1e-4)
    x = np.asarray(ring.sample(jax.random.key(0), 8000))
    nearest = np.argmin(np.linalg.norm(x[:, None] - ring.modes[None], axis=2), axis=1)
    assert stats.chisquare(np.bincount(nearest)).pvalue > 1e-3
    assert (x - ring.modes[nearest]).std() == pytest.approx(0.1, rel=0.03)


def echo(gan, tx, key):
    """A step that does nothing but count, and reports the real batch it was given."""

    def step(state, batch):
        player = state.discriminator
        return state.replace(discriminator=player.replace(step=player.step + 1)), {"x": batch.x}

    return gan_jax.init(gan, tx, tx, key, Batch(jnp.zeros((3, 2)))), step


def test_each_step_is_fed_fresh_draws_by_its_number(linear_gan):
    state, step = echo(linear_gan, optax.sgd(0.1), jax.random.key(0))
    fed = synthetic.feed(step, synthetic.ring(), (2, 3))
    _, history = jax.lax.scan(fed, state, length=4)
    x = np.asarray(history["x"])
    assert x.shape == (4, 2, 3, 2)
    assert len(np.unique(x.reshape(-1, 2), axis=0)) == 24
    # Half of the way, then the other half: the same draws.
    middle, first = jax.lax.scan(fed, state, length=2)
    _, second = jax.lax.scan(fed, middle, length=2)
    np.testing.assert_array_equal(np.concatenate([first["x"], second["x"]]), x)
    # Another seed draws otherwise.
    other, _ = echo(linear_gan, optax.sgd(0.1), jax.random.key(1))
    assert (np.asarray(jax.lax.scan(fed, other, length=4)[1]["x"]) != x).all()

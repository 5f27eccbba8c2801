"""Distributions with a known density: their samples against the density, and training on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, stats
from sklearn import datasets

import gan_jax
from gan_jax import Batch
from gan_jax.data import synthetic
from gan_jax.metrics.two_sample import energy_test
from gan_jax.theory.quadrature import box, interval

pytestmark = pytest.mark.usefixtures("quick_compile")

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
    """The Kolmogorov-Smirnov test of 20,000 draws. The density integrates to one."""
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
    """If an endpoint counted twice, there would be seven."""
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


@pytest.mark.parametrize("name", synthetic.DISTRIBUTIONS)
def test_draws_in_the_plane_follow_the_density(name):
    """The share of draws in each of 24 x 24 cells against the cell's mass.

    The masses sum to one within 0.1 %, by the midpoint rule.
    """
    distribution = synthetic.DISTRIBUTIONS[name]()
    reach = {"grid": 4.5, "two_moons": 2.4}.get(name, 2.1)
    cells, nodes = 24, 20  # nodes: in a cell's side; their spacing is below the scale
    middle = (np.arange(cells * nodes) + 0.5) / (cells * nodes) * 2 * reach - reach
    plane = jnp.stack(jnp.meshgrid(middle, middle, indexing="ij"), axis=2)
    log_p = jax.jit(lambda x: jax.lax.map(distribution.log_prob, x))(plane)
    area = (2 * reach / (cells * nodes)) ** 2
    mass = np.exp(np.asarray(log_p, float)).reshape(cells, nodes, cells, nodes).sum((1, 3)) * area
    assert mass.sum() == pytest.approx(1.0, abs=1e-3)
    num = 20_000
    x = np.asarray(distribution.sample(jax.random.key(3), num))
    counts, _, _ = np.histogram2d(*x.T, bins=np.linspace(-reach, reach, cells + 1))
    assert counts.sum() == num
    expected = mass.ravel() / mass.sum() * num
    often = expected >= 5
    observed = np.append(counts.ravel()[often], counts.ravel()[~often].sum())
    expected = np.append(expected[often], expected[~often].sum() + 1e-9)
    assert stats.chisquare(observed, expected, sum_check=False).pvalue > 1e-3


def test_the_density_about_a_curve_is_the_integral_of_the_noise():
    """The density by adaptive quadrature along the spiral's arms, at points on, near and off it."""
    spiral, scale = synthetic.spiral(arms=2, turns=1.0, scale=0.1), 0.1

    def arm(radius, number):
        angle = 2 * np.pi * (radius + number / 2)
        return radius * np.array([np.cos(angle), np.sin(angle)])

    points = np.array([[0.0, 0.0], [0.3, 0.4], [-0.9, 0.05], [0.1, -0.6], [1.2, 0.1]])
    for x, found in zip(points, spiral.log_prob(jnp.array(points)), strict=True):
        density = sum(
            integrate.quad(
                lambda r, a=a, x=x: stats.multivariate_normal.pdf(x, arm(r, a), scale**2), 0, 1
            )[0]
            for a in (0, 1)
        )
        assert found == pytest.approx(np.log(density / 2), abs=1e-4)


def test_moons_and_roll_are_those_of_scikit_learn():
    x, _ = datasets.make_moons(800, noise=0.05, random_state=0)
    roll, _ = datasets.make_swiss_roll(800, noise=0.02 * 4.5 * np.pi, random_state=0)
    for made, theirs in (
        (synthetic.two_moons(), x),
        (synthetic.swiss_roll(), roll[:, [0, 2]] / (4.5 * np.pi)),
    ):
        ours = made.sample(jax.random.key(1), 800)
        key = jax.random.key(2)
        assert energy_test(ours, jnp.asarray(theirs, ours.dtype), key).p_value > 0.01
        assert energy_test(ours + 0.1, jnp.asarray(theirs, ours.dtype), key).p_value < 0.01


def test_a_standardised_distribution_is_the_same_in_other_units():
    grid = synthetic.grid()
    small, unit = synthetic.standardised(grid)
    assert unit == pytest.approx(np.sqrt(8 + 0.05**2), rel=0.02)  # of {-4, ..., 4} and the noise
    key = jax.random.key(5)
    np.testing.assert_allclose(unit * small.sample(key, 9), grid.sample(key, 9), rtol=1e-6)
    np.testing.assert_allclose(unit * small.modes, grid.modes, rtol=1e-6)
    assert unit * small.scale == pytest.approx(0.05)
    nodes, weights = box(*[interval(-0.1, 0.1, 201)] * 2)  # round the mode at 0
    mass = jnp.sum(weights * jnp.exp(small.log_prob(nodes)))
    np.testing.assert_allclose(mass, 1 / 25, rtol=1e-4)


def test_modes_of_the_lattice_and_of_rings_of_rings():
    lattice = synthetic.grid().modes
    assert {tuple(mode) for mode in lattice} == {
        (x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)
    }
    modes = synthetic.cascade(levels=2, num=4, ratio=0.1).modes
    distances = np.sort(np.linalg.norm(modes[:, None] - modes[None], axis=2), axis=1)
    assert len(modes) == 16
    np.testing.assert_allclose(distances[:, 1], 0.1 * np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(modes.reshape(4, 4, 2).mean(1), axis=1), 1.0)


def echo(gan, tx, key):
    """A step that only counts, and reports the real batch that it receives."""

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
    # Half of the steps, then the other half, draw the same.
    middle, first = jax.lax.scan(fed, state, length=2)
    _, second = jax.lax.scan(fed, middle, length=2)
    np.testing.assert_array_equal(np.concatenate([first["x"], second["x"]]), x)
    # Another seed draws differently.
    other, _ = echo(linear_gan, optax.sgd(0.1), jax.random.key(1))
    assert (np.asarray(jax.lax.scan(fed, other, length=4)[1]["x"]) != x).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: synthetic.mixture(np.zeros((3, 2)), 0.1, np.array([1, 2, 1])),
            "3 numbers above 0 with sum 1",
        ),
        (
            lambda: synthetic.mixture(np.zeros((2, 2)), 0.1, np.array([1.5, -0.5])),
            "above 0 with sum 1",
        ),
        (lambda: synthetic.mixture(np.zeros((2, 2)), 0.1, np.array([1.0])), "2 numbers"),
        (
            lambda: synthetic.mixture(np.zeros((2, 2)), np.array([0.1, 0.0])),
            "scale must be above 0",
        ),
        (lambda: synthetic.swiss_roll(0.0), "scale must be above 0, got 0.0"),
        (lambda: synthetic.uniform(1.0, 1.0), "low must be below high"),
    ],
)
def test_what_is_no_distribution_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()

"""Densities of generated samples against SciPy, against histograms, and against their own sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gan_jax.theory import branched_log_prob, pushforward_log_prob
from gan_jax.theory.quadrature import interval


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def normal_log_prob(z):
    return jax.scipy.stats.norm.logpdf(z).sum(-1)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_an_affine_generator_makes_a_gaussian(dim):
    rng = np.random.default_rng(dim)
    matrix, shift = rng.normal(size=(dim, dim)), rng.normal(size=dim)
    z = rng.normal(size=(20, dim))
    made = pushforward_log_prob(lambda z: matrix @ z + shift, jnp.array(z), normal_log_prob)
    expected = stats.multivariate_normal.logpdf(z @ matrix.T + shift, shift, matrix @ matrix.T)
    np.testing.assert_allclose(made, np.reshape(expected, 20), rtol=1e-9)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_absolute_value_of_the_slope_counts(sign):
    """exp(-z) decreases, so without the absolute value its density would be negative."""
    z = jnp.linspace(-2.0, 2.0, 9)[:, None]
    made = pushforward_log_prob(lambda z: jnp.exp(sign * z), z, normal_log_prob)
    np.testing.assert_allclose(made, stats.lognorm.logpdf(np.exp(sign * z[:, 0]), 1.0), rtol=1e-9)


def test_a_rotation_in_polar_terms_has_the_determinant_not_the_trace():
    """(r, phi) -> (r cos, r sin) has |det| = r, so r / (2 pi) becomes uniform on a half disc."""
    z = jnp.array([[0.5, 0.1], [1.5, 2.0], [0.1, 3.0]])

    def log_prior(z):
        return jnp.log(z[..., 0]) - jnp.log(2 * jnp.pi)  # r on [0, 2], phi on [0, pi]

    made = pushforward_log_prob(
        lambda z: z[0] * jnp.array([jnp.cos(z[1]), jnp.sin(z[1])]), z, log_prior
    )
    np.testing.assert_allclose(made, np.full(3, -np.log(2 * np.pi)), rtol=1e-12)


def test_the_prior_may_take_one_point_or_many():
    z = jnp.linspace(-1.0, 1.0, 4).reshape(2, 2)
    forms = [
        lambda z: -jnp.sum(jnp.square(z)),
        lambda z: -jnp.sum(jnp.square(z), axis=-1),
        lambda z: -(z[:, 0] ** 2) - z[:, 1] ** 2,
    ]
    made = [pushforward_log_prob(jnp.sinh, z, prior) for prior in forms]
    np.testing.assert_allclose(made[0], made[1])
    np.testing.assert_allclose(made[0], made[2])


def test_expectations_need_no_inverse():
    """E over z of h(G(z)) equals E over p_g of h, for a G that folds, by two integrals."""
    z, weights = interval(-9.0, 9.0, 4001)
    over_z = jnp.sum(weights * jnp.exp(normal_log_prob(z[:, None])) * jnp.cos(fold(z)))
    top = fold(-np.sqrt(4 / 3))  # at +-top the density is infinite, like the inverse of a root

    def over(x, dx):
        return jnp.sum(dx * jnp.exp(branches(fold, x)) * jnp.cos(x))

    t = (jnp.arange(400) + 0.5) * jnp.pi / 400  # x = top cos t removes the infinity,
    inner = over(top * jnp.cos(t), jnp.pi / 400 * top * jnp.sin(t))
    s, ds = interval(1e-6, 12.0, 4001)  # and so does x = +-(top + s^2)
    outer = over(top + s**2, 4 * s * ds)
    np.testing.assert_allclose(inner + outer, over_z, atol=1e-5)


def fold(z):
    return z**3 / 4 - z


def branches(fn, x, **options):
    z = jnp.linspace(-9.0, 9.0, 1801)[:, None]
    return jax.jit(lambda x: branched_log_prob(fn, x[:, None], z, normal_log_prob, **options))(
        jnp.asarray(x)
    )


def test_the_square_of_a_gaussian_is_chi_squared():
    x = np.array([-1.0, 0.05, 0.5, 1.0, 4.0, 9.0])
    with np.errstate(divide="ignore"):
        expected = stats.chi2.logpdf(x, 1)
    np.testing.assert_allclose(branches(jnp.square, x), expected, rtol=1e-9)


def test_three_branches_against_a_histogram():
    samples = fold(np.random.default_rng(0).normal(size=1_000_000))
    edges = np.linspace(-0.7, 0.7, 8)  # each x here has three z, as G folds at +-.77
    share = np.histogram(samples, edges)[0] / len(samples)
    x = np.linspace(edges[:-1], edges[1:], 101)  # [101, 7]
    density = np.exp(branches(fold, x.ravel())).reshape(x.shape)
    expected = np.trapezoid(density, x, axis=0)
    error = np.sqrt(expected * (1 - expected) / len(samples))
    assert (np.abs(share - expected) < 4 * error).all()


def test_an_invertible_generator_has_one_branch():
    z = jnp.linspace(-3.0, 3.0, 7)[:, None]
    made = branches(jnp.sinh, jnp.sinh(z[:, 0]), num_branches=1)
    np.testing.assert_allclose(made, pushforward_log_prob(jnp.sinh, z, normal_log_prob), rtol=1e-9)


@pytest.mark.parametrize("double", [True, False])
def test_at_the_nodes_of_the_grid_each_branch_counts_once(double):
    """x = G(z) at the grid's own z, where rounding decides the sign of G(z) - x."""
    with jax.enable_x64(double):
        z = jnp.linspace(-4.0, 4.0, 161)[:, None]

        def fn(z):
            return jnp.logaddexp(0.7 * z + 0.3, 0.0) - 0.4 * jnp.logaddexp(0.1, -z / 3)

        @jax.jit
        def both(z):
            made = branched_log_prob(fn, jax.vmap(fn)(z), z, normal_log_prob)
            return made, pushforward_log_prob(fn, z, normal_log_prob)

        made, expected = both(z)
    np.testing.assert_allclose(made[:-1], expected[:-1], atol=1e-3)


def test_more_branches_than_asked_for_are_not_passed_over_in_silence():
    made = branches(jnp.square, np.array([-1.0, 1.0]), num_branches=1)
    np.testing.assert_array_equal(np.isnan(made), [False, True])


def test_single_precision_is_enough_for_a_picture():
    x = np.linspace(0.1, 4, 20)
    with jax.enable_x64(False):
        made = branches(jnp.square, np.float32(x))
    assert made.dtype == jnp.float32
    np.testing.assert_allclose(made, stats.chi2.logpdf(x, 1), atol=1e-4)


def test_a_generator_into_another_space_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2,\) to shape \(3,\).*as many coordinates"):
        pushforward_log_prob(lambda z: jnp.append(z, 0.0), jnp.zeros((4, 2)), normal_log_prob)


def test_a_prior_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"prior_log_prob returned shape \(4, 2\)"):
        pushforward_log_prob(jnp.sinh, jnp.zeros((4, 2)), jnp.square)

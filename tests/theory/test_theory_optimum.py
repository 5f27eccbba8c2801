"""V, D* and C against fractions, an adaptive integrator and a brute-force search over D."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from gan_jax.theory import criterion, optimal_discriminator, optimal_logit, value
from gan_jax.theory.quadrature import box, expectation, interval, standard_normal

P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
LOG_4 = np.log(4)


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def test_the_discrete_example():
    log_p, log_q = jnp.log(P), jnp.log(Q)
    np.testing.assert_allclose(optimal_discriminator(log_p, log_q), [5 / 7, 1 / 2, 2 / 7])
    np.testing.assert_allclose(criterion(log_p, log_q, jnp.ones(3)), -1.2534657, atol=5e-8)


@pytest.mark.parametrize("m", [1.0, -2.0])
def test_the_logit_between_two_gaussians_is_a_line(m):
    x = np.linspace(-5, 5, 11)
    logit = optimal_logit(stats.norm.logpdf(x), jnp.array(stats.norm.logpdf(x, m)))
    np.testing.assert_allclose(logit, -m * x + m**2 / 2, atol=1e-12)


def test_each_node_has_its_best_d_among_all():
    """The best D maximises p log D + q log(1 - D) over a fine grid of D.

    The curvature of this function is -p / D^2 - q / (1 - D)^2.
    """
    d = np.linspace(0, 1, 100_001)[1:-1]
    worth = special.xlogy(P[:, None], d) + special.xlogy(Q[:, None], 1 - d)
    found = d[np.argmax(worth, axis=1)]
    best = optimal_discriminator(jnp.log(P), jnp.log(Q))
    np.testing.assert_allclose(best, found, atol=1e-5)

    def at(d):
        return value(jnp.log(d) - jnp.log1p(-d), jnp.log(P), jnp.log(Q), jnp.ones(3))

    np.testing.assert_allclose(jax.grad(at)(best), np.zeros(3), atol=1e-14)
    expected = np.diag(-P / best**2 - Q / (1 - best) ** 2)
    np.testing.assert_allclose(jax.hessian(at)(best), expected, atol=1e-12)


def test_the_value_of_any_discriminator_by_an_adaptive_integrator():
    def logit(x):
        return 0.7 * x - 0.2 * x**2 + 0.1

    def integrand(x):
        real = stats.norm.pdf(x) * np.log(special.expit(logit(x)))
        return real + stats.norm.pdf(x, 1, 2) * np.log(special.expit(-logit(x)))

    adaptive = integrate.quad(integrand, -18, 19, epsabs=1e-12)[0]
    x, weights = interval(-18.0, 19.0, 2001)
    made = value(logit(x), stats.norm.logpdf(x), stats.norm.logpdf(x, 1, 2), weights)
    np.testing.assert_allclose(made, adaptive, atol=1e-10)


def test_an_undecided_discriminator_has_value_minus_log_4():
    np.testing.assert_allclose(value(jnp.zeros(3), jnp.log(P), jnp.log(Q), jnp.ones(3)), -LOG_4)


def test_zeros_are_exact():
    """D* is 1, 0, and 1/2 where both densities are 0. A certain and wrong D has the value -inf."""
    log_p, log_q = jnp.log(jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    ones = jnp.ones(3)
    np.testing.assert_array_equal(optimal_discriminator(log_p, log_q), [1.0, 0.0, 0.5])
    assert criterion(log_p, log_q, ones) == 0
    assert value(jnp.array([-jnp.inf, jnp.inf, 0.0]), log_p, log_q, ones) == -np.inf


def test_nodes_without_weight_do_not_count():
    made = expectation(jnp.zeros(2), jnp.array([1.0, jnp.inf]), jnp.array([0.5, 0.0]))
    assert made == 0.5


def test_gradients_pass_zeros_by():
    log_p = jnp.log(jnp.array([1.0, 0.0, 0.0]))
    log_q = jnp.log(jnp.array([0.0, 1.0, 0.0]))
    gradient = jax.grad(lambda logit: value(logit, log_p, log_q, jnp.ones(3)))(jnp.zeros(3))
    np.testing.assert_allclose(gradient, [0.5, -0.5, 0.0])


@pytest.mark.parametrize("degree", [0, 1, 2, 4, 6])
def test_gauss_and_hermite_have_the_moments_of_a_gaussian(degree):
    nodes, weights = standard_normal(4)
    np.testing.assert_allclose(
        jnp.sum(weights * nodes**degree), stats.norm.moment(degree), atol=1e-12
    )


def test_a_box_integrates_a_density_of_two_variables():
    nodes, weights = box(interval(-9.0, 9.0, 101), interval(-8.0, 10.0, 121))
    assert nodes.shape == (101 * 121, 2)
    covariance = np.array([[1.0, 0.4], [0.4, 0.8]])
    log_p = stats.multivariate_normal.logpdf(nodes, [0, 1], covariance)
    np.testing.assert_allclose(expectation(log_p, jnp.ones(len(nodes)), weights), 1.0)
    product = nodes[:, 0] * (nodes[:, 1] - 1)
    np.testing.assert_allclose(expectation(log_p, product, weights), 0.4)

"""Divergences against SciPy, closed forms of Gaussians, enumeration and their definitions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats
from scipy.spatial.distance import jensenshannon

from gan_jax.theory import (
    F_DIVERGENCES,
    criterion,
    f_divergence,
    js_divergence,
    kl_divergence,
    optimal_logit,
    value,
    variational_bound,
)
from gan_jax.theory.quadrature import interval

pytestmark = pytest.mark.usefixtures("quick_compile")

LOG_2, LOG_4 = np.log(2), np.log(4)

F = {
    "kl": lambda u: special.xlogy(u, u),
    "reverse_kl": lambda u: -np.log(u),
    "pearson": lambda u: (u - 1) ** 2,
    "neyman": lambda u: (1 - u) ** 2 / u,
    "squared_hellinger": lambda u: (np.sqrt(u) - 1) ** 2,
    "js": lambda u: special.xlogy(u, u) - (u + 1) * np.log((u + 1) / 2),
    "gan": lambda u: special.xlogy(u, u) - (u + 1) * np.log(u + 1),
    "total_variation": lambda u: np.abs(u - 1) / 2,
}
"""Returns f as in Nowozin et al. 2016, table 6."""

AT_ZERO = {"kl": 0, "reverse_kl": np.inf, "pearson": 1, "neyman": np.inf, "gan": 0}
AT_ZERO |= {"squared_hellinger": 1, "js": LOG_2, "total_variation": 0.5}
AT_INFINITY = {"kl": np.inf, "reverse_kl": 0, "pearson": np.inf, "neyman": 1, "gan": 0}
AT_INFINITY |= {"squared_hellinger": 1, "js": LOG_2, "total_variation": 0.5}
"""The limits of f(u) at 0 and of f(u) / u at infinity, by hand."""

NAMES = sorted(F)


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def test_the_eight_are_there():
    assert set(F_DIVERGENCES) == set(F)


@pytest.mark.parametrize("name", NAMES)
def test_f_is_that_of_the_paper(name):
    u = np.geomspace(1e-4, 1e4, 41)
    np.testing.assert_allclose(
        F_DIVERGENCES[name].f(jnp.array(u)), F[name](u), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(F_DIVERGENCES[name].f(jnp.zeros(1)), AT_ZERO[name])


@pytest.mark.parametrize("name", NAMES)
def test_the_optimal_critic_is_the_derivative_of_f(name):
    u = np.geomspace(0.01, 50, 20)
    step = 1e-6 * u
    differences = (F[name](u + step) - F[name](u - step)) / (2 * step)
    critic = F_DIVERGENCES[name].optimal_critic(jnp.log(u))
    np.testing.assert_allclose(critic, differences, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_the_conjugate_is_the_supremum(name):
    """The conjugate is the supremum over u of u t - f(u), by brute force over a fine grid."""
    u = np.geomspace(1e-5, 1e5, 400_001)
    t = np.asarray(F_DIVERGENCES[name].optimal_critic(jnp.log(jnp.geomspace(0.05, 20, 9))))
    if name == "total_variation":
        t = np.linspace(-0.5, 0.5, 9)
    brute = np.array([np.max(u * slope - F[name](u)) for slope in t])
    np.testing.assert_allclose(F_DIVERGENCES[name].conjugate(jnp.array(t)), brute, atol=2e-5)


BEYOND = {"reverse_kl": 0.1, "neyman": 1.1, "squared_hellinger": 1.1, "js": LOG_2 + 0.1}
BEYOND |= {"gan": 0.1, "total_variation": 0.6}


@pytest.mark.parametrize("name", sorted(BEYOND))
def test_outside_its_domain_the_conjugate_is_infinite(name):
    """u t - f(u) grows without bound there, and the gradient is not NaN."""
    t = BEYOND[name]
    assert 1e9 * t - F[name](1e9) > 1e7
    conjugate = F_DIVERGENCES[name].conjugate
    assert conjugate(jnp.array(t)) == np.inf
    assert np.isfinite(jax.grad(conjugate)(jnp.array(t)))


@pytest.mark.parametrize("name", NAMES)
def test_the_activation_increases_and_stays_in_the_domain(name):
    v = jnp.linspace(-4.0, 4.0, 81)
    critic = F_DIVERGENCES[name].activation(v)
    assert (np.diff(critic) > 0).all()
    assert np.isfinite(F_DIVERGENCES[name].conjugate(critic)).all()


OUTPUT = {
    "kl": lambda u: 1 + np.log(u),
    "reverse_kl": np.log,
    "pearson": lambda u: 2 * (u - 1),
    "neyman": lambda u: 2 * np.log(u),
    "squared_hellinger": lambda u: np.log(u) / 2,
    "js": np.log,
    "gan": np.log,
}
"""Returns the network output v that the activation maps to T*, by hand."""


@pytest.mark.parametrize("name", sorted(OUTPUT))
def test_the_activation_reaches_the_optimal_critic(name):
    u = np.geomspace(0.05, 20, 15)
    divergence = F_DIVERGENCES[name]
    made = divergence.activation(jnp.array(OUTPUT[name](u)))
    np.testing.assert_allclose(made, divergence.optimal_critic(jnp.log(u)), rtol=1e-9, atol=1e-12)


def densities(m=1.0, s=1.0, num=4001):
    """p = N(0, 1) and q = N(m, s^2) on a grid that covers both."""
    x, weights = interval(-40.0, 45.0, num)
    return stats.norm.logpdf(x), stats.norm.logpdf(x, m, s), weights


M = 1.5
CLOSED = {
    "kl": M**2 / 2,
    "reverse_kl": M**2 / 2,
    "pearson": np.exp(M**2) - 1,
    "neyman": np.exp(M**2) - 1,
    "squared_hellinger": 2 - 2 * np.exp(-(M**2) / 8),
    "total_variation": 2 * stats.norm.cdf(M / 2) - 1,
}


@pytest.mark.parametrize("name", sorted(CLOSED))
def test_of_two_gaussians_in_closed_form(name):
    # Total variation converges more slowly, because |p - q| has a kink.
    tolerance = 1e-4 if name == "total_variation" else 1e-9
    made = f_divergence(name, *densities(M))
    np.testing.assert_allclose(made, CLOSED[name], rtol=tolerance)


@pytest.mark.parametrize(("m", "s"), [(1.0, 2.0), (-2.0, 0.5)])
def test_kl_of_gaussians_of_different_width(m, s):
    log_p, log_q, weights = densities(m, s)
    forward = np.log(s) + (1 + m**2) / (2 * s**2) - 0.5
    backward = -np.log(s) + (s**2 + m**2) / 2 - 0.5
    np.testing.assert_allclose(kl_divergence(log_p, log_q, weights), forward, rtol=1e-9)
    np.testing.assert_allclose(kl_divergence(log_q, log_p, weights), backward, rtol=1e-9)
    np.testing.assert_allclose(f_divergence("reverse_kl", log_p, log_q, weights), backward)


@pytest.mark.parametrize(("m", "jsd"), [(1, 0.1114215), (2, 0.3368308), (4, 0.6327202)])
def test_js_of_gaussians_by_an_adaptive_integrator(m, jsd):
    def integrand(x):
        p, q = stats.norm.pdf(x), stats.norm.pdf(x, m)
        return (special.rel_entr(p, (p + q) / 2) + special.rel_entr(q, (p + q) / 2)) / 2

    adaptive = integrate.quad(integrand, -12, 12 + m, epsabs=1e-12)[0]
    made = js_divergence(*densities(m))
    np.testing.assert_allclose(made, adaptive, atol=1e-10)
    np.testing.assert_allclose(made, jsd, atol=5e-8)
    np.testing.assert_allclose(f_divergence("js", *densities(m)), 2 * made)
    np.testing.assert_allclose(f_divergence("gan", *densities(m)), 2 * made - LOG_4)


def by_enumeration(name, p, q):
    """Returns the definition node by node, with the limits where one of the two is zero."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if b > 0:
            total += b * (F[name](a / b) if a > 0 else AT_ZERO[name])
        elif a > 0:
            total += a * AT_INFINITY[name]
    return total


def logs(*vectors):
    with np.errstate(divide="ignore"):
        return [jnp.log(jnp.array(vector)) for vector in vectors]


WITH_ZEROS = {
    "overlapping": ([0.5, 0.3, 0.2], [0.2, 0.3, 0.5]),
    "p misses a node": ([0.0, 0.4, 0.6], [0.2, 0.3, 0.5]),
    "q misses a node": ([0.2, 0.3, 0.5], [0.0, 0.4, 0.6]),
    "each misses one": ([0.5, 0.5, 0.0, 0.0], [0.0, 0.7, 0.3, 0.0]),
    "disjoint": ([0.25, 0.75, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]),
    "equal": ([0.25, 0.0, 0.75], [0.25, 0.0, 0.75]),
}


@pytest.mark.parametrize("case", sorted(WITH_ZEROS))
@pytest.mark.parametrize("name", NAMES)
def test_of_probability_vectors_with_zeros(name, case):
    p, q = WITH_ZEROS[case]
    made = f_divergence(name, *logs(p, q), jnp.ones(len(p)))
    np.testing.assert_allclose(made, by_enumeration(name, p, q), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("case", sorted(WITH_ZEROS))
def test_kl_and_js_are_those_of_scipy(case):
    p, q = WITH_ZEROS[case]
    log_p, log_q, ones = *logs(p, q), jnp.ones(len(p))
    np.testing.assert_allclose(kl_divergence(log_p, log_q, ones), special.rel_entr(p, q).sum())
    np.testing.assert_allclose(
        js_divergence(log_p, log_q, ones), jensenshannon(p, q) ** 2, atol=1e-15
    )


def test_disjoint_supports_are_exact_in_single_precision():
    log_p, log_q = (a.astype(jnp.float32) for a in logs([1.0, 0.0], [0.0, 1.0]))
    ones = jnp.ones(2, jnp.float32)
    assert js_divergence(log_p, log_q, ones) == np.float32(LOG_2)
    assert criterion(log_p, log_q, ones) == 0
    assert kl_divergence(log_p, log_q, ones) == np.inf


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_where_the_other_is_zero(name):
    """The derivative in log q where q > 0, with nodes where p, q or both are zero."""
    p, q = WITH_ZEROS["each misses one"]
    log_p, log_q = logs(p, q)
    gradient = jax.grad(lambda x: f_divergence(name, log_p, log_q.at[1:3].add(x), jnp.ones(4)))(
        jnp.zeros(2)
    )
    if np.isinf(by_enumeration(name, p, q)):
        assert not np.isnan(gradient[0])
    else:
        step = 1e-6
        differences = [
            (by_enumeration(name, p, q * np.exp(e)) - by_enumeration(name, p, q * np.exp(-e)))
            / (2 * step)
            for e in step * np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
        ]
        np.testing.assert_allclose(gradient, differences, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_far_apart_in_single_precision_nothing_is_nan(name):
    """N(0, 1) against N(20, 1): ratios up to e^200 and beyond the range of float32."""
    x, weights = interval(-15.0, 35.0, 4001)
    log_p, log_q = (jnp.float32(stats.norm.logpdf(x, m)) for m in (0, 20))
    made = f_divergence(name, log_p, log_q, weights.astype(jnp.float32))
    expected = {"kl": 200, "reverse_kl": 200, "pearson": np.inf, "neyman": np.inf, "gan": 0}
    expected |= {"squared_hellinger": 2, "js": 2 * LOG_2, "total_variation": 1}
    np.testing.assert_allclose(made, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", [jnp.float32, jnp.float64])
def test_a_mass_too_small_for_a_number_is_not_zero(precision):
    """At q = 0 and p = e^-1000, KL(p, q) is infinite and not NaN."""
    log_p, log_q = jnp.array([[-1000.0, 0.0], [-jnp.inf, 0.0]], precision)
    ones = jnp.ones(2, precision)
    assert kl_divergence(log_p, log_q, ones) == np.inf
    assert f_divergence("reverse_kl", log_q, log_p, ones) == np.inf
    assert kl_divergence(log_q, log_p, ones) == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("means", [(0.0, 15.0), (0.0, 20.0), (20.0, 0.0)])
def test_far_apart_the_bound_at_the_optimal_critic_is_a_bound(name, means):
    x, weights = interval(-15.0, 35.0, 4001)
    log_p, log_q = (jnp.float32(stats.norm.logpdf(x, m)) for m in means)
    of = log_p, log_q, weights.astype(jnp.float32)
    critic = F_DIVERGENCES[name].optimal_critic(log_p - log_q)
    bound = variational_bound(name, critic, *of)
    assert bound <= f_divergence(name, *of) + 1e-3
    assert bound < np.inf


def test_hellingers_bound_is_tight_where_p_is_zero():
    log_p, log_q, ones = *logs([0.0, 1.0], [0.5, 0.5]), jnp.ones(2)
    critic = F_DIVERGENCES["squared_hellinger"].optimal_critic(log_p - log_q)
    bound = variational_bound("squared_hellinger", critic, log_p, log_q, ones)
    np.testing.assert_allclose(bound, 2 - np.sqrt(2), rtol=1e-12)


# Random distributions, in which some nodes may be zero.
masses = st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1.0)), min_size=5, max_size=5)
vectors = masses.filter(lambda m: sum(m) > 0).map(lambda m: np.array(m) / np.sum(m))
positive = st.lists(st.floats(1e-3, 1.0), min_size=5, max_size=5).map(
    lambda m: np.array(m) / np.sum(m)
)
critics = st.lists(st.floats(-3.0, 3.0), min_size=5, max_size=5).map(np.array)
quick = settings(max_examples=60, deadline=None)


def compiled(function, *vectors):
    """Returns function(log p, log q, ...) of probability vectors, in float64."""
    p, q, *rest = vectors
    with jax.enable_x64(True), np.errstate(divide="ignore"):
        return jax.device_get(function(np.log(p), np.log(q), *rest))


@jax.jit
def _js(log_p, log_q):
    ones = jnp.ones(5)
    return js_divergence(log_p, log_q, ones), js_divergence(log_q, log_p, ones)


@quick
@given(vectors, vectors)
def test_js_is_between_0_and_log_2_and_symmetric(p, q):
    made, swapped = compiled(_js, p, q)
    np.testing.assert_allclose(made, swapped, atol=1e-14)
    assert -1e-14 <= made <= LOG_2 + 1e-14


@jax.jit
def _criterion(log_p, log_q):
    return criterion(log_p, log_q, jnp.ones(5)), criterion(log_p, log_p, jnp.ones(5))


@quick
@given(vectors, vectors)
def test_the_criterion_is_minus_log_4_only_at_equality(p, q):
    """Pinsker's inequality bounds the gap from below: 2 JSD >= TV^2."""
    made, at_equality = compiled(_criterion, p, q)
    total_variation = np.abs(p - q).sum() / 2
    assert made + LOG_4 >= total_variation**2 - 1e-14
    assert at_equality == pytest.approx(-LOG_4, abs=1e-14)


@jax.jit
def _values(log_p, log_q, logit):
    ones = jnp.ones(5)
    best = value(optimal_logit(log_p, log_q), log_p, log_q, ones)
    return value(logit, log_p, log_q, ones), best, criterion(log_p, log_q, ones)


@quick
@given(vectors, vectors, critics)
def test_no_discriminator_is_worth_more_than_the_optimal_one(p, q, logit):
    made, best, ceiling = compiled(_values, p, q, logit)
    assert made <= best + 1e-14
    assert best == ceiling


@partial(jax.jit, static_argnums=3)
def _bounds(log_p, log_q, output, name):
    """Returns D_f, the bound at T*, the bound at g(output), and the distance of that from T*."""
    divergence, ones = F_DIVERGENCES[name], jnp.ones(5)
    optimal = divergence.optimal_critic(optimal_logit(log_p, log_q))
    critic = divergence.activation(output)
    bounds = [variational_bound(name, t, log_p, log_q, ones) for t in (optimal, critic)]
    distance = jnp.max(jnp.abs(critic - optimal))
    return f_divergence(name, log_p, log_q, ones), *bounds, distance


@pytest.mark.parametrize("name", NAMES)
@quick
@given(p=positive, q=positive, output=critics)
def test_the_bound_is_tight_at_the_optimal_critic_and_nowhere_else(name, p, q, output):
    """At p = q, total variation's f has a kink, so other critics are as good."""
    exact, at_optimum, elsewhere, distance = compiled(_bounds, p, q, output, name)
    np.testing.assert_allclose(at_optimum, exact, rtol=1e-9, atol=1e-12)
    assert elsewhere <= exact + 1e-12
    kinked = name == "total_variation" and np.abs(p - q).max() < 1e-2
    if distance > 0.1 and not kinked:
        assert elsewhere < exact

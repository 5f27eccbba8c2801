"""The library's losses against the theory, by quadrature and on samples.

p = N(0, 1) is the data and q = N(theta, 1) the generator's, so logit D* = -theta x + theta^2 / 2.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from gan_jax import GAN, Batch, Network, losses, priors, theory
from gan_jax.algorithms.objectives import player_losses
from gan_jax.theory.quadrature import expectation, interval, standard_normal
from gan_jax.types import PlayerState, TrainState

THETAS = [0.5, 1.0, 2.0]
NAMES = sorted(theory.F_DIVERGENCES)


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def nodes():
    return interval(-14.0, 16.0, 3001)


def densities(theta):
    x, weights = nodes()
    return jax.scipy.stats.norm.logpdf(x), jax.scipy.stats.norm.logpdf(x, theta), weights


def js(theta):
    return theory.js_divergence(*densities(theta))


def kl_backward(theta):
    log_p, log_q, weights = densities(theta)
    return theory.kl_divergence(log_q, log_p, weights)


def best_logit(x, theta):
    return -theta * x + theta**2 / 2


@pytest.mark.parametrize("theta", THETAS)
def test_the_criterion_is_minus_ds_loss_at_the_optimal_logit(theta):
    log_p, log_q, weights = densities(theta)
    logit = best_logit(nodes()[0], theta)
    # softplus is per example: with equal logits the loss is the sum of its two sides.
    real = expectation(
        log_p, losses.minimax.discriminator(logit, -jnp.full_like(logit, 1e4)), weights
    )
    fake = expectation(
        log_q, losses.minimax.discriminator(jnp.full_like(logit, 1e4), logit), weights
    )
    np.testing.assert_allclose(-(real + fake), 2 * js(theta) - np.log(4), atol=1e-12)


def generator_slope(loss, theta):
    """Returns d/dtheta of E_z[loss(logit D*(theta + z))] with D* fixed, by 61 nodes for z."""
    z, weights = standard_normal(61)

    def mean(moved):
        logit = best_logit(moved + z, theta)
        return jnp.sum(weights * loss.generator(logit, logit))

    return jax.grad(mean)(theta)


@pytest.mark.parametrize("theta", THETAS)
def test_the_gradients_of_the_generators_losses(theta):
    """Goodfellow et al. 2014, and Arjovsky and Bottou 2017, theorem 2.5. The two sum to theta."""
    saturating = generator_slope(losses.minimax, theta)
    non_saturating = generator_slope(losses.non_saturating, theta)
    step = 1e-5
    of_js = (js(theta + step) - js(theta - step)) / (2 * step)
    of_kl = (kl_backward(theta + step) - kl_backward(theta - step)) / (2 * step)
    np.testing.assert_allclose(saturating, 2 * of_js, atol=1e-8)
    np.testing.assert_allclose(non_saturating, of_kl - 2 * of_js, atol=1e-8)
    np.testing.assert_allclose(saturating + non_saturating, theta, rtol=1e-9)


def library_game(loss, x):
    """Returns the library's objectives for G(z) = theta + z, logit = a x + b and real samples x."""

    def generate(params, model_state, z, label=None, *, train, key=None):
        return params + z, model_state

    def discriminate(params, model_state, x, label=None, *, train, key=None):
        return params[0] * x[:, 0] + params[1], model_state

    gan = GAN(Network(None, generate), Network(None, discriminate), priors.normal(1))
    player = PlayerState(step=0, params=(), model_state=(), opt_state=())
    state = TrainState(jax.random.key(0), player, player, ())
    return player_losses(gan, loss, state, Batch(x), jax.random.key(1))


@pytest.mark.parametrize("theta", THETAS)
def test_on_samples_through_the_librarys_own_objectives(theta):
    """With 200,000 draws, V and G's gradient of either loss are within four standard errors."""
    num = 200_000
    x = jax.random.normal(jax.random.key(2), (num, 1))
    optimal = jnp.array([-theta, theta**2 / 2])
    noise = stats.norm.rvs(size=20_000, random_state=0)
    log_d = special.log_expit(best_logit(noise, theta))
    log_not_d = special.log_expit(-best_logit(theta + noise, theta))
    error = np.sqrt((np.var(log_d) + np.var(log_not_d)) / num)
    _, d_loss = library_game(losses.minimax, x)
    assert abs(-d_loss(theta, optimal) - (2 * js(theta) - np.log(4))) < 4 * error

    for loss in (losses.minimax, losses.non_saturating):
        g_loss, _ = library_game(loss, x)
        # The integrand is -theta times a number in (0, 1), whose deviation is at most 1/2.
        made = jax.grad(g_loss)(theta, optimal)
        assert abs(made - generator_slope(loss, theta)) < 4 * theta / 2 / np.sqrt(num)


def output(name, log_ratio):
    """Returns the network output with the critic T*, by hand (Nowozin et al. 2016, table 2)."""
    return {
        "kl": 1 + log_ratio,
        "reverse_kl": log_ratio,
        "pearson": 2 * jnp.expm1(log_ratio),
        "neyman": 2 * log_ratio,
        "squared_hellinger": log_ratio / 2,
        "js": log_ratio,
        "gan": log_ratio,
        "total_variation": 50 * jnp.sign(log_ratio),
    }[name]


def discriminator_mean(loss, at_real, at_fake, log_p, log_q, weights):
    """Returns E over independent x ~ p, G(z) ~ q of a loss that is a sum of two sides, at nodes."""
    origin = jnp.zeros_like(at_real)
    constant = loss.discriminator(origin, origin)
    real = expectation(log_p, loss.discriminator(at_real, origin), weights)
    fake = expectation(log_q, loss.discriminator(origin, at_fake), weights)
    return real + fake - constant[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_f_gan_losses_give_their_divergence_at_the_optimal_critic(name):
    log_p, log_q, weights = densities(1.0)
    v = output(name, log_p - log_q)
    loss = losses.f_divergence(name)
    made = -discriminator_mean(loss, v, v, log_p, log_q, weights)
    # Densities on the grid sum to 1 up to rounding, and so does the constant's share.
    expected = theory.f_divergence(name, log_p, log_q, weights)
    np.testing.assert_allclose(made, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_no_other_output_gives_more(name):
    log_p, log_q, weights = densities(1.0)
    exact = theory.f_divergence(name, log_p, log_q, weights)
    for shift in (-0.3, 0.2):
        v = output(name, log_p - log_q + shift) if name != "total_variation" else shift * nodes()[0]
        made = -discriminator_mean(losses.f_divergence(name), v, v, log_p, log_q, weights)
        assert made < exact - 1e-4


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"total_variation"}))
def test_the_generator_descends_the_divergence(name):
    """With T* fixed, the slope of G's loss is that of D_f itself, by finite differences."""
    theta, step = 0.8, 1e-5
    z, z_weights = standard_normal(61)
    loss = losses.f_divergence(name)

    def mean(moved):
        v = output(name, best_logit(moved + z, theta))
        return jnp.sum(z_weights * loss.generator(v, v))

    up, down = (theory.f_divergence(name, *densities(theta + s)) for s in (step, -step))
    np.testing.assert_allclose(
        jax.grad(mean)(theta), (up - down) / (2 * step), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_losses_are_activation_and_conjugate_of_the_theory(name):
    v = jnp.linspace(-5.0, 5.0, 41)
    member, origin = theory.F_DIVERGENCES[name], jnp.zeros(41)
    critic = member.activation(v)
    loss, other = losses.f_divergence(name), losses.f_divergence(name, non_saturating=True)
    conjugate = member.conjugate(critic)
    np.testing.assert_allclose(loss.generator(origin, v), -conjugate, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(other.generator(origin, v), -critic, rtol=1e-9, atol=1e-15)
    expected = member.conjugate(member.activation(origin)) - critic
    np.testing.assert_allclose(loss.discriminator(v, origin), expected, rtol=1e-9, atol=1e-12)


def test_the_f_gan_of_the_gan_is_the_minimax_game():
    real, fake = np.random.default_rng(0).normal(0, 5, (2, 50))
    for made, expected in (
        (losses.f_divergence("gan"), losses.minimax),
        (losses.f_divergence("gan", non_saturating=True), losses.non_saturating),
    ):
        np.testing.assert_array_equal(
            made.discriminator(real, fake), expected.discriminator(real, fake)
        )
        np.testing.assert_array_equal(made.generator(real, fake), expected.generator(real, fake))


@pytest.mark.parametrize(("name", "limit"), [(n, 1e4 if n in ("js", "gan") else 80) for n in NAMES])
def test_finite_with_finite_gradients_in_single_precision(name, limit):
    with jax.enable_x64(False):
        v = jnp.array([-limit, 0.0, limit], jnp.float32)
        for player in losses.f_divergence(name):
            assert np.isfinite(player(v, v)).all()
            slopes = jax.grad(lambda r, f, p=player: jnp.sum(p(r, f)), argnums=(0, 1))(v, v)
            assert np.isfinite(slopes).all()


def test_another_name_is_refused():
    with pytest.raises(ValueError, match=r"name must be one of kl, .*got 'hellinger'"):
        losses.f_divergence("hellinger")

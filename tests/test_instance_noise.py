"""Noise on what D sees, against closed forms: of a linear D, and of the Dirac-GAN."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dirac import dirac_gan, start

import gan_jax
from gan_jax import Batch, Network, instance_noise, losses, mixed_scales
from gan_jax.algorithms.objectives import player_losses
from gan_jax.models.mlp import mlp
from gan_jax.parallel import AXIS_NAME, pmap_step
from gan_jax.theory.games import dirac_eigenvalues, game_eigenvalues

pytestmark = pytest.mark.usefixtures("quick_compile")

NUM = 40_000
WEIGHTS = jnp.array([3.0, -4.0])


def small_gan():
    return mlp((3,), latent=2, width=4, depth=1)


def linear(scale):
    """logit D(x) = <w, x> of noisy x [N, 2]: N(<w, x>, (5 scale)^2)."""

    def apply(params, model_state, x, label=None, *, train, key=None):
        return x @ params, model_state

    network = Network(lambda key, x, label=None: (WEIGHTS, {}), apply)
    return instance_noise(dirac_gan()._replace(discriminator=network), scale).discriminator


def logits(scale, *, train=True, passes=0):
    discriminator, x = linear(scale), jnp.ones((NUM, 2))
    params, model_state = discriminator.init(jax.random.key(0), x)
    for number in range(passes):
        key = jax.random.key(number)
        _, model_state = discriminator.apply(params, model_state, x, train=True, key=key)
    key = jax.random.key(9)
    made, _ = discriminator.apply(params, model_state, x, train=train, key=key)
    return np.asarray(made) + 1  # <w, x> = -1


def test_noise_has_its_scale_in_training_and_is_none_in_evaluation():
    made = logits(0.2)
    # Five standard errors of either.
    np.testing.assert_allclose(made.mean(), 0, atol=5 / NUM**0.5)
    np.testing.assert_allclose(made.std(), 1, atol=5 / (2 * NUM) ** 0.5)
    np.testing.assert_array_equal(logits(0.2, train=False), np.zeros(NUM))


def test_mixed_scales_are_uniform_on_a_share():
    """E e^2 = share s^2 / 3 and E e^4 = 3 share s^4 / 5, of e = 5 scale N(0, 1), s = 5 highest."""
    made, share = logits(mixed_scales(0.4, share=0.3)), 0.3
    np.testing.assert_allclose((made == 0).mean(), 1 - share, atol=5 * (0.21 / NUM) ** 0.5)
    np.testing.assert_allclose((made**2).mean(), share * 4 / 3, rtol=0.08)
    np.testing.assert_allclose((made**4).mean(), share * 3 * 16 / 5, rtol=0.2)


def test_a_schedule_is_given_the_passes_made_before():
    made = [logits(lambda key, passes: 0.2 * (passes < 2), passes=n).std() for n in (1, 2)]
    np.testing.assert_allclose(made, [1, 0], atol=0.02)


def test_an_update_of_the_discriminator_is_two_passes():
    gan = instance_noise(small_gan(), 0.1)
    tx, batch = optax.sgd(0.1), Batch(jnp.ones((2, 3)))
    state = gan_jax.init(gan, tx, tx, jax.random.key(0), batch)
    for make in (gan_jax.make_discriminator_step, gan_jax.make_generator_step):
        state, _ = jax.jit(make(gan, losses.non_saturating, tx))(state, batch)
        assert state.discriminator.model_state["passes"] == 2


def test_the_dirac_gan_has_the_eigenvalues_of_the_paper():
    """-s^2/4 +- sqrt(s^4/16 - 1/4) of the field (Mescheder et al. 2018), by the library's losses.

    The mean is over the noise of one batch, whose standard errors are .4 and .5 %.
    """
    scale, h = 1.2, 0.1
    gan, tx = instance_noise(dirac_gan(), scale), optax.sgd(h)
    state, batch = start(0.0, 0.0, tx), Batch(jnp.zeros((65536, 1)))
    discriminator = state.discriminator.replace(
        model_state={"network": {}, "passes": jnp.zeros(())}
    )
    state = state.replace(discriminator=discriminator)
    of_g, of_d = player_losses(gan, losses.minimax, state, batch, jax.random.key(3))
    made = game_eigenvalues((of_g, of_d), jnp.zeros(()), jnp.zeros(()))
    expected = dirac_eigenvalues("instance_noise", scale)
    np.testing.assert_allclose(np.sort_complex(made), np.sort_complex(expected), atol=0.01)
    assert made.real.max() < -0.3


def test_eight_devices_draw_what_one_does():
    tx, key = optax.sgd(0.1), jax.random.key(0)
    batch = Batch(jax.random.normal(jax.random.key(1), (16, 3)))

    def made(axis_name, compiled):
        gan = instance_noise(small_gan(), mixed_scales(0.5), axis_name=axis_name)
        step = gan_jax.make_discriminator_step(gan, losses.hinge, tx, axis_name=axis_name)
        state, metrics = compiled(step)(gan_jax.init(gan, tx, tx, key, batch), batch)
        return jax.tree.leaves((state.discriminator, metrics))

    for one, eight in zip(made(None, jax.jit), made(AXIS_NAME, pmap_step), strict=True):
        np.testing.assert_allclose(one, eight, rtol=2e-5, atol=1e-6)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"scale must be at least 0, got -0\.1"):
        instance_noise(small_gan(), -0.1)
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\], got 1\.5"):
        mixed_scales(1.0, share=1.5)
    discriminator = linear(1.0)
    params, model_state = discriminator.init(jax.random.key(0), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="draws in training: give apply a key"):
        discriminator.apply(params, model_state, jnp.ones((2, 2)), train=True)

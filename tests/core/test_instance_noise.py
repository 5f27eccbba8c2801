"""Instance noise against closed forms of a linear D and of the Dirac-GAN."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dirac import dirac_gan, start

import gan_jax
from gan_jax import Batch, losses
from gan_jax.algorithms.objectives import player_losses
from gan_jax.augment import instance_noise, mixed_scales
from gan_jax.models.mlp import mlp
from gan_jax.parallel import AXIS_NAME, pmap_step
from gan_jax.theory.games import dirac_eigenvalues, game_eigenvalues

pytestmark = pytest.mark.usefixtures("quick_compile")

NUM = 40_000
WEIGHTS = jnp.array([3.0, -4.0])


def small_gan():
    return mlp((3,), latent=2, width=4, depth=1)


def noisy(scale, step=0):
    """Returns the noise e [N] in the logits <w, x + noise> of x [N, 2], as D's objective draws."""
    keys = jax.random.split(jax.random.key(9), NUM)
    augmentation = instance_noise(scale)
    memory = augmentation.init()
    moved = jax.vmap(lambda key: augmentation.apply(key, jnp.ones(2), memory, jnp.array(step)))
    return np.asarray(moved(keys) @ WEIGHTS) + 1  # <w, x> = -1


def test_noise_has_its_scale():
    made = noisy(0.2)
    # Five standard errors of each mean.
    np.testing.assert_allclose(made.mean(), 0, atol=5 / NUM**0.5)
    np.testing.assert_allclose(made.std(), 1, atol=5 / (2 * NUM) ** 0.5)


def test_mixed_scales_are_uniform_on_a_share():
    """E e^2 = share s^2 / 3 and E e^4 = 3 share s^4 / 5, e = 5 scale N(0, 1), s = 5 highest."""
    made, share = noisy(mixed_scales(0.4, share=0.3)), 0.3
    # x itself is rounded where there is no noise.
    np.testing.assert_allclose(
        (np.abs(made) < 1e-6).mean(), 1 - share, atol=5 * (0.21 / NUM) ** 0.5
    )
    np.testing.assert_allclose((made**2).mean(), share * 4 / 3, rtol=0.08)
    np.testing.assert_allclose((made**4).mean(), share * 3 * 16 / 5, rtol=0.2)


def test_the_real_and_the_fake_of_each_step_have_their_own_noise(linear_gan):
    """Real and fake are both 0, so D sees the noise alone.

    A linear D keeps it in its model state.
    """
    tx, noise, batch = optax.sgd(0.0), instance_noise(0.2), Batch(jnp.zeros((1000, 2)))
    state = gan_jax.init(linear_gan, tx, tx, jax.random.key(0), batch, augmentation=noise)
    nothing = jax.tree.map(jnp.zeros_like, state.generator.params)
    state = state.replace(generator=state.generator.replace(params=nothing))
    step = jax.jit(
        gan_jax.make_discriminator_step(linear_gan, losses.hinge, tx, augmentation=noise)
    )
    seen = []
    for _ in range(2):
        state, _ = step(state, batch)
        seen += [state.discriminator.model_state[name] for name in ("before", "last")]
    flat = np.stack(seen).reshape(4, -1)
    np.testing.assert_allclose(flat.std(axis=1), 0.2, rtol=5 / 4000**0.5)
    assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 5 / 2000**0.5


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_schedule_is_given_the_updates_of_the_discriminator(accumulate):
    """The number of passes in an update does not matter.

    D's logit of a fake 0 is its noise, 5 scale.
    """
    gan, tx = dirac_gan(), optax.sgd(0.0)
    noise = instance_noise(lambda key, step: jnp.where(step < 2, 1.0, 0.0))
    batch = Batch(jnp.zeros((64, 1)))
    state = gan_jax.init(gan, tx, tx, jax.random.key(0), batch, augmentation=noise)
    state = state.replace(discriminator=state.discriminator.replace(params=jnp.array(10.0)))
    options = {"augmentation": noise, "accumulate": accumulate}
    d_step = jax.jit(gan_jax.make_discriminator_step(gan, losses.wasserstein, tx, **options))
    g_step = jax.jit(gan_jax.make_generator_step(gan, losses.wasserstein, tx, **options))
    for quiet in (False, False, True):
        assert (g_step(state, batch)[1]["generator_loss"] == 0) == quiet
        state, metrics = d_step(state, batch)
        assert (abs(metrics["value"] + np.log(4)) < 1e-5) == quiet


def test_the_dirac_gan_has_the_eigenvalues_of_the_paper():
    """The field has eigenvalues -s^2/4 +- sqrt(s^4/16 - 1/4) (Mescheder et al. 2018).

    The test uses the library's losses. The mean is over the noise of one batch, with standard
    errors of 0.4 % and 0.5 %.
    """
    scale, h = 1.2, 0.1
    tx, noise = optax.sgd(h), instance_noise(scale)
    state, batch = start(0.0, 0.0, tx), Batch(jnp.zeros((65536, 1)))
    state = state.replace(
        discriminator=state.discriminator.replace(memory={"augmentation": noise.init()})
    )
    of_g, of_d = player_losses(
        dirac_gan(), losses.minimax, state, batch, jax.random.key(3), augmentation=noise
    )
    made = game_eigenvalues((of_g, of_d), jnp.zeros(()), jnp.zeros(()))
    expected = dirac_eigenvalues("instance_noise", scale)
    np.testing.assert_allclose(np.sort_complex(made), np.sort_complex(expected), atol=0.01)
    assert made.real.max() < -0.3


def test_eight_devices_draw_what_one_does():
    tx, key = optax.sgd(0.1), jax.random.key(0)
    batch = Batch(jax.random.normal(jax.random.key(1), (16, 3)))

    def made(axis_name, compiled):
        gan, noise = small_gan(), instance_noise(mixed_scales(0.5))
        step = gan_jax.make_discriminator_step(
            gan, losses.hinge, tx, augmentation=noise, axis_name=axis_name
        )
        state = gan_jax.init(gan, tx, tx, key, batch, augmentation=noise)
        state, metrics = compiled(step)(state, batch)
        return jax.tree.leaves((state.discriminator, metrics))

    for one, eight in zip(made(None, jax.jit), made(AXIS_NAME, pmap_step), strict=True):
        np.testing.assert_allclose(one, eight, rtol=2e-5, atol=1e-6)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"scale must be at least 0, got -0\.1"):
        instance_noise(-0.1)
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\], got 1\.5"):
        mixed_scales(1.0, share=1.5)
    gan, tx, batch = small_gan(), optax.sgd(0.1), Batch(jnp.ones((2, 3)))
    state = gan_jax.init(gan, tx, tx, jax.random.key(0), batch)
    step = gan_jax.make_discriminator_step(gan, losses.hinge, tx, augmentation=instance_noise(1.0))
    with pytest.raises(ValueError, match="give init the same augmentation"):
        step(state, batch)

"""Losses against values and derivatives worked out by hand from the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.losses import LOSSES, minimax

LOG_2, LOG_3, LOG_4 = 0.69314718, 1.09861229, 1.38629436

BY_HAND = {
    # (real logit, fake logit): D = 1/2 on both; D = 3/4 and 1/4; D = 1/4 and 3/4
    "minimax": {
        (0.0, 0.0): (LOG_4, -LOG_2),
        (LOG_3, -LOG_3): (0.57536414, -0.28768207),  # -2 log 3/4, log 3/4
        (-LOG_3, LOG_3): (2 * LOG_4, -LOG_4),  # -2 log 1/4, log 1/4
    },
    "non_saturating": {
        (0.0, 0.0): (LOG_4, LOG_2),
        (LOG_3, -LOG_3): (0.57536414, LOG_4),  # -2 log 3/4, -log 1/4
        (-LOG_3, LOG_3): (2 * LOG_4, 0.28768207),  # -2 log 1/4, -log 3/4
    },
    "least_squares": {
        (0.0, 0.0): (0.5, 0.5),
        (2.0, -1.0): (1.0, 2.0),
        (-1.0, 3.0): (6.5, 2.0),
    },
    "hinge": {(0.0, 0.0): (2.0, 0.0), (2.0, -3.0): (0.0, 3.0), (-1.0, 3.0): (6.0, -3.0)},
    "wasserstein": {(0.0, 0.0): (0.0, 0.0), (2.0, -3.0): (-5.0, 3.0), (-1.0, 3.0): (4.0, -3.0)},
}


@pytest.mark.parametrize("name", LOSSES)
def test_values_by_hand(name):
    logits, expected = (
        np.array(list(column)) for column in (BY_HAND[name], BY_HAND[name].values())
    )
    for player, column in zip(LOSSES[name], expected.T, strict=True):
        np.testing.assert_allclose(player(*jnp.array(logits.T)), column, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_in_the_logits_by_hand(name, slopes):
    """-D for the saturating loss, -(1 - D) for the non-saturating one, and so on."""
    real, fake = np.random.default_rng(0).normal(0, 3, (2, 50)).astype(np.float32)
    gradient = {
        field: jax.grad(lambda r, f, p=player: jnp.sum(p(r, f)), argnums=(0, 1))(real, fake)
        for field, player in LOSSES[name]._asdict().items()
    }
    in_real, in_fake, of_generator = slopes[name](real, fake)
    np.testing.assert_allclose(gradient["discriminator"][0], in_real, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient["discriminator"][1], in_fake, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient["generator"][0], np.zeros(50))
    np.testing.assert_allclose(gradient["generator"][1], of_generator, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_values_and_derivatives_are_finite_at_huge_logits(name, player):
    logits = jnp.array([-1e4, 0.0, 1e4])
    real, fake = (axis.ravel() for axis in jnp.meshgrid(logits, logits))
    function = getattr(LOSSES[name], player)
    gradients = jax.grad(lambda r, f: jnp.sum(function(r, f)), argnums=(0, 1))(real, fake)
    assert np.isfinite(function(real, fake)).all()
    assert np.isfinite(gradients).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_each_example_is_its_own(name, player):
    """[B] -> [B], and entry i depends on entry i alone."""
    real, fake = jax.random.normal(jax.random.key(0), (2, 4))
    function = getattr(LOSSES[name], player)
    alone = [function(real[i : i + 1], fake[i : i + 1]) for i in range(4)]
    assert function(real, fake).shape == (4,)
    np.testing.assert_array_equal(function(real, fake), jnp.concatenate(alone))


class TestDiscreteExample:
    """p = (.5, .3, .2) against q = (.2, .3, .5), whose optimal D is p / (p + q)."""

    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])

    def expected_loss(self, logits):
        """E of D's loss over independent x ~ p and G(z) ~ q."""
        real, fake = jnp.repeat(logits, 3), jnp.tile(logits, 3)
        return jnp.sum(np.outer(self.p, self.q).ravel() * minimax.discriminator(real, fake))

    def test_minus_the_loss_of_the_optimal_discriminator_is_the_criterion(self):
        optimal = jnp.array(np.log(self.p) - np.log(self.q))
        np.testing.assert_allclose(-self.expected_loss(optimal), -1.2534657, atol=1e-6)
        np.testing.assert_allclose(jax.nn.sigmoid(optimal), [5 / 7, 1 / 2, 2 / 7], atol=1e-6)

    def test_the_optimal_discriminator_minimises_the_loss(self):
        optimal = jnp.array(np.log(self.p) - np.log(self.q))
        np.testing.assert_allclose(jax.grad(self.expected_loss)(optimal), np.zeros(3), atol=1e-6)
        hessian = jax.hessian(self.expected_loss)(optimal)
        assert (np.linalg.eigvalsh(hessian) > 0.1).all()

    def test_minus_the_loss_is_the_value_for_any_discriminator(self):
        d = np.array([0.9, 0.2, 0.6])
        value = np.sum(self.p * np.log(d)) + np.sum(self.q * np.log(1 - d))
        loss = self.expected_loss(jnp.array(np.log(d / (1 - d))))
        np.testing.assert_allclose(-loss, value, rtol=1e-6)

    def test_an_undecided_discriminator_has_value_minus_log_4(self):
        np.testing.assert_allclose(-self.expected_loss(jnp.zeros(3)), -LOG_4, rtol=1e-6)

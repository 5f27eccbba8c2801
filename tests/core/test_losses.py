"""Losses against values and derivatives computed by hand, and against formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_oracles import ORACLES, sigmoid

from gan_jax.losses import LOSSES, minimax, smoothed, top_k

pytestmark = pytest.mark.usefixtures("quick_compile")

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

OVERFLOW = {"f_kl", "f_reverse_kl", "f_neyman", "f_squared_hellinger"}
"""Losses with an exponential, finite for logits up to 80."""

COMPARE = {"relativistic_average"}
"""Losses whose value for one example depends on the others."""

CROSS_ENTROPIES = ["minimax", "non_saturating", "relativistic", "relativistic_average"]
PLAYERS = ["discriminator", "generator"]


def draw(num=50):
    return np.random.default_rng(0).normal(0, 3, (2, num)).astype(np.float32)


def slopes(loss, real, fake):
    """The derivatives by jax.grad equal those of `Oracle.slopes`."""
    return [
        slope
        for player in loss
        for slope in jax.grad(lambda r, f, p=player: jnp.sum(p(r, f)), argnums=(0, 1))(real, fake)
    ]


@pytest.mark.parametrize("name", BY_HAND)
def test_values_by_hand(name):
    logits, expected = (
        np.array(list(column)) for column in (BY_HAND[name], BY_HAND[name].values())
    )
    for player, column in zip(LOSSES[name], expected.T, strict=True):
        np.testing.assert_allclose(player(*jnp.array(logits.T)), column, rtol=1e-6, atol=1e-6)


def test_every_loss_has_an_oracle():
    assert LOSSES.keys() == ORACLES.keys()


@pytest.mark.parametrize("name", LOSSES)
def test_values_by_the_formula(name):
    real, fake = draw()
    expected = ORACLES[name].values(*np.float64((real, fake)))
    for player, values in zip(LOSSES[name], expected, strict=True):
        np.testing.assert_allclose(player(real, fake), values, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_in_the_logits_by_hand(name):
    """G's derivative is -D for the saturating loss, -(1 - D) for the non-saturating loss, etc."""
    real, fake = draw()
    expected = ORACLES[name].slopes(*np.float64((real, fake)))
    for made, slope in zip(slopes(LOSSES[name], real, fake), expected, strict=True):
        np.testing.assert_allclose(made, slope, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("player", PLAYERS)
def test_values_and_derivatives_are_finite_at_huge_logits(name, player):
    huge = 80 if name in OVERFLOW else 1e4
    logits = jnp.array([-huge, 0.0, huge])
    real, fake = (axis.ravel() for axis in jnp.meshgrid(logits, logits))
    function = getattr(LOSSES[name], player)
    gradients = jax.grad(lambda r, f: jnp.sum(function(r, f)), argnums=(0, 1))(real, fake)
    assert np.isfinite(function(real, fake)).all()
    assert np.isfinite(gradients).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("player", PLAYERS)
def test_each_example_is_its_own(name, player):
    """[B] -> [B]. Entry i depends on example i alone, unless the loss is listed above."""
    real, fake = jax.random.normal(jax.random.key(0), (2, 4))
    function = getattr(LOSSES[name], player)
    alone = jnp.concatenate([function(real[i : i + 1], fake[i : i + 1]) for i in range(4)])
    assert function(real, fake).shape == (4,)
    assert np.allclose(function(real, fake), alone, rtol=1e-6) == (name not in COMPARE)


# Smoothing


@pytest.mark.parametrize("name", CROSS_ENTROPIES)
def test_smoothing_makes_the_real_label_uncertain(name):
    """The loss for real is -t log D - (1 - t) log(1 - D) in place of -log D."""
    real, fake = draw()
    r, f = np.float64((real, fake))
    says_real = {"relativistic": r - f, "relativistic_average": r - f.mean()}.get(name, r)
    d = sigmoid(says_real)
    plain, of_generator = ORACLES[name].values(r, f)
    expected = plain + np.log(d) - 0.8 * np.log(d) - 0.2 * np.log(1 - d)
    loss = smoothed(LOSSES[name], 0.8)
    np.testing.assert_allclose(loss.discriminator(real, fake), expected, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(loss.generator(real, fake), of_generator, rtol=2e-5, atol=1e-6)


def test_the_smoothed_discriminator_is_best_where_the_formula_says():
    """D* = t p / (p + q) (Salimans et al. 2016, section 3.4), where t = 1 gives p / (p + q)."""
    p, q, target = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5]), 0.9
    d = target * p / (p + q)
    loss = smoothed(minimax, target).discriminator

    def expected_loss(logits):
        real, fake = jnp.repeat(logits, 3), jnp.tile(logits, 3)
        return jnp.sum(np.outer(p, q).ravel() * loss(real, fake))

    slope = jax.grad(expected_loss)(jnp.array(np.log(d / (1 - d))))
    np.testing.assert_allclose(slope, np.zeros(3), atol=1e-6)


def test_target_1_smooths_nothing():
    real, fake = draw()
    same = smoothed(minimax, 1.0).discriminator(real, fake)
    np.testing.assert_array_equal(same, minimax.discriminator(real, fake))


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - set(CROSS_ENTROPIES)))
def test_a_loss_without_labels_is_not_smoothed(name):
    with pytest.raises(ValueError, match="give minimax, non_saturating, relativistic"):
        smoothed(LOSSES[name])


@pytest.mark.parametrize("target", [0.5, 1.01, 0.1])
def test_targets_out_of_range_are_refused(target):
    with pytest.raises(ValueError, match=rf"target must be in \(0.5, 1\], got {target}"):
        smoothed(minimax, target)


# The best fakes only


@pytest.mark.parametrize(
    ("name", "share", "num"),
    [
        *((name, 0.29, 3) for name in LOSSES),
        *(("minimax", share, num) for share, num in [(1.0, 10), (0.5, 5), (0.01, 1)]),
    ],
)
def test_top_k_is_the_mean_over_the_best_fakes(name, share, num):
    """The derivatives are those of the mean over the best fakes, which NumPy selects."""
    real, fake = draw(10)
    loss = top_k(LOSSES[name], share)
    best = np.argsort(fake)[-num:]
    plain = LOSSES[name].generator(real, fake)
    np.testing.assert_allclose(
        np.mean(loss.generator(real, fake)), np.mean(np.asarray(plain)[best]), rtol=1e-5
    )
    of_fake = jax.grad(lambda f: jnp.mean(loss.generator(real, f)))(fake)
    of_best = jax.grad(lambda f: jnp.mean(LOSSES[name].generator(real, f)[best]))(fake)
    np.testing.assert_allclose(of_fake, of_best, rtol=1e-5, atol=1e-7)
    assert loss.discriminator is LOSSES[name].discriminator


def test_of_equal_fakes_exactly_k_count():
    made = top_k(minimax, 0.5).generator(jnp.zeros(4), jnp.zeros(4))
    assert np.count_nonzero(made) == 2


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(ValueError, match=rf"share must be in \(0, 1\], got {share}"):
        top_k(minimax, share)


class TestDiscreteExample:
    """p = (.5, .3, .2) against q = (.2, .3, .5). The optimal D is p / (p + q)."""

    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])

    def expected_loss(self, logits):
        """The mean of D's loss over independent x ~ p and G(z) ~ q."""
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

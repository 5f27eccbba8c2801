"""Steps for games: exact multipliers of the Dirac-GAN, closed forms and finite differences."""

import jax
import numpy as np
import optax
import pytest
from dirac import DATA, dirac_gan, multipliers, radius, start, where

import gan_jax
from gan_jax import Batch, algorithms, losses, theory

pytestmark = pytest.mark.usefixtures("quick_compile")

POINT = (0.7, -1.5)


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def players(tx, loss=losses.minimax):
    return (
        gan_jax.make_discriminator_step(dirac_gan(), loss, tx),
        gan_jax.make_generator_step(dirac_gan(), loss, tx),
    )


def in_turns(discriminator_step, generator_step):
    """Returns the state after the train step on one batch [B, ...]."""
    step = gan_jax.make_train_step(discriminator_step, generator_step)
    return lambda state, batch: step(state, jax.tree.map(lambda leaf: leaf[None], batch))


# Simultaneous steps


def test_at_once_the_dirac_gan_moves_outwards_at_the_known_rate():
    """Each step multiplies r^2 by 1 + h^2 f'(psi theta)^2, f' = sigmoid (Mescheder et al. 2018)."""
    h = 0.3
    tx = optax.sgd(h)
    step, state = jax.jit(algorithms.make_simultaneous_step(*players(tx))), start(*POINT, tx)
    for _ in range(5):
        before = where(state)
        slope = 1 / (1 + np.exp(-np.prod(before)))
        state, _ = step(state, DATA)
        growth = np.sum(where(state) ** 2) / np.sum(before**2)
        np.testing.assert_allclose(growth, 1 + h**2 * slope**2, rtol=1e-12)


def test_the_bilinear_game_at_once_and_in_turns():
    """Simultaneous steps have multipliers 1 +- i eta. Alternating steps stay on the unit circle."""
    tx = optax.sgd(0.4)
    steps, at_rest = players(tx, losses.wasserstein), start(0.0, 0.0, tx)
    made = np.sort_complex(multipliers(algorithms.make_simultaneous_step(*steps), at_rest))
    np.testing.assert_allclose(made, [1 - 0.4j, 1 + 0.4j], rtol=1e-12)
    np.testing.assert_allclose(radius(in_turns(*steps), at_rest), 1, rtol=1e-12)


def test_at_once_neither_sees_the_others_move():
    """Each player, its average and its metrics equal those of its own step."""
    steps, state = players(optax.sgd(0.1)), start(*POINT, optax.sgd(0.1))
    made, metrics = algorithms.make_simultaneous_step(*steps)(state, DATA)
    (after_d, of_d), (after_g, of_g) = (step(state, DATA) for step in steps)
    assert metrics == {**of_d, **of_g}
    for new, expected in (
        (made.discriminator, after_d.discriminator),
        (made.generator, after_g.generator),
        (made.ema_params, after_g.ema_params),
    ):
        jax.tree.map(np.testing.assert_array_equal, new, expected)


# Consensus optimization


def consensus(tx, own, other, loss=losses.minimax):
    return algorithms.make_consensus_steps(dirac_gan(), loss, tx, tx, own=own, other=other)


def test_consensus_has_the_eigenvalues_of_the_paper():
    """The field has eigenvalues -gamma/4 +- i/2. Simultaneous multipliers are 1 + h times these.

    Alternating multipliers have modulus 1 - h gamma/4.
    """
    h, gamma = 0.2, 1.5
    tx = optax.sgd(h)
    steps, at_rest = consensus(tx, gamma, gamma), start(0.0, 0.0, tx)
    made = multipliers(algorithms.make_simultaneous_step(*steps), at_rest)
    expected = 1 + h * theory.dirac_eigenvalues("consensus", gamma)
    np.testing.assert_allclose(np.sort_complex(made), np.sort_complex(expected), rtol=1e-12)
    np.testing.assert_allclose(expected[0], 1 + h * (-gamma / 4 + 0.5j))
    in_turn = np.abs(multipliers(in_turns(*steps), at_rest))
    np.testing.assert_allclose(in_turn, 1 - h * gamma / 4, rtol=1e-12)


@pytest.mark.parametrize(("own", "other"), [(0.8, 0.8), (0.0, 0.6), (0.9, 0.0)])
def test_consensus_follows_the_regularised_field(own, other):
    """A point away from equilibrium.

    The field is v = (psi s, -theta s) with s = sigmoid(theta psi).
    """
    tx = optax.sgd(0.1)
    state, _ = algorithms.make_simultaneous_step(*consensus(tx, own, other))(
        start(*POINT, tx), DATA
    )
    theta, psi = POINT
    s = 1 / (1 + np.exp(-theta * psi))
    slope = s * (1 - s)
    # Half the squared gradients, in theta and psi: (psi s)^2 / 2 for G and (theta s)^2 / 2 for D.
    of_g = np.array([psi**2 * s * slope * psi, psi * s**2 + psi**2 * s * slope * theta])
    of_d = np.array([theta * s**2 + theta**2 * s * slope * psi, theta**2 * s * slope * theta])
    field = np.array([psi * s, -theta * s])
    field -= np.array([own * of_g[0] + other * of_d[0], other * of_g[1] + own * of_d[1]])
    np.testing.assert_allclose(where(state) - POINT, 0.1 * field, rtol=1e-10)
    if own == other:
        game = theory.consensus(theory.dirac_gan("minimax"), own)
        np.testing.assert_allclose(field, theory.vector_field(game, *POINT), rtol=1e-10)


def test_the_gradients_own_norms_do_not_stop_the_turning():
    tx = optax.sgd(0.2)
    at_rest = start(0.0, 0.0, tx)
    plain = radius(algorithms.make_simultaneous_step(*players(tx)), at_rest)
    own = radius(algorithms.make_simultaneous_step(*consensus(tx, 2.0, 0.0)), at_rest)
    other = radius(algorithms.make_simultaneous_step(*consensus(tx, 0.0, 2.0)), at_rest)
    np.testing.assert_allclose([plain, own], np.sqrt(1 + 0.1**2), rtol=1e-12)
    assert other < 1


def test_consensus_of_networks_is_on_one_batch_and_one_noise(linear_gan):
    """x = A z + b and D(x) = w.x + c, Wasserstein: both losses and both gradients are means."""
    tx, weight, rate = optax.sgd(0.1), 0.7, 0.1
    batch = Batch(jax.random.normal(jax.random.key(1), (6, 2)))
    state = gan_jax.init(linear_gan, tx, tx, jax.random.key(0), batch)
    steps = algorithms.make_consensus_steps(
        linear_gan, losses.wasserstein, tx, tx, own=weight, other=weight
    )
    (after_d, metrics), (after_g, _) = (step(state, batch) for step in steps)
    a, b, w = (
        np.asarray(x)
        for x in (*map(state.generator.params.get, "Ab"), state.discriminator.params["w"])
    )
    real = np.mean(batch.x, axis=0)

    fake = np.mean(after_d.discriminator.model_state["last"], axis=0)
    noise = np.linalg.solve(a, fake - b)
    np.testing.assert_allclose(metrics["discriminator_loss"], w @ (fake - real), rtol=1e-10)
    gradient = fake - real + weight * w * (1 + noise @ noise)
    np.testing.assert_allclose(after_d.discriminator.params["w"], w - rate * gradient, rtol=1e-10)

    noise = np.mean(after_g.generator.model_state["last"], axis=0)
    push = -w + weight * (a @ noise + b - real)
    expected = {"A": a - rate * np.outer(push, noise), "b": b - rate * push}
    for name, value in expected.items():
        np.testing.assert_allclose(after_g.generator.params[name], value, rtol=1e-10)


@pytest.mark.parametrize("weights", [(-0.1, 0.0), (0.0, float("nan"))])
def test_weights_that_are_refused(weights):
    with pytest.raises(ValueError, match=r"(own|other) must be at least 0, got (-0\.1|nan)"):
        consensus(optax.sgd(0.1), *weights)

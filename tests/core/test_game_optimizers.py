"""Optimizers for games: exact rates on the bilinear game, and their algorithms in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dirac import DATA, dirac_gan, multipliers, radius, repeated, start, where

import gan_jax
from gan_jax import algorithms, losses, optimizers

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def players(tx, loss=losses.wasserstein):
    return (
        gan_jax.make_discriminator_step(dirac_gan(), loss, tx),
        gan_jax.make_generator_step(dirac_gan(), loss, tx),
    )


def at_once(tx, loss=losses.wasserstein, calls=1):
    """Returns the state after `calls` simultaneous steps, compiled as one program."""
    return repeated(algorithms.make_simultaneous_step(*players(tx, loss)), calls)


@pytest.mark.parametrize("eta", [0.5, 1.2])
def test_extragradient_has_the_rate_of_the_bilinear_game(eta):
    """The multipliers are 1 - eta^2 +- i eta. They converge for eta < 1; no plain step does."""
    tx = optimizers.extragradient(optax.sgd(eta))
    made = radius(at_once(tx, calls=2), start(0.0, 0.0, tx))
    np.testing.assert_allclose(made, np.sqrt(1 - eta**2 + eta**4), rtol=1e-12)


def test_extragradient_draws_the_dirac_gan_in():
    """Checked by the derivative at the origin, +-i/2 for +-i, and by a long run from (1, 1)."""
    eta = 0.8
    tx = optimizers.extragradient(optax.sgd(eta))
    step = at_once(tx, losses.minimax, calls=2)
    expected = np.sqrt(1 - (eta / 2) ** 2 + (eta / 2) ** 4)
    np.testing.assert_allclose(radius(step, start(0.0, 0.0, tx)), expected, rtol=1e-12)
    state, _ = jax.jit(repeated(step, 200))(start(1.0, 1.0, tx), DATA)
    assert np.hypot(*where(state)) < 1e-5


def extra_adam(gradient, point, rate, b1, b2, eps, num):
    """Returns the points after each call of Gidel et al. 2019, algorithm 4, in NumPy."""
    m, v, made = np.zeros(2), np.zeros(2), []
    for t in range(1, num + 1):
        began = point
        for call in (2 * t - 1, 2 * t):
            g = gradient(point)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            point = began - rate * (m / (1 - b1**call)) / (np.sqrt(v / (1 - b2**call)) + eps)
            made.append(point)
    return made


def dirac_gradient(point):
    """Returns the gradients of L_G = -softplus(psi theta) and L_D = softplus(psi theta)."""
    theta, psi = point
    sigmoid = 1 / (1 + np.exp(-theta * psi))
    return np.array([-psi * sigmoid, theta * sigmoid])


@pytest.mark.parametrize("adam", [optax.adam, optimizers.adam])
def test_extra_adam_is_algorithm_4(adam):
    settings = {"b1": 0.5, "b2": 0.9, "eps": 1e-3}
    tx = optimizers.extragradient(adam(0.05, **settings))
    step, state = jax.jit(at_once(tx, losses.minimax)), start(0.7, -1.5, tx)
    expected = extra_adam(dirac_gradient, where(state), 0.05, **settings, num=6)
    for point in expected:
        state, _ = step(state, DATA)
        np.testing.assert_allclose(where(state), point, rtol=1e-10)


@pytest.mark.parametrize("eta", [0.3, 0.57, 0.585])
def test_optimistic_descent_converges_below_one_over_root_three(eta):
    """The multipliers solve l^2 - (1 + 2 i eta) l + i eta = 0, and the same with -i."""
    tx = optax.optimistic_gradient_descent(eta)
    # The first step is a plain step, so the second one is checked.
    state, _ = at_once(tx)(start(0.0, 0.0, tx), DATA)
    made = radius(at_once(tx), state)
    roots = np.roots([1, -(1 + 2j * eta), 1j * eta])
    np.testing.assert_allclose(made, np.abs(roots).max(), rtol=1e-10)
    assert (made < 1) == (eta < 1 / np.sqrt(3))


def test_optimistic_adam_comes_to_rest_where_adam_does_not():
    distance = {}
    for adam in (optax.adam, optax.optimistic_adam_v2):
        tx = adam(0.05, b1=0.0, b2=0.9, eps=0.1)
        state, _ = jax.jit(at_once(tx, calls=300))(start(0.5, 0.5, tx), DATA)
        distance[adam] = np.hypot(*where(state))
    assert distance[optax.optimistic_adam_v2] < 1e-3
    assert distance[optax.adam] > 0.3


@pytest.mark.parametrize("alternating", [False, True])
@pytest.mark.parametrize(("every", "alpha"), [(1, 0.3), (5, 0.5)])
def test_lookahead_has_the_rate_of_the_bilinear_game(alternating, every, alpha):
    """The multipliers are 1 - alpha + alpha l^k, for each multiplier l of the wrapped step.

    This holds if both players step back at once. In alternating steps D steps back before G's last
    update. The whole map is then (1 - alpha) I + alpha M^k, with G's last update linear in D's new
    position, as the matrices below show.
    """
    eta = 0.4
    tx = optimizers.lookahead(optax.sgd(eta), every, alpha)
    steps = players(tx)
    if not alternating:
        step, base = algorithms.make_simultaneous_step(*steps), np.array([[1, eta], [-eta, 1]])
        expected = 1 - alpha + alpha * np.linalg.eigvals(base) ** every
    else:
        turns = gan_jax.make_train_step(*steps)

        def step(state, batch):
            return turns(state, jax.tree.map(lambda leaf: leaf[None], batch))

        of_d, of_g = np.array([[1, 0], [-eta, 1]]), np.array([[1, eta], [0, 1]])
        before = np.linalg.matrix_power(of_g @ of_d, every - 1)
        d_back = of_d @ before
        d_back[1] = alpha * d_back[1] + (1 - alpha) * np.eye(2)[1]
        whole = of_g @ d_back
        whole[0] = alpha * whole[0] + (1 - alpha) * np.eye(2)[0]
        expected = np.linalg.eigvals(whole)
    made = multipliers(repeated(step, every), start(0.0, 0.0, tx))
    moving = made[np.abs(made) > 1e-9]  # without those of the overwritten slow weights
    np.testing.assert_allclose(np.sort_complex(moving), np.sort_complex(expected), rtol=1e-10)


def test_lookahead_brings_in_what_turns_outwards_without_it():
    distance = {}
    for every in (1, 5):
        tx = optimizers.lookahead(optax.sgd(0.3), every, 0.5 if every > 1 else 1.0)
        state, _ = jax.jit(at_once(tx, calls=100))(start(1.0, 1.0, tx), DATA)
        distance[every] = np.hypot(*where(state))
    np.testing.assert_allclose(distance[1], np.sqrt(2) * (1 + 0.3**2) ** 50)
    rate = abs(0.5 + 0.5 * (1 + 0.3j) ** 5)
    np.testing.assert_allclose(distance[5], np.sqrt(2) * rate**20)
    assert rate < 1


def test_lookahead_is_that_of_optax():
    """One player descends. Its parameters equal the fast parameters of `optax.lookahead`."""
    ours = optimizers.lookahead(optax.adam(0.1), 3, 0.4)
    theirs = optax.lookahead(optax.adam(0.1), 3, 0.4)
    params = jnp.array([1.0, -2.0, 0.5])
    pair = optax.LookaheadParams.init_synced(params)
    states = ours.init(params), theirs.init(pair)
    for _ in range(8):
        updates, mine = ours.update(params**3, states[0], params)
        params = optax.apply_updates(params, updates)
        pair_updates, other = theirs.update(pair.fast**3, states[1], pair)
        pair, states = optax.apply_updates(pair, pair_updates), (mine, other)
        np.testing.assert_allclose(params, pair.fast, rtol=1e-12)
        np.testing.assert_allclose(mine.slow, pair.slow, rtol=1e-12)


@pytest.mark.parametrize("wrap", [optimizers.extragradient, lambda tx: optimizers.lookahead(tx, 2)])
def test_a_donated_state_holds_no_array_twice(wrap):
    """No array is held twice after a step either, and the parameters' types are kept."""
    with jax.enable_x64(False):
        tx = wrap(optax.sgd(0.1))
        params = {"w": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(())}
        step = jax.jit(lambda p, s: tx.update(p, s, p), donate_argnums=(0, 1))
        carry = params, tx.init(params)
        types = jax.tree.map(lambda leaf: leaf.dtype, carry)
        for _ in range(3):
            carry = step(*carry)
            assert jax.tree.map(lambda leaf: leaf.dtype, carry) == types


@pytest.mark.parametrize("wrap", [optimizers.extragradient, lambda tx: optimizers.lookahead(tx, 2)])
def test_what_the_wrapped_optimizer_is_told_reaches_it(wrap):
    """Polyak's step for x^2 / 2 at 3: the value divided by the squared gradient is 1 / 2."""
    params = jnp.array(3.0)
    for tx in (wrap(optax.polyak_sgd()), optax.chain(wrap(optax.polyak_sgd()), optax.identity())):
        updates, _ = tx.update(params, tx.init(params), params, value=params**2 / 2)
        np.testing.assert_allclose(updates, -3 / 2, rtol=1e-5)
    plain = wrap(optax.sgd(0.1))  # this optimizer takes no value
    plain.update(params, plain.init(params), params, value=params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda tx: optimizers.lookahead(tx, 0), "every must be at least 1, got 0"),
        (lambda tx: optimizers.lookahead(tx, 2, 0.0), r"alpha must be above 0.*got 0\.0"),
        (lambda tx: optimizers.lookahead(tx, 2, 1.5), r"alpha must be .*at most 1, got 1\.5"),
        (lambda tx: optimizers.lookahead(tx, 2).update(1.0, None), "lookahead needs the param"),
        (lambda tx: optimizers.extragradient(tx).update(1.0, None), "extragradient needs the"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(optax.sgd(0.1))

"""Weights that are schedules, and lazy penalties on the Dirac-GAN, by its linear map."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from experiments.dirac_gan import build
from gan_jax.losses import minimax
from gan_jax.penalties import lazy, r1
from gan_jax.theory.games import dirac_gan, game_jacobian

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(autouse=True)
def _in_double_precision():
    with jax.enable_x64(True):
        yield


RATE = 0.1
THETA, PSI = 0.9, -0.4


def discriminator_step(weight, penalty=r1):
    """Returns the first state of the Dirac-GAN, its batch and D's step."""
    gan, state, batch = build(0.0, THETA, PSI)
    tx = optax.sgd(RATE)
    state = gan_jax.init(gan, tx, tx, state.key, batch)
    step = gan_jax.make_discriminator_step(gan, minimax, tx, penalties=[(penalty, weight)])
    return state, batch, step


# Forms of a weight


WEIGHTS = {
    "a number": (0.3, [0.3] * 4),
    "an array": (np.float32(0.5), [0.5] * 4),
    "optax's": (optax.linear_schedule(0.5, 0.1, 2), [0.5, 0.3, 0.1, 0.1]),
    "optax's constant": (optax.constant_schedule(0.2), [0.2] * 4),
    "lazy": (lazy(0.3, 2), [0.6, 0, 0.6, 0]),
    "lazy always": (lazy(0.3, 1), [0.3] * 4),
    "lazy, of a schedule": (lazy(lambda step: 0.1 * (1 + step), 3), [0.3, 0, 0, 1.2]),
    "lazy, of an array": (lazy(np.float32(0.5), 2), [1.0, 0, 1.0, 0]),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_each_update_has_the_schedules_weight(name):
    """psi <- psi - h (theta sigmoid(psi theta) + weight 2 psi), as R1 of D(x) = psi x is psi^2."""
    weight, expected = WEIGHTS[name]
    state, batch, step = discriminator_step(weight)
    _, (path, metrics) = jax.jit(
        lambda state: jax.lax.scan(
            lambda s, _: (lambda after, m: (after, (after.discriminator.params, m["r1"])))(
                *step(s, batch)
            ),
            state,
            length=4,
        )
    )(state)
    psi = PSI
    for made, metric, size in zip(path, metrics, expected, strict=True):
        np.testing.assert_allclose(metric, psi**2 if size else 0.0, rtol=1e-6)
        psi -= RATE * (THETA / (1 + np.exp(-psi * THETA)) + size * 2 * psi)
        np.testing.assert_allclose(made, psi, rtol=1e-6)


def test_a_weight_may_be_traced():
    """d psi / d weight = -h 2 psi after one update. An ensemble has a weight for each member."""

    def updated(weight):
        state, batch, step = discriminator_step(weight)
        return step(state, batch)[0].discriminator.params

    np.testing.assert_allclose(jax.jit(jax.grad(updated))(0.3), -RATE * 2 * PSI, rtol=1e-9)
    weights = jnp.array([0.0, 0.3, 1.0])
    plain = PSI - RATE * THETA / (1 + np.exp(-PSI * THETA))
    expected = plain - RATE * np.array(weights) * 2 * PSI
    np.testing.assert_allclose(jax.jit(jax.vmap(updated))(weights), expected, rtol=1e-6)
    scheduled = jax.jit(jax.vmap(lambda weight: updated(lazy(weight, 1))))
    np.testing.assert_allclose(scheduled(weights), expected, rtol=1e-6)


def test_where_the_schedule_is_0_nothing_is_computed():
    """A skipped penalty costs no time, and a penalty that is not finite there does no harm."""
    calls = []

    def loud(critic, real, fake, key):
        jax.debug.callback(lambda: calls.append(1))
        return r1(critic, real, fake, key)

    def broken(critic, real, fake, key):
        return jnp.nan * r1(critic, real, fake, key)

    def scan(weight, penalty):
        state, batch, step = discriminator_step(weight, penalty)
        return jax.jit(lambda state: jax.lax.scan(lambda s, _: step(s, batch), state, length=7)[0])(
            state
        )

    scan(lazy(0.1, 3), loud)
    jax.effects_barrier()
    assert len(calls) == 3
    scan(0.1, loud)
    jax.effects_barrier()
    assert len(calls) == 3 + 7
    assert np.isfinite(scan(lambda step: 0.0 * step, broken).discriminator.params)
    assert np.isnan(scan(0.0, broken).discriminator.params)


@pytest.mark.parametrize(
    ("weight", "num"), [(0.1, 0), (lambda step: 0.1, 0), (lazy(0.1, 3), 1), (lazy(0.1, 1), 1)]
)
def test_only_a_schedule_of_the_step_makes_a_branch(weight, num):
    state, batch, step = discriminator_step(weight)
    branches = sum(eqn.primitive.name == "cond" for eqn in jax.make_jaxpr(step)(state, batch).eqns)
    assert bool(branches) == bool(num)


@pytest.mark.parametrize("every", [0, -3])
def test_every_below_1_is_refused(every):
    with pytest.raises(ValueError, match=f"every must be at least 1, got {every}"):
        lazy(0.1, every)


# Lazy penalties: near (0, 0), k train steps of the Dirac-GAN are a product of matrices.


def train_step(rate, weight, every, theta=0.0, psi=0.0):
    """Returns the first state at a point, its batch and the train step with a lazy R1."""
    gan, state, batch = build(0.0, theta, psi)
    tx = optax.sgd(rate)
    state = gan_jax.init(gan, tx, tx, state.key, batch)
    step = gan_jax.make_train_step(
        gan_jax.make_discriminator_step(gan, minimax, tx, penalties=[(r1, lazy(weight, every))]),
        gan_jax.make_generator_step(gan, minimax, tx),
    )
    return state, jax.tree.map(lambda leaf: leaf[None], batch), step


def advance(state, batch, step, num):
    """Returns (theta, psi) after `num` train steps."""
    state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, batch), s, length=num))(state)
    return jnp.stack([state.generator.params, state.discriminator.params])


def of_public_steps(rate, weight, every):
    """Returns the Jacobian [2, 2] of `every` train steps in (theta, psi), at (0, 0)."""
    state, batch, step = train_step(rate, weight, every)

    def period(point):
        moved = state.replace(
            generator=state.generator.replace(params=point[0]),
            discriminator=state.discriminator.replace(params=point[1]),
        )
        return advance(moved, batch, step, every)

    return np.asarray(jax.jit(jax.jacfwd(period))(jnp.zeros(2)))


def of_theory(rate, weight, every):
    """Returns the same from theory's field: half-steps of D and G, once with the penalty."""

    def alternating(gamma):
        field = np.asarray(game_jacobian(dirac_gan("r1", gamma), 0.0, 0.0))
        discriminator, generator = (
            np.eye(2) + rate * np.diag(moves) @ field for moves in ([0, 1], [1, 0])
        )
        return generator @ discriminator

    between = np.linalg.matrix_power(alternating(0.0), every - 1)
    return between @ alternating(2 * every * weight)  # R1's weight is gamma / 2


def radius(matrix):
    return np.abs(np.linalg.eigvals(matrix)).max()


@pytest.mark.parametrize("every", [1, 2, 9, 11])
def test_a_period_is_the_product_of_theorys_maps_and_has_the_docstrings_limit(every):
    """The determinant is 1 - 2 h k w.

    With h = 0.2 and w = 1/2 the steps converge for k < 10 only.
    """
    made = of_public_steps(0.2, 0.5, every)
    np.testing.assert_allclose(made, of_theory(0.2, 0.5, every), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(made), 1 - 2 * 0.2 * every * 0.5, atol=1e-12)
    assert (radius(made) < 1) == (every < 10)


def test_lazy_by_little_converges_as_if_it_were_not():
    """The rate of 400 steps from (1, 1) is that of the eigenvalues."""
    rates = {}
    for every in (1, 2, 4):
        end = np.hypot(*advance(*train_step(0.05, 0.25, every, 1.0, 1.0), 400))
        rates[every] = (end / np.sqrt(2)) ** (1 / 400)
        np.testing.assert_allclose(
            rates[every], radius(of_theory(0.05, 0.25, every)) ** (1 / every), atol=2e-3
        )
    assert 1 - rates[1] > 0.01
    np.testing.assert_allclose(rates[2], rates[1], atol=1e-3)
    np.testing.assert_allclose(rates[4], rates[1], atol=2e-3)


def test_lazy_by_much_diverges_where_each_update_converges():
    """With h = 0.2 and gamma = 1 the limit is 10.

    StyleGAN2's interval of 16 updates is above it.
    """
    near = advance(*train_step(0.2, 0.5, 1, 0.01, 0.01), 320)
    far = advance(*train_step(0.2, 0.5, 16, 0.01, 0.01), 320)
    assert np.hypot(*near) < 1e-4
    assert np.hypot(*far) > 1
    period = of_theory(0.2, 0.5, 16)
    assert radius(period) > 1.5
    # Near the equilibrium the two eigenvalues have opposite signs and almost equal size.
    made = advance(*train_step(0.2, 0.5, 16, 1e-9, 1e-9), 160)
    expected = np.linalg.matrix_power(period, 10) @ [1e-9, 1e-9]
    np.testing.assert_allclose(made, expected, rtol=1e-6)


def test_kicks_every_half_turn_damp_one_direction_only():
    """Without R1 a step turns by phi, with cos phi = 1 - h^2 / 8.

    At k phi = pi the period is minus the kick, so theta changes its sign forever.
    """
    every, weight = 8, 0.1
    rate = np.sqrt(8 * (1 - np.cos(np.pi / every)))
    kick = 1 - 2 * rate * every * weight
    np.testing.assert_allclose(
        of_public_steps(rate, weight, every), -np.diag([1, kick]), atol=1e-12
    )
    assert abs(kick) < 1
    assert radius(of_public_steps(rate, weight, 1)) < 0.95

"""Unrolled GANs: gradients through D's steps, by finite differences and on the bilinear game."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dirac import DATA, dirac_gan, multipliers, start, where

import gan_jax
from gan_jax import Batch, algorithms, losses, optimizers
from gan_jax.models.mlp import mlp

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def of_the_dirac_gan(tx, loss=losses.minimax):
    """Returns D's step."""
    return gan_jax.make_discriminator_step(dirac_gan(), loss, tx)


def unrolled(tx, discriminator_tx, unroll, loss=losses.minimax, **options):
    discriminator_step = of_the_dirac_gan(discriminator_tx, loss)
    return algorithms.make_unrolled_generator_step(
        dirac_gan(), loss, tx, discriminator_step, unroll=unroll, **options
    )


def adam_in_numpy(rate, b1, b2, eps):
    """Returns a number after updates by given gradients, one after the other."""
    m = v = count = 0

    def update(gradient):
        nonlocal m, v, count
        m, v, count = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2, count + 1
        return -rate * (m / (1 - b1**count)) / (np.sqrt(v / (1 - b2**count)) + eps)

    return update


ADAM = {"b1": 0.5, "b2": 0.9, "eps": 1e-2}
OF_D = {
    "sgd": (optax.sgd(0.3), lambda: lambda gradient: -0.3 * gradient),
    "adam": (optimizers.adam(0.3, **ADAM), lambda: adam_in_numpy(0.3, **ADAM)),
}
"""D's optimizer, and a function that makes its counterpart in NumPy."""


def answered(theta, psi, name, unroll):
    """Returns G's loss with the D that has responded, in NumPy."""
    update = OF_D[name][1]()
    for _ in range(unroll):
        psi = psi + update(theta / (1 + np.exp(-psi * theta)))
    return -np.logaddexp(0, psi * theta)


@pytest.mark.parametrize("point", [(0.7, -1.5), (0.0, 0.4)])
@pytest.mark.parametrize("name", OF_D)
def test_unrolled_gradients_are_those_of_finite_differences(name, point):
    """At theta = 0 D's gradient is 0, where the root in Adam has an infinite derivative."""
    theta, psi = point
    discriminator_tx, unroll = OF_D[name][0], 3
    step = unrolled(optax.sgd(1.0), discriminator_tx, unroll, accumulate=2)
    state = start(theta, psi, optax.sgd(1.0), discriminator_tx)
    after, metrics = step(state, DATA)
    h = 1e-6
    up, down = (answered(theta + s, psi, name, unroll) for s in (h, -h))
    np.testing.assert_allclose(
        theta - where(after)[0], (up - down) / (2 * h), rtol=1e-3 if theta == 0 else 1e-7
    )
    np.testing.assert_allclose(metrics["generator_loss"], answered(theta, psi, name, unroll))
    # D itself has not changed.
    jax.tree.map(np.testing.assert_array_equal, after.discriminator, state.discriminator)


@pytest.mark.parametrize("unroll", [1, 4])
def test_unrolling_calms_the_bilinear_game(unroll):
    """psi_k = psi - k eta theta, so G descends -theta psi + k eta theta^2."""
    eta = 0.2
    tx = optax.sgd(eta)
    steps = of_the_dirac_gan(tx, losses.wasserstein), unrolled(tx, tx, unroll, losses.wasserstein)
    made = multipliers(algorithms.make_simultaneous_step(*steps), start(0.0, 0.0, tx))
    expected = np.linalg.eigvals([[1 - 2 * unroll * eta**2, eta], [-eta, 1]])
    np.testing.assert_allclose(np.sort_complex(made), np.sort_complex(expected), rtol=1e-10)
    # The determinant is 1 + eta^2 - 2 k eta^2, which is below 1 from one step on.
    assert np.abs(made).max() < 1


@pytest.fixture(scope="module")
def networks():
    """Returns an MLP on points of the plane, D's Adam, a batch and a state."""
    with jax.enable_x64(True):
        gan, tx = mlp((2,), latent=2, width=5, depth=1), optimizers.adam(0.05, eps=1e-3)
        batch = Batch(jax.random.normal(jax.random.key(1), (8, 2)))
        state = gan_jax.init(gan, optax.sgd(1.0), tx, jax.random.key(0), batch)
        # Flax's initializers use float32.
        return (
            gan,
            tx,
            batch,
            jax.tree.map(lambda a: a.astype(float) if a.dtype == "float32" else a, state),
        )


def of_networks(networks, unroll, axis_name=None):
    gan, tx, _, _ = networks
    discriminator_step = gan_jax.make_discriminator_step(
        gan,
        losses.non_saturating,
        tx,
        penalties=[(gan_jax.penalties.r1, 0.5)],
        axis_name=axis_name,
    )
    step = algorithms.make_unrolled_generator_step(
        gan,
        losses.non_saturating,
        optax.sgd(1.0),
        discriminator_step,
        unroll=unroll,
        axis_name=axis_name,
    )
    return step


def test_unrolled_gradients_of_networks_in_a_random_direction(networks):
    """The gradient is that of the loss a step reports, by finite differences."""
    _, _, batch, state = networks
    step = jax.jit(of_networks(networks, 2))
    keys = iter(jax.random.split(jax.random.key(5), 10))
    params = state.generator.params
    direction = jax.tree.map(lambda a: jax.random.normal(next(keys), a.shape), params)

    def loss(shift):
        moved = jax.tree.map(lambda p, d: p + shift * d, params, direction)
        return step(state.replace(generator=state.generator.replace(params=moved)), batch)

    slope = (loss(1e-5)[1]["generator_loss"] - loss(-1e-5)[1]["generator_loss"]) / 2e-5
    after, _ = loss(0.0)
    gradient = jax.tree.map(jnp.subtract, params, after.generator.params)
    np.testing.assert_allclose(optax.tree.vdot(gradient, direction), slope, rtol=1e-6)


def test_without_unrolling_it_is_the_plain_step(networks):
    gan, _, batch, state = networks
    plain = gan_jax.make_generator_step(gan, losses.non_saturating, optax.sgd(1.0))
    made, expected = (jax.jit(step)(state, batch) for step in (of_networks(networks, 0), plain))
    (made, metrics), (expected, plain_metrics) = made, expected
    assert metrics == plain_metrics
    made, expected = made.replace(key=0), expected.replace(key=0)
    jax.tree.map(np.testing.assert_array_equal, made, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unroll": -1}, "unroll must be at least 0, got -1"),
        ({"unroll": 1, "accumulate": 0}, "accumulate must be at least 1, got 0"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        unrolled(optax.sgd(0.1), optax.sgd(0.1), **options)

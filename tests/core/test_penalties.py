"""Penalties against closed forms of linear and quadratic critics and of the Dirac-GAN.

`test_consistency.py` and `test_lecam.py` test the further features of these two penalties.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import gan_jax
from gan_jax import GAN, Batch, Network
from gan_jax.losses import minimax
from gan_jax.penalties import PENALTIES, dragan, gradient_penalty, r1, r2

pytestmark = pytest.mark.usefixtures("quick_compile")

SHAPES = [(5, 3), (5, 4, 4, 2)]
"""Batches of vectors and of images."""

OF_SLOPE = {
    "r1": lambda norm: norm**2,
    "r2": lambda norm: norm**2,
    "gradient_penalty": lambda norm: (norm - 1) ** 2,
    "one_sided_gradient_penalty": lambda norm: max(norm - 1, 0) ** 2,
    "dragan": lambda norm: (norm - 1) ** 2,
}
"""Each penalty on D's gradient, for a critic whose gradient has the same norm everywhere."""


def draw(shape, num=3):
    return jax.random.normal(jax.random.key(0), (num, *shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 0.01])
@pytest.mark.parametrize("name", OF_SLOPE)
def test_of_a_linear_critic(name, scale, shape):
    """One critic has a slope above 1, and one has a slope below 1."""
    real, fake, noise = draw(shape)
    weights = scale * noise[0]
    penalty = PENALTIES[name](
        lambda x: jnp.tensordot(x, weights, weights.ndim) + 1.0, real, fake, jax.random.key(1)
    )
    expected = OF_SLOPE[name](np.sqrt(np.sum(np.square(weights))))
    np.testing.assert_allclose(penalty, np.full(5, expected), rtol=1e-5)


def test_every_penalty_is_here_or_in_a_file_of_its_own():
    assert OF_SLOPE.keys() | {"real_consistency", "consistency", "lecam"} == PENALTIES.keys()


@pytest.mark.parametrize(("penalty", "at"), [(r1, 0), (r2, 1)])
def test_of_a_quadratic_critic(penalty, at):
    """logit = x'Ax / 2 has gradient Ax. R1 takes it at real samples and R2 at fakes."""
    samples = draw((5, 3), 2)
    symmetric = np.array([[2.0, 1.0, 0.0], [1.0, -1.0, 0.5], [0.0, 0.5, 3.0]])
    made = penalty(lambda x: jnp.sum(x * (x @ symmetric), axis=1) / 2, *samples, jax.random.key(1))
    expected = np.sum((np.asarray(samples[at]) @ symmetric) ** 2, axis=1)
    np.testing.assert_allclose(made, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_penalty_is_taken_on_the_segment_from_fake_to_real(shape):
    """Each example has its own share in [0, 1].

    The shares are uniform, as far as 5 draws can tell.
    """
    real, fake = draw(shape, 2)
    seen = []

    def critic(x):
        jax.debug.callback(seen.append, x)
        return 2.0 * jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))

    penalty = gradient_penalty(critic, real, fake, jax.random.key(1))
    jax.effects_barrier()
    (points,) = seen
    shares = ((points - fake) / (real - fake)).reshape(5, -1)
    np.testing.assert_allclose(shares, shares.mean(1, keepdims=True) + 0 * shares, atol=1e-3)
    assert (shares.mean(1) > 0).all()
    assert (shares.mean(1) < 1).all()
    assert len(np.unique(shares.mean(1).round(3))) == 5
    norm = 4 * np.linalg.norm(points.reshape(5, -1), axis=1)
    np.testing.assert_allclose(penalty, (norm - 1) ** 2, rtol=1e-4)


def test_gradient_penalty_draws_its_points_uniformly():
    """On a line with real 1, fake 0 and the critic x^2 / 2, the penalty is (share - 1)^2."""
    ones = jnp.ones((4000, 1))
    penalty = gradient_penalty(lambda x: jnp.square(x[:, 0]) / 2, ones, 0 * ones, jax.random.key(1))
    share = 1 - np.sqrt(penalty)
    deciles = np.quantile(share, np.linspace(0.1, 0.9, 9))
    np.testing.assert_allclose(deciles, np.linspace(0.1, 0.9, 9), atol=0.04)  # 5 standard errors


def test_dragan_is_taken_at_uniform_noise_of_uniform_size_around_the_data():
    """x + a 0.5 std u. With 4000 numbers per example the largest u is 1 to within 1/1000."""
    real = 3 + 2 * jax.random.normal(jax.random.key(0), (300, 4000))
    seen = []

    def critic(x):
        jax.debug.callback(seen.append, x)
        return jnp.sum(jnp.square(x), axis=1) / 200

    penalty = dragan(critic, real, jnp.nan * real, jax.random.key(1))
    jax.effects_barrier()
    (points,) = (np.float64(x) for x in seen)
    norm = np.linalg.norm(points, axis=1) / 100
    np.testing.assert_allclose(penalty, (norm - 1) ** 2, rtol=1e-3)
    noise = (points - real) / (0.5 * np.std(np.float64(real)))
    assert noise.min() > -1e-6
    shares = noise.max(axis=1)
    assert stats.kstest(shares, "uniform").pvalue > 0.01
    assert stats.kstest((noise / shares[:, None]).ravel()[::60], "uniform").pvalue > 0.01


@pytest.mark.parametrize("name", OF_SLOPE)
def test_finite_with_finite_gradient_where_the_critic_is_flat(name):
    """At w = 0 the critic w.x has slope 0, where the square root has an infinite derivative."""
    real, fake = draw((5, 3), 2)

    def mean(w):
        return jnp.mean(PENALTIES[name](lambda x: x @ w, real, fake, jax.random.key(1)))

    value, gradient = jax.value_and_grad(mean)(jnp.zeros(3))
    assert value == OF_SLOPE[name](0.0)
    np.testing.assert_array_equal(gradient, np.zeros(3))


def drift(key, x):
    return x + 0.3 * jax.random.normal(key, x.shape)


ON_VECTORS = {
    **PENALTIES,
    "real_consistency": partial(PENALTIES["real_consistency"], augment=drift),
    "consistency": partial(PENALTIES["consistency"], augment=drift),
    "lecam": lambda *given: PENALTIES["lecam"].apply(
        *given, {"real": 0.2, "fake": -0.3, "weight": 0.5}
    )[0],
}
"""Returns the penalties as functions of four arguments, for examples that are not images."""


@pytest.mark.parametrize("name", ON_VECTORS)
def test_gradient_in_the_critics_parameters_is_that_of_finite_differences(name):
    real, fake, noise = (a.astype(np.float64) for a in np.asarray(draw((5, 3))))

    with jax.enable_x64(True):

        def mean(w):
            def critic(x):
                return jnp.sum(jnp.tanh(x * w[None]), axis=1)

            key = jax.random.key(1)
            return jnp.mean(ON_VECTORS[name](critic, jnp.array(real), jnp.array(fake), key))

        gradient = jax.grad(mean)(jnp.array(noise[0]))
        differences = [
            (mean(noise[0] + step) - mean(noise[0] - step)) / 2e-5 for step in 1e-5 * np.eye(3)
        ]
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8)


def dirac_gan(theta, psi):
    """G is the point theta and D(x) = psi x (Mescheder et al. 2018)."""

    def generator(params, model_state, z, label=None, *, train, key=None):
        return jnp.full_like(z, 1.0) * params, model_state

    def discriminator(params, model_state, x, label=None, *, train, key=None):
        return params * x[:, 0], model_state

    return GAN(
        Network(lambda key, z, label=None: (jnp.float32(theta), {}), generator),
        Network(lambda key, x, label=None: (jnp.float32(psi), {}), discriminator),
        lambda key, num: jnp.zeros((num, 1)),
    )


@pytest.mark.parametrize("name", OF_SLOPE)
def test_one_step_of_the_dirac_gan_in_closed_form(name):
    """psi <- psi - h (theta sigmoid(psi theta) + gamma/2 d penalty / d psi), data at 0."""
    theta, psi, rate, gamma = 0.7, -1.5, 0.1, 3.0
    gan, tx, batch = dirac_gan(theta, psi), optax.sgd(rate), Batch(jnp.zeros((4, 1)))
    state = gan_jax.init(gan, tx, tx, jax.random.key(0), batch)
    penalties = [(partial(PENALTIES[name]), gamma / 2)]
    step = gan_jax.make_discriminator_step(gan, minimax, tx, penalties=penalties)
    state, metrics = step(state, batch)
    adversarial = theta / (1 + np.exp(-psi * theta))
    slope = 2 * psi if name in ("r1", "r2") else 2 * (psi + 1)
    expected = psi - rate * (adversarial + gamma / 2 * slope)
    np.testing.assert_allclose(state.discriminator.params, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics[name], OF_SLOPE[name](abs(psi)), rtol=1e-5)


def test_r1_makes_the_dirac_gan_converge_and_without_it_it_does_not():
    """The equilibrium is (0, 0). Alternating steps start from (1, 1), with gamma = 1 or 0."""
    distance = {}
    for gamma in (0.0, 1.0):
        gan, tx, batch = dirac_gan(1.0, 1.0), optax.sgd(0.2), Batch(jnp.zeros((1, 1, 1)))
        state = gan_jax.init(gan, tx, tx, jax.random.key(0), Batch(batch.x[0]))
        step = gan_jax.make_train_step(
            gan_jax.make_discriminator_step(gan, minimax, tx, penalties=[(r1, gamma / 2)]),
            gan_jax.make_generator_step(gan, minimax, tx),
        )
        state, _ = jax.lax.scan(lambda s, _, f=step, b=batch: f(s, b), state, length=200)
        distance[gamma] = np.hypot(state.generator.params, state.discriminator.params)
    assert distance[1.0] < 1e-3
    assert distance[0.0] > 0.5


def test_the_same_penalty_twice_is_refused():
    tx = optax.sgd(0.1)
    with pytest.raises(ValueError, match="different names"):
        gan_jax.make_discriminator_step(
            dirac_gan(0, 0), minimax, tx, penalties=[(r1, 1.0), (partial(r1), 2.0)]
        )

"""Algorithm 1 and the moving average: many steps, and whole trainings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_steps import REAL, make, start

import gan_jax
from gan_jax import GAN, Batch, Network, penalties, priors
from gan_jax.losses import non_saturating

pytestmark = pytest.mark.usefixtures("quick_compile")


# The moving average


def test_ema_by_hand(linear_gan):
    step = jax.jit(make("generator", linear_gan, ema_decay=0.8))
    state = start(linear_gan)
    expected = np.asarray(state.generator.params["A"])
    for _ in range(4):
        state, _ = step(state, Batch(REAL))
        expected = 0.8 * expected + 0.2 * np.asarray(state.generator.params["A"])
    np.testing.assert_allclose(state.ema_params["A"], expected, rtol=1e-5)
    assert np.abs(expected - state.generator.params["A"]).max() > 1e-3


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_an_ema_decay_out_of_range_is_refused(linear_gan, decay):
    with pytest.raises(ValueError, match=rf"ema_decay must be in \[0, 1\), got {decay}"):
        make("generator", linear_gan, ema_decay=decay)


def test_ema_decay_may_be_a_schedule_of_the_updates_made(linear_gan):
    """n / (n + 1) makes it the plain mean of all parameters since the first update."""
    step = jax.jit(make("generator", linear_gan, ema_decay=lambda n: n / (n + 1.0)))
    state, history = start(linear_gan), []
    for _ in range(4):
        state, _ = step(state, Batch(REAL))
        history.append(np.asarray(state.generator.params["A"]))
    np.testing.assert_allclose(state.ema_params["A"], np.mean(history, axis=0), rtol=1e-5)


# Algorithm 1


@pytest.mark.parametrize("n_critic", [1, 3])
def test_train_step_is_n_discriminator_steps_then_one_generator_step(n_critic, linear_gan):
    """Each D step on a minibatch of its own, in order; G's step and the metrics on the last."""
    discriminator_step = make("discriminator", linear_gan, penalties=[(penalties.r1, 0.5)])
    generator_step = make("generator", linear_gan)
    x = jax.random.normal(jax.random.key(1), (n_critic, 6, 2))
    train_step = gan_jax.make_train_step(discriminator_step, generator_step, n_critic=n_critic)
    together, metrics = train_step(start(linear_gan), Batch(x))

    state = start(linear_gan)
    for minibatch in x:
        state, of_discriminator = discriminator_step(state, Batch(minibatch))
    state, of_generator = generator_step(state, Batch(x[-1]))
    assert (together.discriminator.step, together.generator.step) == (n_critic, 1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        (together.replace(key=0), metrics),
        (state.replace(key=0), {**of_discriminator, **of_generator}),
    )


def test_labels_reach_both_networks_and_the_sampler(linear_gan):
    """Conditional players that add the label to their input, so that it shows in what they see."""

    def conditional(network):
        def apply(params, model_state, x, label=None, *, train, key=None):
            return network.apply(params, model_state, x + label[:, None], train=train, key=key)

        return Network(lambda key, x, label: network.init(key, x), apply)

    gan = GAN(
        conditional(linear_gan.generator),
        conditional(linear_gan.discriminator),
        lambda key, num: jnp.zeros((num, 2)),
    )
    label = jnp.array([0.0, 10, 20, 30, 40, 50])
    batch = Batch(REAL, label)
    state = start(gan, batch)
    columns = np.stack([label, label], axis=1)

    # The penalty's critic is conditional too: without the label it could not be applied.
    options = {"penalties": [(penalties.r1, 1.0)]}
    after, _ = make("discriminator", gan, **options)(state, batch)
    seen = after.discriminator.model_state
    np.testing.assert_allclose(seen["before"], REAL + columns, rtol=1e-6)
    fake = columns @ np.asarray(state.generator.params["A"]).T
    np.testing.assert_allclose(seen["last"], fake + columns, rtol=1e-5)

    after, _ = make("generator", gan)(state, batch)
    np.testing.assert_array_equal(after.generator.model_state["last"], columns)
    made = gan_jax.sample(gan, state, jax.random.key(0), 6, label)
    np.testing.assert_allclose(made, fake, rtol=1e-5)


# Whole trainings


def test_a_bare_pair_of_functions_learns_the_mean_of_a_gaussian():
    """G(z) = z + b against logit = w x + c on N(3, 1), with R1: b ends near 3. No Flax."""

    def generator(params, model_state, z, label=None, *, train, key=None):
        return z + params, model_state

    def discriminator(params, model_state, x, label=None, *, train, key=None):
        return params[0] * x[:, 0] + params[1], model_state

    gan = GAN(
        Network(lambda key, z, label=None: (jnp.zeros(()), ()), generator),
        Network(lambda key, x, label=None: (jnp.zeros(2), ()), discriminator),
        priors.normal(1),
    )
    train_step = gan_jax.make_train_step(
        make("discriminator", gan, non_saturating, penalties=[(penalties.r1, 0.25)]),
        make("generator", gan, non_saturating, ema_decay=0.98),
    )
    data = 3 + jax.random.normal(jax.random.key(1), (600, 1, 64, 1))

    @jax.jit
    def train(state):
        return jax.lax.scan(train_step, state, Batch(data))[0]

    state = start(gan, Batch(data[0, 0]))
    assert abs(train(state).ema_params - 3) < 0.1
    assert train(state).generator.params == train(state).generator.params


def test_gradients_flow_through_whole_train_steps(linear_gan):
    """d (G's loss after two train steps) / d (each learning rate), against finite differences."""
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(1), (2, 2, 6, 2), jnp.float64)
        gan = linear_gan._replace(
            prior=lambda key, num: jax.random.normal(key, (num, 2), jnp.float64)
        )
        state = start(gan, Batch(x[0, 0]))

        def loss(rates):
            step = gan_jax.make_train_step(
                make("discriminator", gan, tx=optax.sgd(rates[0])),
                make("generator", gan, tx=optax.sgd(rates[1])),
                n_critic=2,
            )
            return jax.lax.scan(step, state, Batch(x))[1]["generator_loss"][-1]

        rates = jnp.array([0.1, 0.2])
        gradient = jax.jit(jax.grad(loss))(rates)
        compiled = jax.jit(loss)
        differences = [(compiled(rates + h) - compiled(rates - h)) / 2e-5 for h in 1e-5 * np.eye(2)]
    assert (np.abs(gradient) > 1e-3).all()
    np.testing.assert_allclose(gradient, differences, rtol=1e-6)

"""Algorithm 1 and the moving average: many steps, and complete trainings."""

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
    """The decay n / (n + 1) gives the mean of all parameters since the first update."""
    step = jax.jit(make("generator", linear_gan, ema_decay=lambda n: n / (n + 1.0)))
    state, history = start(linear_gan), []
    for _ in range(4):
        state, _ = step(state, Batch(REAL))
        history.append(np.asarray(state.generator.params["A"]))
    np.testing.assert_allclose(state.ema_params["A"], np.mean(history, axis=0), rtol=1e-5)


# Algorithm 1


@pytest.mark.parametrize("n_critic", [1, 3])
def test_train_step_is_n_discriminator_steps_then_one_generator_step(n_critic, linear_gan):
    """Each D step gets its own minibatch, in order. G's step and the metrics use the last one."""
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
    """Conditional players that add the label to their input, so the test can see it."""

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

    # The penalty's critic is conditional too, and it could not be applied without the label.
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


@pytest.mark.parametrize(
    ("num", "label", "message"),
    [
        (1, jnp.zeros(4, int), r"num = 1, but label has shape \(4,\)"),
        (4, jnp.zeros((), int), r"num = 4, but label has shape \(\)"),
        (2, {"a": jnp.zeros((2, 3)), "b": jnp.zeros((3, 2))}, r"num = 2, .* shape \(3, 2\)"),
        (0, None, "num must be at least 1, got 0"),
    ],
)
def test_another_number_of_labels_than_samples_is_refused(num, label, message, linear_gan):
    with pytest.raises(ValueError, match=message):
        gan_jax.sample(linear_gan, start(linear_gan), jax.random.key(0), num, label)


def test_the_default_average_soon_forgets_the_start(linear_gan):
    """After 50 updates by 1 each, the start at -1000 has no weight, by NumPy.

    The decay is (1 + n) / (10 + n), so the average lags by a tenth of the updates.
    """
    constant = optax.GradientTransformation(
        lambda params: (), lambda g, state, params: (jax.tree.map(jnp.ones_like, g), state)
    )
    state = start(linear_gan, tx=constant)
    b, average = -1000.0, -1000.0
    params = {"A": jnp.eye(2), "b": jnp.full(2, b)}
    state = gan_jax.warm_start(state, generator=params)
    step = make("generator", linear_gan, tx=constant)
    state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, Batch(REAL)), s, length=50))(
        state
    )
    for n in range(50):
        b += 1.0
        decay = min(0.999, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * b
    np.testing.assert_allclose(state.ema_params["b"], average, rtol=1e-6)
    assert state.generator.params["b"][0] - average < 6


def test_a_highest_decay_out_of_range_is_refused():
    assert gan_jax.rising_decay(0.9)(10**6) == np.float32(0.9)
    for highest in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"highest must be in \[0, 1\), got {highest}"):
            gan_jax.rising_decay(highest)


# Complete trainings


def test_samples_of_a_short_run_are_those_of_the_generator():
    """b goes from 0 to near 3 in 300 steps. With a constant decay of .999 its average is at 0.5."""
    train_step, state, data = mean_of_a_gaussian()
    state, _ = jax.jit(lambda s: jax.lax.scan(train_step, s, Batch(data[:300])))(state)
    made = float(state.generator.params)
    assert made > 2.5
    assert abs(state.ema_params - made) < 0.3


def mean_of_a_gaussian(**options):
    """G(z) = z + b and logit = w x + c on N(3, 1), with R1 and without Flax.

    Returns the train step, its first state, and 600 batches.
    """

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
        make("generator", gan, non_saturating, **options),
    )
    data = 3 + jax.random.normal(jax.random.key(1), (600, 1, 64, 1))
    return train_step, start(gan, Batch(data[0, 0])), data


def test_a_bare_pair_of_functions_learns_the_mean_of_a_gaussian():
    """b ends near 3."""
    train_step, state, data = mean_of_a_gaussian(ema_decay=0.98)

    @jax.jit
    def train(state):
        return jax.lax.scan(train_step, state, Batch(data))[0]

    assert abs(train(state).ema_params - 3) < 0.1
    assert train(state).generator.params == train(state).generator.params


def test_gradients_flow_through_whole_train_steps(linear_gan):
    """The derivative of G's loss after two steps in each rate, against finite differences."""
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

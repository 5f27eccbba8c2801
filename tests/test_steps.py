"""The steps against updates written by hand in NumPy, and their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from gan_jax import GAN, Batch, Network, penalties, priors
from gan_jax.losses import LOSSES, minimax, non_saturating

RATE = 0.1
SGD = optax.sgd(RATE)
pytestmark = pytest.mark.usefixtures("quick_compile")
ROLES = ["discriminator", "generator"]

REAL = jax.random.normal(jax.random.key(7), (6, 2)) + 1.0


def start(gan, batch=None, tx=SGD, seed=0):
    batch = Batch(REAL) if batch is None else batch
    return _init(gan, tx, tx, jax.random.key(seed), batch)


_init = jax.jit(gan_jax.init, static_argnums=(0, 1, 2))


def make(role, gan, loss=minimax, tx=SGD, **options):
    makers = {
        "discriminator": gan_jax.make_discriminator_step,
        "generator": gan_jax.make_generator_step,
    }
    return makers[role](gan, loss, tx, **options)


def assert_same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def numpy_of(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


# One step, written by hand


@pytest.mark.parametrize("name", LOSSES)
def test_discriminator_step_by_hand(name, linear_gan, slopes):
    """w <- w - h mean(dL/dr x + dL/df G(z)), c <- c - h mean(dL/dr + dL/df)."""
    state = start(linear_gan)
    after, metrics = make("discriminator", linear_gan, LOSSES[name])(state, Batch(REAL))
    seen, old, new = numpy_of(
        (after.discriminator.model_state, state.discriminator.params, after.discriminator.params)
    )
    real, fake = seen["before"], seen["last"]
    np.testing.assert_array_equal(real, REAL)

    of_real, of_fake, _ = slopes[name](real @ old["w"] + old["c"], fake @ old["w"] + old["c"])
    in_w = np.mean(of_real[:, None] * real + of_fake[:, None] * fake, axis=0)
    in_c = np.mean(of_real + of_fake)
    np.testing.assert_allclose(new["w"], old["w"] - RATE * in_w, atol=1e-6)
    np.testing.assert_allclose(new["c"], old["c"] - RATE * in_c, atol=1e-6)
    norm = np.sqrt(np.sum(in_w**2) + in_c**2)
    np.testing.assert_allclose(metrics["discriminator_gradient_norm"], norm, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_generator_step_by_hand(name, linear_gan, slopes):
    """With s = dL/df w: A <- A - h mean(s z'), b <- b - h mean(s)."""
    state = start(linear_gan)
    after, metrics = make("generator", linear_gan, LOSSES[name])(state, Batch(REAL))
    old, new, frozen = numpy_of(
        (state.generator.params, after.generator.params, state.discriminator.params)
    )
    z = np.asarray(after.generator.model_state["last"], np.float64)
    fake_logits = (z @ old["A"].T + old["b"]) @ frozen["w"] + frozen["c"]
    slope = slopes[name](fake_logits, fake_logits)[2][:, None] * frozen["w"]
    in_a, in_b = slope.T @ z / len(z), slope.mean(0)
    np.testing.assert_allclose(new["A"], old["A"] - RATE * in_a, atol=1e-6)
    np.testing.assert_allclose(new["b"], old["b"] - RATE * in_b, atol=1e-6)
    norm = np.sqrt(np.sum(in_a**2) + np.sum(in_b**2))
    np.testing.assert_allclose(metrics["generator_gradient_norm"], norm, rtol=1e-5)
    fakes = jnp.asarray(fake_logits)
    expected = np.mean(LOSSES[name].generator(fakes, fakes))
    np.testing.assert_allclose(metrics["generator_loss"], expected, rtol=1e-5, atol=1e-6)


def test_penalties_are_added_with_their_weights(linear_gan):
    """Of a linear D, R1 is |w|^2: two steps differing by weight 3 differ by 3 h 2 w."""
    state = start(linear_gan)
    plain, without = make("discriminator", linear_gan)(state, Batch(REAL))
    options = {"penalties": [(penalties.r1, 3.0)]}
    penalised, metrics = make("discriminator", linear_gan, **options)(state, Batch(REAL))
    w = np.asarray(state.discriminator.params["w"])
    difference = plain.discriminator.params["w"] - penalised.discriminator.params["w"]
    np.testing.assert_allclose(difference, RATE * 3 * 2 * w, rtol=1e-5)
    np.testing.assert_allclose(metrics["r1"], np.sum(w**2), rtol=1e-5)
    assert metrics["discriminator_loss"] == without["discriminator_loss"]


# Laws of one step


@pytest.mark.parametrize("role", ROLES)
def test_a_step_moves_its_player_and_freezes_the_other(role, linear_gan):
    (other,) = {*ROLES} - {role}
    state = start(linear_gan)
    after, _ = jax.jit(make(role, linear_gan))(state, Batch(REAL))
    assert_same(getattr(after, other), getattr(state, other))
    moved = optax.tree.sub(getattr(after, role).params, getattr(state, role).params)
    assert optax.tree.norm(moved) > 1e-3
    assert getattr(after, role).step == 1
    assert jax.random.key_data(after.key).tolist() == jax.random.key_data(state.key).tolist()
    if role == "discriminator":
        assert_same(after.ema_params, state.ema_params)


@pytest.mark.parametrize("role", ROLES)
def test_a_step_is_a_function_of_its_arguments(role, linear_gan):
    """Twice the same gives the same, and the state that went in is what it was."""
    state, step = start(linear_gan), make(role, linear_gan)
    before = jax.tree.map(np.array, state.replace(key=jax.random.key_data(state.key)))
    first, second = step(state, Batch(REAL)), step(state, Batch(REAL))
    assert_same(first[0].replace(key=0), second[0].replace(key=0))
    assert_same(first[1], second[1])
    assert_same(state.replace(key=jax.random.key_data(state.key)), before)


def test_every_draw_of_noise_is_fresh(linear_gan):
    """In two rounds of two D steps and a G step: over steps, roles, examples and seeds."""
    steps = {role: make(role, linear_gan, tx=optax.set_to_zero()) for role in ROLES}
    drawn = []
    for seed in (0, 1):
        state = start(linear_gan, tx=optax.set_to_zero()).replace(key=jax.random.key(seed))
        for role in ["discriminator", "discriminator", "generator"] * 2:
            state, _ = steps[role](state, Batch(REAL))
            seen = getattr(state, role).model_state["last"]
            if role == "discriminator":  # which saw A z + b
                params = state.generator.params
                seen = np.linalg.solve(params["A"], (seen - params["b"][None]).T).T
            drawn.append(seen)
    drawn = np.concatenate(drawn)
    assert drawn.shape == (2 * 6 * 6, 2)
    assert len(np.unique(drawn.round(3), axis=0)) == len(drawn)


# Metrics


def test_metrics_names(linear_gan):
    options = {"penalties": [(penalties.r1, 1.0), (penalties.gradient_penalty, 1.0)]}
    discriminator_step = make("discriminator", linear_gan, **options)
    generator_step = make("generator", linear_gan)
    state = start(linear_gan)
    of_discriminator = {
        "discriminator_loss",
        "value",
        "jsd_lower_bound",
        "real_accuracy",
        "fake_accuracy",
        "r1",
        "gradient_penalty",
        "discriminator_gradient_norm",
    }
    of_generator = {"generator_loss", "generator_gradient_norm"}
    assert set(discriminator_step(state, Batch(REAL))[1]) == of_discriminator
    assert set(generator_step(state, Batch(REAL))[1]) == of_generator
    both = gan_jax.make_train_step(discriminator_step, generator_step)
    _, metrics = both(state, Batch(REAL[None]))
    assert set(metrics) == of_discriminator | of_generator
    assert all(value.shape == () for value in metrics.values())


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_accuracies_are_those_of_d_whatever_the_loss(name, linear_gan):
    """V = E[log D] + E[log(1 - D)] by NumPy, the bound (V + log 4) / 2."""
    state = start(linear_gan)
    after, metrics = make("discriminator", linear_gan, LOSSES[name])(state, Batch(REAL))
    seen, params = numpy_of((after.discriminator.model_state, state.discriminator.params))
    real, fake = (seen[which] @ params["w"] + params["c"] for which in ("before", "last"))
    d_real, d_fake = 1 / (1 + np.exp(-real)), 1 / (1 + np.exp(-fake))
    value = np.mean(np.log(d_real)) + np.mean(np.log(1 - d_fake))
    np.testing.assert_allclose(metrics["value"], value, rtol=1e-5)
    bound = (value + np.log(4)) / 2
    np.testing.assert_allclose(metrics["jsd_lower_bound"], bound, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["real_accuracy"], np.mean(d_real > 0.5))
    np.testing.assert_allclose(metrics["fake_accuracy"], np.mean(d_fake < 0.5))
    if name in ("minimax", "non_saturating"):
        np.testing.assert_allclose(metrics["discriminator_loss"], -value, rtol=1e-5)


def test_an_undecided_discriminator_has_value_minus_log_4_and_bound_0(linear_gan):
    state = start(linear_gan)
    undecided = state.discriminator.replace(
        params=jax.tree.map(jnp.zeros_like, state.discriminator.params)
    )
    step = make("discriminator", linear_gan)
    _, metrics = step(state.replace(discriminator=undecided), Batch(REAL))
    np.testing.assert_allclose(metrics["value"], -np.log(4), rtol=1e-6)
    np.testing.assert_allclose(metrics["jsd_lower_bound"], 0, atol=1e-6)


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


# Errors


@pytest.mark.parametrize("n_critic", [0, -1])
def test_n_critic_below_one_is_refused(n_critic):
    with pytest.raises(ValueError, match=f"at least 1, got {n_critic}"):
        gan_jax.make_train_step(None, None, n_critic=n_critic)


@pytest.mark.parametrize("leading", [(), (1,), (3,)])
def test_a_batch_without_one_minibatch_per_critic_step_is_refused(leading, linear_gan):
    steps = [make(role, linear_gan) for role in ROLES]
    train_step = gan_jax.make_train_step(*steps, n_critic=2)
    with pytest.raises(ValueError, match=r"n_critic = 2: stack .* \[2, B, \.\.\.\]"):
        train_step(start(linear_gan), Batch(jnp.zeros((*leading, 6, 2))))


@pytest.mark.parametrize("role", ROLES)
def test_logits_in_a_column_are_refused(role, linear_gan):
    """[B, 1] would broadcast against [B] to a wrong [B, B] without a word."""
    flat = linear_gan.discriminator

    def column(*arguments, **options):
        y, model_state = flat.apply(*arguments, **options)
        return y[:, None], model_state

    gan = linear_gan._replace(discriminator=Network(flat.init, column))
    with pytest.raises(ValueError, match=r"shape \(6, 1\) for a batch of 6.*shape \(6,\)"):
        make(role, gan)(start(gan), Batch(REAL))


def test_a_generator_of_another_shape_than_the_data_is_refused(linear_gan):
    with pytest.raises(ValueError, match=r"samples of shape \(2,\), the data have shape \(3,\)"):
        start(linear_gan, Batch(jnp.zeros((6, 3))))


# The state


@pytest.mark.parametrize("jit", [False, True])
def test_no_two_arrays_of_the_first_state_share_a_buffer(jit, linear_gan):
    """A shared one could not be donated."""
    tx = optax.adam(1e-3)

    def make_state(key):
        return gan_jax.init(linear_gan, tx, tx, key, Batch(REAL))

    key = jax.random.key(0)
    state = (jax.jit(make_state) if jit else make_state)(key)
    arrays = [state.replace(key=jax.random.key_data(state.key)), jax.random.key_data(key)]
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(arrays)]
    assert len(set(pointers)) == len(pointers)
    jax.jit(make("generator", linear_gan, tx=tx), donate_argnums=0)(state, Batch(REAL))
    read = (state.generator.params, state.generator.opt_state, state.ema_params)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(read))


def test_init_reads_shapes_only(linear_gan):
    """Other data of the same shape, the same state; another seed, another state."""
    state, same = start(linear_gan), start(linear_gan, Batch(REAL + 5))
    assert_same(state.replace(key=0), same.replace(key=0))
    assert_same(state.ema_params, state.generator.params)
    assert (state.generator.step, state.discriminator.step) == (0, 0)
    other = start(linear_gan, seed=1)
    assert (state.generator.params["A"] != other.generator.params["A"]).all()
    assert (state.discriminator.params["w"] != other.discriminator.params["w"]).all()


# The sampler


def test_a_sample_depends_on_its_index_and_not_on_how_many(linear_gan):
    state = start(linear_gan)
    ten = gan_jax.sample(linear_gan, state, jax.random.key(0), 10)
    three = gan_jax.sample(linear_gan, state, jax.random.key(0), 3)
    assert ten.shape == (10, 2)
    np.testing.assert_allclose(three, ten[:3], rtol=1e-6)
    assert len(np.unique(ten, axis=0)) == 10
    other = gan_jax.sample(linear_gan, state, jax.random.key(1), 10)
    assert (np.abs(other - ten) > 1e-6).all()


def test_samples_are_of_the_moving_average_unless_told_otherwise(linear_gan):
    """With A = 0 the sample is b."""
    state = start(linear_gan)
    generator = state.generator.replace(params={"A": jnp.zeros((2, 2)), "b": jnp.full(2, 1.0)})
    state = state.replace(
        generator=generator, ema_params={"A": jnp.zeros((2, 2)), "b": jnp.full(2, -1.0)}
    )
    assert (gan_jax.sample(linear_gan, state, jax.random.key(0), 4) == -1).all()
    assert (gan_jax.sample(linear_gan, state, jax.random.key(0), 4, ema=False) == 1).all()


def test_samples_are_made_in_evaluation_mode():
    """`train` is False, and the running state is read, not the batch."""

    def apply(params, model_state, z, label=None, *, train, key=None):
        return jnp.full_like(z, 100.0) if train else model_state + 0 * z, model_state

    network = Network(lambda key, z, label=None: ({}, jnp.full((1, 1), 5.0)), apply)
    critic = Network(
        lambda key, x, label=None: ({}, ()), lambda p, m, x, label=None, **_: (x[:, 0], m)
    )
    gan = GAN(network, critic, priors.normal(1))
    state = start(gan, Batch(jnp.zeros((4, 1))))
    np.testing.assert_array_equal(gan_jax.sample(gan, state, jax.random.key(0), 3), [[5.0]] * 3)

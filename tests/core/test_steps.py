"""The steps against updates written in NumPy, and general laws of a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from loss_oracles import ORACLES
from small_steps import RATE, REAL, ROLES, assert_same, make, numpy_of, start

import gan_jax
from gan_jax import Batch, Network, penalties
from gan_jax.losses import LOSSES

pytestmark = pytest.mark.usefixtures("quick_compile")


# One step, in NumPy


@pytest.mark.parametrize("name", LOSSES)
def test_discriminator_step_by_hand(name, linear_gan):
    """w <- w - h mean(dL/dr x + dL/df G(z)), c <- c - h mean(dL/dr + dL/df)."""
    state = start(linear_gan)
    after, metrics = make("discriminator", linear_gan, LOSSES[name])(state, Batch(REAL))
    seen, old, new = numpy_of(
        (after.discriminator.model_state, state.discriminator.params, after.discriminator.params)
    )
    real, fake = seen["before"], seen["last"]
    np.testing.assert_array_equal(real, REAL)

    logits = (x @ old["w"] + old["c"] for x in (real, fake))
    of_real, of_fake, _, _ = ORACLES[name].slopes(*logits)
    in_w = np.mean(of_real[:, None] * real + of_fake[:, None] * fake, axis=0)
    in_c = np.mean(of_real + of_fake)
    np.testing.assert_allclose(new["w"], old["w"] - RATE * in_w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["c"], old["c"] - RATE * in_c, rtol=1e-5, atol=1e-6)
    norm = np.sqrt(np.sum(in_w**2) + in_c**2)
    np.testing.assert_allclose(metrics["discriminator_gradient_norm"], norm, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_generator_step_by_hand(name, linear_gan):
    """With s = dL/df w: A <- A - h mean(s z'), b <- b - h mean(s)."""
    state = start(linear_gan)
    after, metrics = make("generator", linear_gan, LOSSES[name])(state, Batch(REAL))
    old, new, frozen = numpy_of(
        (state.generator.params, after.generator.params, state.discriminator.params)
    )
    z = np.asarray(after.generator.model_state["last"], np.float64)
    fake = z @ old["A"].T + old["b"]
    logits = [x @ frozen["w"] + frozen["c"] for x in (np.asarray(REAL, np.float64), fake)]
    slope = ORACLES[name].slopes(*logits)[3][:, None] * frozen["w"]
    in_a, in_b = slope.T @ z / len(z), slope.mean(0)
    np.testing.assert_allclose(new["A"], old["A"] - RATE * in_a, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["b"], old["b"] - RATE * in_b, rtol=1e-5, atol=1e-6)
    norm = np.sqrt(np.sum(in_a**2) + np.sum(in_b**2))
    np.testing.assert_allclose(metrics["generator_gradient_norm"], norm, rtol=1e-5)
    expected = np.mean(ORACLES[name].values(*logits)[1])
    np.testing.assert_allclose(metrics["generator_loss"], expected, rtol=1e-5, atol=1e-6)


def test_penalties_are_added_with_their_weights(linear_gan):
    """For a linear D, R1 is |w|^2: a weight of 3 changes the update by 3 h 2 w."""
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
    """Equal inputs give equal results, and the input state does not change."""
    state, step = start(linear_gan), make(role, linear_gan)
    before = jax.tree.map(np.array, state.replace(key=jax.random.key_data(state.key)))
    first, second = step(state, Batch(REAL)), step(state, Batch(REAL))
    assert_same(first[0].replace(key=0), second[0].replace(key=0))
    assert_same(first[1], second[1])
    assert_same(state.replace(key=jax.random.key_data(state.key)), before)


def test_every_draw_of_noise_is_fresh(linear_gan):
    """Two rounds of two D steps and a G step: draws differ by step, role, example and seed."""
    steps = {role: make(role, linear_gan, tx=optax.set_to_zero()) for role in ROLES}
    drawn = []
    for seed in (0, 1):
        state = start(linear_gan, tx=optax.set_to_zero()).replace(key=jax.random.key(seed))
        for role in ["discriminator", "discriminator", "generator"] * 2:
            state, _ = steps[role](state, Batch(REAL))
            seen = getattr(state, role).model_state["last"]
            if role == "discriminator":  # D saw A z + b
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


@pytest.mark.parametrize("name", ["minimax", "non_saturating", "wasserstein", "relativistic"])
def test_value_and_accuracies_are_those_of_d_whatever_the_loss(name, linear_gan):
    """V = E[log D] + E[log(1 - D)] in NumPy. The bound is (V + log 4) / 2."""
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
def test_logits_in_a_column_train_as_the_vector_does(role, linear_gan):
    """[B, 1] would broadcast against [B] to a wrong [B, B] without an error."""
    flat = linear_gan.discriminator

    def column(*arguments, **options):
        y, model_state = flat.apply(*arguments, **options)
        return y[:, None], model_state

    gan = linear_gan._replace(discriminator=Network(flat.init, column))
    (made, m), (expected, n) = (make(role, g)(start(g), Batch(REAL)) for g in (gan, linear_gan))
    assert_same((made.replace(key=0), m), (expected.replace(key=0), n))


def test_a_generator_of_another_shape_than_the_data_is_refused(linear_gan):
    with pytest.raises(ValueError, match=r"batch.x has shape \(\d+, 3\), .* of shape \(2,\)"):
        start(linear_gan, Batch(jnp.zeros((6, 3))))


def test_generate_draws_what_sample_draws_of_the_same_latents(linear_gan):
    """x = A z + b, of the averages by default. The latents come from the key given to `sample`."""
    state = start(linear_gan)
    state, _ = make("generator", linear_gan)(state, Batch(REAL))
    z = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    for ema, params in ((True, state.ema_params), (False, state.generator.params)):
        made = gan_jax.generate(linear_gan, state, jnp.asarray(z), ema=ema)
        weights, bias = (np.asarray(params[name]) for name in ("A", "b"))
        np.testing.assert_allclose(made, z @ weights.T + bias, atol=1e-6)
    key = jax.random.key(3)
    z = gan_jax.random.draw(linear_gan.prior, jax.random.split(key)[0], 4)
    expected = gan_jax.sample(linear_gan, state, key, 4)
    np.testing.assert_array_equal(gan_jax.generate(linear_gan, state, z), expected)

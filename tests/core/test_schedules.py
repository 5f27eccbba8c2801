"""Schedules against closed forms, Adam with a moving b2 in NumPy, and frozen parameters."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gan_jax import optimizers
from gan_jax.penalties import r1_auto
from gan_jax.schedules import half_cosine, half_life

STEPS = jnp.arange(40)


def test_half_a_cosine_then_constant():
    made = half_cosine(2e-4, 5e-5, 1000, 50)(STEPS)
    share = np.minimum(np.arange(40) / 20, 1)
    expected = 5e-5 + (2e-4 - 5e-5) * (1 + np.cos(np.pi * share)) / 2
    np.testing.assert_allclose(made, expected, rtol=1e-6)
    np.testing.assert_array_equal(made[20:], jnp.full(20, 5e-5))


def test_weights_lose_half_their_share_in_the_half_life():
    decay = jax.vmap(half_life(1000, 50))(STEPS)
    np.testing.assert_allclose(np.cumprod(decay)[19::20], [0.5, 0.25], rtol=1e-5)


def test_a_ramp_and_a_schedule_of_the_half_life():
    """The half-life is 0 at first, so the average equals the new weights."""
    decay = half_life(1000, 50, ramp=0.5)(STEPS)
    life = np.minimum(1000, 0.5 * 50 * np.maximum(np.arange(40), 1e-9))
    np.testing.assert_allclose(decay, 0.5 ** (50 / life), rtol=1e-5)
    life = half_cosine(0.0, 5e6, 1000, 50)
    decay = half_life(life, 50)(STEPS)
    assert decay[0] == 0
    np.testing.assert_allclose(decay[1:], 0.5 ** (50 / np.asarray(life(STEPS))[1:]), rtol=1e-5)


@pytest.mark.parametrize(
    "schedule",
    [
        partial(half_cosine, 0.9, 0.99, 3000),
        partial(half_life, 3000),
        partial(half_life, 3000, ramp=0.05),
    ],
)
def test_the_batch_size_does_not_matter(schedule):
    """After the same number of images, the value is the same. A decay holds for each update."""
    small, large = (np.asarray(jax.vmap(schedule(size))(STEPS)) for size in (50, 200))
    power = 4 if schedule.func is half_life else 1
    np.testing.assert_allclose(small[::4] ** power, large[:10], rtol=1e-5)


def test_what_is_refused():
    with pytest.raises(ValueError, match="images must be above 0, got 0"):
        half_cosine(1.0, 0.0, 0, 32)
    with pytest.raises(ValueError, match="batch_size must be above 0, got -1"):
        half_life(10, -1)
    with pytest.raises(ValueError, match="ramp must be above 0, got 0"):
        half_life(10, 1, ramp=0)


def test_gamma_of_cifar_10():
    assert r1_auto(32, 64) == pytest.approx(0.0032)


def test_adam_with_a_schedule_of_b2():
    """PyTorch's update, by hand: 1 - b2^n corrects the bias, with the b2 of this update."""
    b2, rate, eps = half_cosine(0.5, 0.9, 500, 50), 0.1, 1e-8
    gradients = np.random.default_rng(0).normal(size=(20, 3))
    with jax.enable_x64(True):
        tx = optimizers.adam(rate, b1=0.3, b2=b2, eps=eps)
        _, made = jax.lax.scan(
            lambda state, g: tx.update(g, state)[::-1], tx.init(jnp.zeros(3)), gradients
        )
        decays = np.asarray(b2(jnp.arange(20)))
    mean = square = np.zeros(3)
    for n, (g, decay, update) in enumerate(zip(gradients, decays, made, strict=True), start=1):
        mean, square = 0.3 * mean + 0.7 * g, decay * square + (1 - decay) * g**2
        corrected = np.sqrt(square / (1 - decay**n)) + eps
        np.testing.assert_allclose(update, -rate * mean / (1 - 0.3**n) / corrected, rtol=1e-5)


def test_a_frozen_parameter_never_changes():
    params = {"Conv_0": {"kernel": jnp.ones(2)}, "Dense_0": {"kernel": jnp.ones(2)}}
    tx = optimizers.frozen(optimizers.adam(0.1), lambda path: path.startswith("Conv_0/"))
    updates, state = tx.update(params, tx.init(params), params)
    moved = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(moved["Conv_0"]["kernel"], 1.0)
    np.testing.assert_allclose(moved["Dense_0"]["kernel"], 0.9, rtol=1e-5)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 2 + 2 + 1  # two means, one count
    for where in (lambda path: True, lambda path: path == "Conv0/kernel"):
        with pytest.raises(ValueError, match="of 2 parameters: choose some of Conv_0/kernel, Dens"):
            optimizers.frozen(tx, where).init(params)

"""A first state with the user's own parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_steps import REAL, assert_same, make, start

import gan_jax
from gan_jax import Batch

pytestmark = pytest.mark.usefixtures("quick_compile")

TX = optax.adam(0.1)
OTHER = {"A": jnp.full((2, 2), 2.0), "b": jnp.full(2, 3.0)}


@pytest.fixture
def state(linear_gan):
    step = jax.jit(make("generator", linear_gan, tx=TX))
    return step(start(linear_gan, tx=TX), Batch(REAL))[0]


def test_the_generator_given_is_the_average_too_and_all_else_stays(state):
    warm = gan_jax.warm_start(state, generator=OTHER)
    assert_same(warm.generator.params, OTHER)
    assert_same(warm.ema_params, OTHER)
    assert_same(warm.generator.opt_state, state.generator.opt_state)
    assert_same(warm.generator.step, 1)
    assert_same(warm.discriminator, state.discriminator)


def test_an_average_and_a_discriminator_of_their_own(state):
    weights = {"w": np.full(2, 7.0), "c": np.zeros(())}  # NumPy's float64
    warm = gan_jax.warm_start(state, ema=OTHER, discriminator=weights)
    assert_same(warm.generator, state.generator)
    assert_same(warm.ema_params, OTHER)
    assert_same(warm.discriminator.params, weights)
    assert warm.discriminator.params["w"].dtype == jnp.float32


def test_what_is_given_outlives_a_donated_step(linear_gan, state):
    given = jax.tree.map(jnp.copy, OTHER)
    warm = gan_jax.warm_start(state, generator=given, ema=given)
    jax.jit(make("generator", linear_gan, tx=TX), donate_argnums=0)(warm, Batch(REAL))
    assert_same(given, OTHER)


def test_it_may_be_traced(state):
    warm = jax.jit(lambda s, p: gan_jax.warm_start(s, generator=p))(state, OTHER)
    assert_same((warm.generator.params, warm.ema_params), (OTHER, OTHER))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"generator": {"A": OTHER["A"]}}, r"generator\['b'\] is missing"),
        ({"ema": OTHER | {"A": jnp.zeros((2, 3))}}, r"ema\['A'\] has shape \(2, 3\), not \(2, 2\)"),
        ({"discriminator": OTHER}, r"discriminator\['c'\] is missing: give parameters of the same"),
        ({"generator": OTHER | {"d": jnp.zeros(1)}}, r"generator\['d'\] is not expected"),
    ],
)
def test_other_parameters_are_refused_by_the_first_path(state, given, message):
    with pytest.raises(ValueError, match=message):
        gan_jax.warm_start(state, **given)

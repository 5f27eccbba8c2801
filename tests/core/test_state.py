"""The first state, and the sampler, which reads the last state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_steps import REAL, assert_same, make, start

import gan_jax
from gan_jax import GAN, Batch, Network, priors

pytestmark = pytest.mark.usefixtures("quick_compile")


# The state


@pytest.mark.parametrize("jit", [False, True])
def test_no_two_arrays_of_the_first_state_share_a_buffer(jit, linear_gan):
    """A shared array could not be donated."""
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
    """Other data of the same shape give the same state. Another seed gives another state."""
    state, same = start(linear_gan), start(linear_gan, Batch(REAL + 5))
    assert_same(state.replace(key=0), same.replace(key=0))
    assert_same(state.ema_params, state.generator.params)
    assert (state.generator.step, state.discriminator.step) == (0, 0)
    other = start(linear_gan, seed=1)
    assert (state.generator.params["A"] != other.generator.params["A"]).all()
    assert (state.discriminator.params["w"] != other.discriminator.params["w"]).all()


def test_the_first_state_has_no_weak_types(linear_gan):
    """An update returns no weak types, so a state with them would be compiled separately."""
    slope = Network(
        lambda key, x, label=None: ({"slope": jnp.array(0.2)}, {"seen": jnp.array(0)}),
        lambda params, model_state, x, label=None, *, train, key=None: (x[:, 0], model_state),
    )
    state = start(linear_gan._replace(discriminator=slope))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state.replace(key=None)))


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
    """With A = 0 each sample is b."""
    state = start(linear_gan)
    generator = state.generator.replace(params={"A": jnp.zeros((2, 2)), "b": jnp.full(2, 1.0)})
    state = state.replace(
        generator=generator, ema_params={"A": jnp.zeros((2, 2)), "b": jnp.full(2, -1.0)}
    )
    assert (gan_jax.sample(linear_gan, state, jax.random.key(0), 4) == -1).all()
    assert (gan_jax.sample(linear_gan, state, jax.random.key(0), 4, ema=False) == 1).all()


def test_samples_are_made_in_evaluation_mode():
    """`train` is False, and the running statistics are read, not the batch's."""

    def apply(params, model_state, z, label=None, *, train, key=None):
        return jnp.full_like(z, 100.0) if train else model_state + 0 * z, model_state

    network = Network(lambda key, z, label=None: ({}, jnp.full((1, 1), 5.0)), apply)
    critic = Network(
        lambda key, x, label=None: ({}, ()), lambda p, m, x, label=None, **_: (x[:, 0], m)
    )
    gan = GAN(network, critic, priors.normal(1))
    state = start(gan, Batch(jnp.zeros((4, 1))))
    np.testing.assert_array_equal(gan_jax.sample(gan, state, jax.random.key(0), 3), [[5.0]] * 3)

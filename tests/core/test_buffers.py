"""A state that holds an array twice may still be donated."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_steps import REAL, make

import gan_jax
from gan_jax import Batch, parallel
from gan_jax.buffers import unshared

pytestmark = pytest.mark.usefixtures("quick_compile")

SHARING = {"prodigy": optax.contrib.prodigy(), "dog": optax.contrib.dog(1.0)}
"""Optimizers whose initial state holds the parameters themselves."""


def pointers(tree):
    """Returns the address of every buffer, including those of keys."""
    leaves = [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(tree)
    ]
    return [s.data.unsafe_buffer_pointer() for leaf in leaves for s in leaf.addressable_shards]


def test_the_second_of_an_object_a_view_or_a_shard_is_copied():
    x, key = jnp.arange(8.0), jax.random.key(0)
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    whole = jax.device_put(x, jax.NamedSharding(mesh, jax.P()))
    here = jax.device_put(x, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    shard = whole.addressable_shards[3].data
    assert here is not x
    assert here.unsafe_buffer_pointer() == x.unsafe_buffer_pointer()
    tree = {"a": x, "b": x, "c": here, "d": whole, "e": shard, "f": key, "g": key, "h": 2.0}
    made = unshared(tree)
    assert made["a"] is x
    assert made["f"] is key
    found = pointers({name: leaf for name, leaf in made.items() if name != "h"})
    assert len(set(found)) == len(found)
    same = [np.array_equal(made[name], x) for name in "abcde"]
    assert all(same)
    assert made["g"] == key
    assert made["h"] == 2.0
    assert made["d"].devices() == whole.devices()


def test_what_is_named_is_kept_apart():
    x = jnp.arange(3.0)
    (made,) = unshared((x,), apart_from=[x])
    assert made is not x
    assert pointers(made) != pointers(x)


@pytest.mark.parametrize("name", SHARING)
@pytest.mark.parametrize("how", ["as it is", "jit", "vmap"])
def test_the_first_state_shares_no_buffer_whatever_the_optimizer(name, how, linear_gan):
    tx = SHARING[name]

    def make_state(key):
        return gan_jax.init(linear_gan, tx, tx, key, Batch(REAL))

    def step(state):
        return make("discriminator", linear_gan, tx=tx)(state, Batch(REAL))[0]

    key = jax.random.key(0)
    made = {"as it is": make_state, "jit": jax.jit(make_state), "vmap": jax.vmap(make_state)}[how]
    key, step = (key[None], jax.vmap(step)) if how == "vmap" else (key, step)
    state = made(key)
    found = pointers((state, key))
    assert len(set(found)) == len(found)
    jax.jit(step, donate_argnums=0)(state)


def test_a_network_that_keeps_the_batch_does_not_give_it_away(linear_gan):
    network = linear_gan.discriminator

    def init(key, x, label=None):
        return network.init(key, x, label)[0], {"before": x, "last": x}

    gan = linear_gan._replace(discriminator=network._replace(init=init))
    batch = Batch(jnp.copy(REAL))
    state = gan_jax.init(gan, optax.sgd(0.1), optax.sgd(0.1), jax.random.key(0), batch)
    jax.jit(make("generator", gan), donate_argnums=0)(state, batch)
    np.testing.assert_array_equal(batch.x, REAL)


def doubled():
    """Returns a state that holds one array twice."""
    a = jnp.arange(8.0)
    return {"a": a, "b": a, "c": jax.device_put(a, jax.devices()[0])}


WRAPPERS = {
    "jit": parallel.jit_step,
    "shard": parallel.shard_step,
    "shard on one": partial(parallel.shard_step, devices=jax.devices()[:1]),
    "pmap": parallel.pmap_step,
    "ensemble": parallel.ensemble_step,
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_every_wrapper_takes_a_state_that_holds_an_array_twice(name):
    """The array is duplicated in the first state, or in a later state."""
    step = WRAPPERS[name](lambda state, batch: (jax.tree.map(lambda x: x + 1, state), {}))
    state = doubled()
    for number in (1, 2, 3):
        state, _ = step(state, jnp.zeros(8))
        for leaf in state.values():
            np.testing.assert_array_equal(leaf, np.arange(8.0) + number)
        state["b"] = state["a"]


def test_the_average_may_be_set_to_the_weights_between_two_steps(linear_gan):
    """A `TrainState` is not searched if it comes back as the step returned it."""
    step = parallel.shard_step(make("generator", linear_gan), devices=jax.devices()[:2])
    tx = optax.sgd(0.1)
    state = gan_jax.init(linear_gan, tx, tx, jax.random.key(0), Batch(REAL))
    for _ in range(2):
        state, _ = step(state, Batch(REAL))
        state, _ = step(state, Batch(REAL))
        state = state.replace(ema_params=state.generator.params)
    state, _ = step(state, Batch(REAL))
    assert np.isfinite(state.ema_params["A"]).all()


@pytest.mark.parametrize("name", ["jit", "shard", "shard on one"])
@pytest.mark.parametrize("what", ["the key's data", "parameters"])
def test_a_batch_may_hold_arrays_of_the_state_at_every_step(name, what, linear_gan):
    """A `TrainState` is not searched if it comes back as the step returned it."""

    def update(state, batch):
        del batch
        return jax.tree.map(jnp.copy, state), {}

    replicated = {} if name == "jit" else {"batch_axis": 9}
    step = WRAPPERS[name](update, **replicated)
    tx = optax.sgd(0.1)
    state = gan_jax.init(linear_gan, tx, tx, jax.random.key(0), Batch(REAL))
    for _ in range(3):
        shared = jax.random.key_data(state.key) if what == "the key's data" else state.ema_params
        before = jax.tree.map(np.array, shared)
        state, _ = step(state, shared)
        jax.tree.map(np.testing.assert_array_equal, shared, before)


def test_a_key_from_outside_a_trace_is_no_obstacle():
    key = jax.random.key(0)
    assert jax.eval_shape(lambda: unshared({"key": key, "x": jnp.zeros(2)}))["key"].shape == ()

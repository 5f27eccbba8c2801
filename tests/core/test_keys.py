"""Keys of any implementation: the draws do not depend on how a batch is split.

JAX's rbg and unsafe_rbg are the difficult ones, because `jax.vmap` changes their draws.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_gans import TX, make_gan, make_step

import gan_jax
from gan_jax import Batch, parallel
from gan_jax import random as keys

IMPLEMENTATIONS = ["rbg", "unsafe_rbg"]
NUM_STEPS, NUM = 5, 32
REAL = np.tanh(np.random.default_rng(0).normal(size=(NUM_STEPS, NUM, 8, 8, 1))).astype(np.float32)

pytestmark = pytest.mark.usefixtures("quick_compile")


@jax.jit
def start(key):
    return gan_jax.init(make_gan(), TX, TX, key, Batch(jnp.zeros((NUM, 8, 8, 1))))


def build(axis_name=None, accumulate=1):
    """D's step, then G's. Both networks use dropout."""
    gan = make_gan()
    d_step = make_step("discriminator", gan, axis_name, accumulate=accumulate, penalties=[])
    g_step = make_step("generator", gan, axis_name, accumulate=accumulate)

    def both(state, batch):
        return g_step(d_step(state, batch)[0], batch)

    return both


def run(step, impl):
    """Returns the parameters after five steps from a state with a key of an implementation."""
    words = jax.device_get(jax.random.key_data(jax.random.key(3, impl=impl)))
    state = start(jax.random.key(0)).replace(key=jax.random.key(3, impl=impl))
    for x in REAL:
        state, _ = step(state, Batch(x))
    # The state's own key does not change.
    assert jax.random.key_impl(state.key) == impl
    np.testing.assert_array_equal(jax.random.key_data(state.key), words)
    return jax.device_get((state.generator.params, state.discriminator.params))


@pytest.mark.parametrize("impl", ["rbg", pytest.param("unsafe_rbg", marks=pytest.mark.slow)])
def test_keys_of_every_implementation_draw_alike_however_the_batch_is_split(impl):
    axis = parallel.AXIS_NAME
    alone = run(parallel.jit_step(build(), donate=False), impl)
    before = jax.device_get(start(jax.random.key(0)).generator.params)
    moves = jax.tree.map(lambda a, b: np.abs(a - b).max(), alone[0], before)
    assert min(jax.tree.leaves(moves)) > 1e-4
    for step in (
        parallel.jit_step(build(accumulate=4)),
        parallel.shard_step(build()),
        parallel.pmap_step(build(axis)),
        parallel.pmap_step(build(axis, accumulate=4)),
    ):
        close = partial(np.testing.assert_allclose, rtol=0, atol=2e-5)
        jax.tree.map(close, run(step, impl), alone)


@pytest.mark.parametrize("impl", ["unsafe_rbg", pytest.param("rbg", marks=pytest.mark.slow)])
def test_a_member_of_an_ensemble_draws_as_alone(impl):
    """Everything from `init` on runs under vmap, with one key for each member."""
    many = jax.random.split(jax.random.key(3, impl=impl), 3)
    step = make_step("generator", make_gan())
    states, _ = jax.jit(jax.vmap(step, in_axes=(0, None)))(jax.vmap(start)(many), Batch(REAL[0]))
    alone, _ = jax.jit(step)(start(many[2]), Batch(REAL[0]))
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=0, atol=2e-5),
        jax.tree.map(lambda leaf: leaf[2], states.generator.params),
        alone.generator.params,
    )


@pytest.mark.parametrize("impl", [*IMPLEMENTATIONS, "threefry2x32"])
def test_a_sample_depends_on_its_index_and_not_on_their_number(impl):
    state, key = start(jax.random.key(0)), jax.random.key(5, impl=impl)
    few, more = (gan_jax.sample(make_gan(), state, key, num) for num in (2, 3))
    np.testing.assert_allclose(few, more[:2], rtol=0, atol=1e-6)
    assert np.abs(more[1] - more[2]).max() > 1e-3


def test_a_key_of_threefry_is_used_as_it_is():
    key = jax.random.key(3, impl="threefry2x32")
    assert keys.threefry(key) is key
    expected = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(5))
    for batch in (5, jnp.full((5, 2), jnp.nan), np.zeros(5, np.uint8), jnp.zeros((5, 1), bool)):
        made = keys.per_example(key, batch)
        assert jax.random.key_impl(made) == "threefry2x32"
        np.testing.assert_array_equal(*map(jax.random.key_data, (made, expected)))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_each_word_of_another_key_counts(impl):
    words = np.array(jax.random.key_data(jax.random.key(3, impl=impl)))
    made = set()
    for i in range(len(words)):
        other = words.copy()
        other[i] ^= 1
        key = keys.threefry(jax.random.wrap_key_data(other, impl=impl))
        assert jax.random.key_impl(key) == "threefry2x32"
        made.add(tuple(jax.random.key_data(key).tolist()))
    again = keys.threefry(jax.random.key(3, impl=impl))
    made.add(tuple(jax.random.key_data(again).tolist()))
    assert len(made) == len(words) + 1


def test_the_microbatch_of_a_microbatch_is_refused():
    inner = make_step("discriminator", make_gan(), accumulate=2)
    step_key = keys.for_step(jax.random.key(0), 1, 2)
    with pytest.raises(ValueError, match="but another step calls it"):
        jax.eval_shape(inner, start(jax.random.key(0)).replace(key=step_key), Batch(REAL[0]))


def test_each_leaf_of_a_tree_has_a_key_of_its_own():
    """A key that is split draws nothing itself."""
    key = jax.random.key(0)
    of_two = keys.keys_like(key, {"a": 1.0, "b": 2.0})
    words = {tuple(jax.random.key_data(k).tolist()) for k in (key, of_two["a"], of_two["b"])}
    assert len(words) == 3
    assert keys.keys_like(key, 1.0) is key

"""The library's Adam against Optax's Adam."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gan_jax import optimizers

START = {"w": jnp.linspace(-1.0, 2.0, 12).reshape(3, 4), "b": jnp.array([0.5, -3.0])}


def descend(tx, num):
    """Returns the parameters after each step down a quartic with one gradient entry of 0."""

    def loss(params, step):
        w, b = params["w"], params["b"]
        return jnp.sum(w**4) + jnp.sum(jnp.cos(step + b[:1])) * jnp.sum(w)

    def step(carry, step):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, step), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda: jax.lax.scan(step, (START, tx.init(START)), jnp.arange(num)))()


@pytest.mark.parametrize("one", [1.0, np.float32(1.0), np.array(1.0), jnp.ones(())])
@pytest.mark.parametrize("name", ["b1", "b2"])
def test_a_decay_out_of_range_is_refused(name, one):
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\), got 1.0"):
        optimizers.adam(1e-3, **{name: one})


def test_a_traced_decay_has_no_value_to_check():
    params = jnp.ones(3)

    @jax.jit
    def update(b1):
        tx = optimizers.adam(0.1, b1=b1)
        return tx.update(params, tx.init(params))[0]

    np.testing.assert_allclose(update(0.5), -0.1, rtol=1e-5)


@pytest.mark.parametrize("b1", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("eps", [1e-8, 1e-2])
@pytest.mark.parametrize("rate", [3e-2, optax.linear_schedule(5e-2, 1e-2, 70)])
def test_steps_are_those_of_optax(b1, eps, rate):
    with jax.enable_x64(True):
        settings = {"b1": b1, "b2": 0.99, "eps": eps}
        (_, state), ours = descend(optimizers.adam(rate, **settings), 100)
        (_, theirs), expected = descend(optax.adam(rate, **settings), 100)
        for name in START:
            np.testing.assert_allclose(ours[name], expected[name], rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(state.mu[name], theirs[0].mu[name], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(state.nu[name], theirs[0].nu[name], rtol=1e-4, atol=1e-6)
        assert state.count == theirs[0].count == 100


def test_updates_have_the_types_of_the_gradients_and_moments_are_wide():
    tx = optimizers.adam(0.1)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), START)
    updates, state = tx.update(params, tx.init(params))
    for tree, dtype in ((updates, jnp.bfloat16), (state.mu, jnp.float32), (state.nu, jnp.float32)):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype(dtype)}

"""The library's Adam against Optax's Adam, and clipped weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_gans import BATCH, TX, make_gan

import gan_jax
from gan_jax import Batch, losses, optimizers, parallel

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


LIMIT = 0.013


@pytest.mark.parametrize(
    "tx", [optax.sgd(0.3), pytest.param(optimizers.adam(0.02), marks=pytest.mark.slow)]
)
def test_clipped_weights_stay_in_their_range_and_move_as_without_a_limit_inside_it(tx):
    """100 random weights and gradients. Rounded differences alone would leave the range."""
    rng = np.random.default_rng(0)
    clipped = optimizers.clip_weights(tx, LIMIT)
    params = {"w": jnp.asarray(rng.normal(0, LIMIT, 100), jnp.float32)}
    inner = outer = tx.init(params)
    update, unlimited = jax.jit(clipped.update), jax.jit(tx.update)
    bound, reached = np.float32(LIMIT), 0
    for _ in range(20):
        gradients = {"w": jnp.asarray(rng.normal(size=100), jnp.float32)}
        free, inner = unlimited(gradients, inner, params)
        updates, outer = update(gradients, outer, params)
        expected = np.clip(optax.apply_updates(params, free)["w"], -bound, bound)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["w"], expected, rtol=1e-6, atol=1e-8)
        assert np.abs(params["w"]).max() <= bound
        reached += np.isclose(np.abs(params["w"]), bound, rtol=1e-6).sum()
    assert reached > 20


def test_a_bound_that_rounding_would_break_holds():
    """Without care, 1,000,000 differences from the bound exceed it by their rounding."""
    params = jnp.asarray(np.random.default_rng(0).uniform(-LIMIT, LIMIT, 1_000_000), jnp.float32)
    bound = jnp.float32(LIMIT)
    assert jnp.any(params + (bound - params) > bound)
    tx = optimizers.clip_weights(optax.sgd(1.0), LIMIT)
    updates, _ = tx.update(-jnp.ones_like(params), tx.init(params), params)
    moved = optax.apply_updates(params, updates)
    assert jnp.max(moved) <= bound
    np.testing.assert_allclose(moved, LIMIT, rtol=1e-6)


@pytest.mark.parametrize("limit", [0.0, -1.0, np.nan, np.inf])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(ValueError, match="limit must be finite and above 0"):
        optimizers.clip_weights(optax.sgd(0.1), limit)


def test_clipping_needs_the_parameters():
    tx = optimizers.clip_weights(optax.sgd(0.1), 1.0)
    with pytest.raises(ValueError, match="clip_weights needs the parameters"):
        tx.update(START, tx.init(START))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["accumulate", "pmap"])
def test_the_weights_of_a_discriminator_stay_in_their_range(layout):
    gan = make_gan(norm=True)
    axis = parallel.AXIS_NAME if layout == "pmap" else None
    tx = optimizers.clip_weights(optimizers.adam(0.1), LIMIT)
    real = Batch(jnp.tanh(jax.random.normal(jax.random.key(5), (BATCH, 8, 8, 1))))
    state = gan_jax.init(gan, TX, tx, jax.random.key(0), real)
    parts = 4 if layout == "accumulate" else 1
    step = gan_jax.make_discriminator_step(
        gan, losses.wasserstein, tx, axis_name=axis, accumulate=parts
    )
    if layout == "pmap":
        step = parallel.pmap_step(step, devices=jax.devices()[:2])
    else:
        step = jax.jit(step)
    for _ in range(3):
        state, _ = step(state, real)
        for leaf in jax.tree.leaves(state.discriminator.params):
            assert np.abs(leaf).max() <= np.float32(LIMIT)

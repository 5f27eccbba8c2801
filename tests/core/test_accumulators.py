"""Averages and sums in bfloat16 and float16 parameters, against float64 NumPy.

Each test has its own error bound: a few units in the last place of the result's type. This is the
parameters' type if the result is cast to it, and float32 otherwise.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from gan_jax import GAN, Batch, Network, batches, losses, optimizers, priors
from gan_jax.algorithms.update import update
from gan_jax.types import PlayerState

pytestmark = pytest.mark.usefixtures("quick_compile")

TYPES = [jnp.bfloat16, jnp.float16]


def unit(dtype):
    return float(jnp.finfo(dtype).eps)


def shift(dtype):
    """The generator x = z + w and the critic logit = mean x, in a single type."""

    def init(key, x, label=None):
        return {"w": jnp.zeros(2, dtype)}, {}

    def generate(params, model_state, z, label=None, *, train, key=None):
        return z.astype(dtype) + params["w"][None], model_state

    def judge(params, model_state, x, label=None, *, train, key=None):
        return x @ params["w"], model_state

    return GAN(Network(init, generate), Network(init, judge), priors.normal(2))


@pytest.mark.parametrize("dtype", TYPES)
def test_the_moving_average_arrives(dtype):
    """After 10,000 updates from 0 towards 1 with decay 0.999 the average is 1 - 0.999^10000."""
    gan, tx = shift(dtype), optax.set_to_zero()
    batch = Batch(jnp.zeros((4, 2), dtype))
    state = gan_jax.init(gan, tx, tx, jax.random.key(0), batch)
    assert state.ema_params["w"].dtype == jnp.float32
    state = gan_jax.warm_start(state, generator={"w": np.ones(2)}, ema={"w": np.zeros(2)})
    step = gan_jax.make_generator_step(gan, losses.non_saturating, tx, ema_decay=0.999)
    many = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, batch), s, length=10_000)[0])
    average = many(state).ema_params["w"]
    np.testing.assert_allclose(average, 1 - 0.999**10_000, atol=1e-4)
    x = gan_jax.sample(gan, state.replace(ema_params={"w": average}), jax.random.key(0), 3)
    assert x.dtype == dtype


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("axis_name", [None, "shards"])
def test_gradients_of_many_parts_add_up(dtype, axis_name):
    """The mean of 1,024 numbers near 1. A sum in bfloat16 itself would stop at 256.

    The batch has 128 microbatches on 8 shards, or 1,024 on one shard. The loss and the norm are
    checked too.
    """
    x = np.random.default_rng(0).uniform(0.5, 1.5, (1024, 1)).astype(dtype)

    def objective(params, player, opponent, batch, key):
        loss = jnp.sum(jnp.mean(batch.x, axis=0) * params["w"])
        return loss, ({"loss": loss}, {}, {})

    params = {"w": jnp.ones(1, dtype)}
    tx = optax.sgd(1.0)
    player = PlayerState(jnp.int32(0), params, {}, tx.init(params))
    shards = 1 if axis_name is None else 8

    def of_shard(x):
        key, parts = jax.random.key(0), 1024 // shards
        with batches.split_over(axis_name):
            _, metrics, norm = update(objective, tx, player, player, Batch(x), key, parts=parts)
        return metrics["loss"], norm

    run = of_shard if axis_name is None else jax.vmap(of_shard, axis_name=axis_name)
    given = jnp.asarray(x) if axis_name is None else jnp.asarray(x).reshape(8, 128, 1)
    loss, norm = jax.jit(run)(given)
    mean = x.astype(np.float64).mean()
    assert norm.dtype == jnp.float32
    for made in (loss, norm):
        np.testing.assert_allclose(np.asarray(made, np.float64), mean, rtol=unit(dtype))


@pytest.mark.parametrize("dtype", TYPES)
def test_the_norm_of_small_and_of_large_gradients(dtype):
    """The squares of these values underflow and overflow in float16."""
    for size in (1e-4, 1e3):
        params = {"w": jnp.full((30, 40), size, dtype)}
        tx = optax.set_to_zero()
        player = PlayerState(jnp.int32(0), params, {}, tx.init(params))

        def objective(params, player, opponent, batch, key, kept=params):
            total = sum(jnp.sum(k * p) for k, p in zip(kept.values(), params.values(), strict=True))
            return total, ({}, {}, {})

        arguments = player, player, Batch(jnp.zeros((1, 1))), jax.random.key(0)
        norm = update(objective, tx, *arguments)[2]
        expected = np.linalg.norm(np.asarray(params["w"], np.float64))
        np.testing.assert_allclose(norm, expected, rtol=1e-5)


def adam_by_numpy(gradients, rate, b1, b2, eps):
    """The sum of all updates and the moments, in float64."""
    m = v = total = np.zeros_like(gradients[0])
    for t, g in enumerate(gradients, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        total = total - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return total, m, v


@pytest.mark.parametrize("dtype", TYPES)
def test_moments_of_adam(dtype):
    """Gradients of 1e-4 have squares too small for float16. bfloat16 would round b2 = 0.999."""
    drawn = np.random.default_rng(1).normal(1e-4, 1e-4, (2000, 3)).astype(dtype)
    tx = optimizers.adam(1e-3)
    params = jnp.zeros(3, dtype)

    def step(carry, gradient):
        state, total = carry
        updates, state = tx.update(gradient, state, params)
        assert updates.dtype == dtype
        return (state, total + updates.astype(jnp.float32)), None

    start = tx.init(params), jnp.zeros(3)
    (state, total), _ = jax.jit(lambda g: jax.lax.scan(step, start, g))(jnp.asarray(drawn))
    expected, m, v = adam_by_numpy(drawn.astype(np.float64), 1e-3, 0.9, 0.999, 1e-8)
    np.testing.assert_allclose(state.mu, m, rtol=1e-4)
    np.testing.assert_allclose(state.nu, v, rtol=1e-4)
    np.testing.assert_allclose(total, expected, rtol=unit(dtype))


@pytest.mark.parametrize("dtype", TYPES)
def test_slow_weights_of_lookahead(dtype):
    """Each update moves the average by 1/1,000 of the distance to 1, giving 1 - 0.999^5000."""

    def to_one(updates, state, params):
        return jax.tree.map(lambda p: 1 - p, params), state

    tx = optimizers.lookahead(optax.GradientTransformation(lambda _: (), to_one), 1, 0.001)
    params = jnp.zeros(2, dtype)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(params, state, params)
        assert updates.dtype == dtype
        return (optax.apply_updates(params, updates), state), None

    start = params, tx.init(params)
    (params, state), _ = jax.jit(lambda s: jax.lax.scan(step, s, length=5000))(start)
    np.testing.assert_allclose(state.slow, 1 - 0.999**5000, atol=1e-4)
    np.testing.assert_allclose(np.asarray(params, float), 1 - 0.999**5000, atol=unit(dtype))


@pytest.mark.parametrize("dtype", TYPES)
def test_extragradient_returns_to_where_the_pair_began(dtype):
    """Two updates of 1/3 from 3: the second result is 3 - 1/3, rounded once or twice."""
    tx = optimizers.extragradient(optax.sgd(1.0))
    params = jnp.full(2, 3.0, dtype)
    state, gradient = tx.init(params), jnp.full(2, 1 / 3, dtype)
    for _ in range(2):
        updates, state = tx.update(gradient, state, params)
        assert updates.dtype == dtype
        params = optax.apply_updates(params, updates)
    expected = 3 - np.asarray(gradient, np.float64)
    np.testing.assert_allclose(np.asarray(params, np.float64), expected, atol=2 * unit(dtype))

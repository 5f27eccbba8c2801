"""Losses and penalties that compare examples: one result, however the batch is split.

The oracle is the same step on one device and on the whole batch, in float64, so that equal results
agree to 1e-9. The optimizer is plain SGD, because Adam hides gradients of a wrong scale.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

import gan_jax
from gan_jax import GAN, Batch, Network, losses, parallel, penalties, priors
from gan_jax.types import WithMemory

TX = optax.sgd(0.3)
NUM_STEPS, SHAPE = 4, (16, 4, 8, 1)

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(autouse=True)
def _in_double_precision():
    with jax.enable_x64(True):
        yield


def player(shape_in, shape_out):
    """One dense layer and a nonlinearity, without Flax."""
    size_in, size_out = (int(np.prod(shape)) for shape in (shape_in, shape_out))

    def init(key, x, label=None):
        return jax.random.normal(key, (size_in, size_out)) / 3, ()

    def apply(params, model_state, x, label=None, *, train, key=None):
        y = (x.reshape(x.shape[0], -1) @ params).reshape(x.shape[0], *shape_out)
        return y + jnp.sin(y), model_state

    return Network(init, apply)


GAME = GAN(player((3,), SHAPE[1:]), player(SHAPE[1:], ()), priors.normal(3))


def scaled(key, x):
    return x * jax.random.uniform(key)


counted = WithMemory(
    lambda: jnp.zeros((), jnp.int32),
    lambda critic, real, fake, key, count: (critic(real) * (1 + count), count + 1),
    "counted",
)
"""A term that grows with each update."""


def weighted(compare):
    """Penalties of each kind: drawing for each example, comparing, with a memory; lazy or not."""
    pairs = [
        (penalties.one_sided_gradient_penalty, 0.1),
        (partial(penalties.consistency, augment=scaled), 0.1),
        (penalties.lecam(0.9), penalties.lazy(0.1, 1)),
        (counted, 0.01),
    ]
    if compare:
        pairs.append((penalties.dragan, penalties.lazy(0.1, 2)))
    return pairs


def build(axis_name=None, *, compare=True, accumulate=1):
    """Returns a train step and the first state, with or without terms that compare examples."""
    loss = losses.relativistic_average() if compare else losses.relativistic
    of_generator = losses.top_k(loss, 0.3) if compare else loss
    shared = {"axis_name": axis_name, "accumulate": accumulate}
    pairs = weighted(compare)
    step = gan_jax.make_train_step(
        gan_jax.make_discriminator_step(
            GAME, losses.smoothed(loss, 0.8), TX, penalties=pairs, **shared
        ),
        gan_jax.make_generator_step(GAME, of_generator, TX, **shared),
    )
    state = jax.jit(
        lambda key: gan_jax.init(GAME, TX, TX, key, Batch(jnp.zeros(SHAPE)), penalties=pairs)
    )(jax.random.key(0))
    return step, state


def run(step, state):
    """Returns the last state and each step's metrics, on the host."""
    x = np.random.default_rng(0).normal(size=(NUM_STEPS, 1, *SHAPE))
    # Examples of unequal sizes, sorted: a shard's own mean or deviation is far from the batch's.
    x = x * np.linspace(0.1, 2, SHAPE[0])[:, None, None, None]
    history = []
    for batch in x:
        state, metrics = step(state, Batch(batch))
        history.append(metrics)
    return jax.device_get((state.replace(key=0), history))


@cache
def one_device(compare=True):
    step, state = build(compare=compare)
    return run(parallel.jit_step(step), state)


def shard_map(step):
    mesh = jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)
    of_batch = PartitionSpec(None, ("rows", "columns"))
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(PartitionSpec(), of_batch),
        out_specs=PartitionSpec(),
    )
    return jax.jit(mapped)


LAYOUTS = {
    "pmap": (parallel.AXIS_NAME, partial(parallel.pmap_step, batch_axis=1)),
    "shard": (None, partial(parallel.shard_step, batch_axis=1)),
    "shard_map": (("rows", "columns"), shard_map),
}


def assert_close(actual, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-9), actual, expected)


@pytest.mark.parametrize(
    "layout",
    [pytest.param(name, marks=[] if name == "shard" else [pytest.mark.slow]) for name in LAYOUTS],
)
def test_eight_devices_do_what_one_does(layout):
    axis_name, wrap = LAYOUTS[layout]
    step, state = build(axis_name)
    assert_close(run(wrap(step), state), one_device())


def test_a_batch_in_parts_is_the_batch():
    """No term compares examples. LeCam's memory is included. It runs on 8 devices."""
    step, state = build(parallel.AXIS_NAME, compare=False, accumulate=2)
    assert_close(run(parallel.pmap_step(step, batch_axis=1), state), one_device(compare=False))


def test_the_oracle_moves_far():
    """The parameters move so far that a wrong mean, scale or draw would show above 1e-9."""
    state, history = one_device()
    for name in ("one_sided_gradient_penalty", "consistency", "lecam", "dragan"):
        assert max(metrics[name] for metrics in history) > 1e-2, name
    assert state.discriminator.memory["counted"] == NUM_STEPS
    first = build()[1]
    for role in ("discriminator", "generator"):
        before, after = (getattr(s, role).params for s in (first, state))
        assert np.abs(before - after).max() > 1e-2

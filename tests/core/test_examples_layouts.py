"""Every example trains alike in every layout: ten steps, on any number of devices."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from examples import acgan, ada, bigan, cyclegan, infogan, path_length, pix2pix, style_mixing
from gan_jax import Batch, parallel

SGD = optax.sgd(0.05)  # Adam would hide gradients of a wrong scale
NUM, STEPS = 16, 10

pytestmark = pytest.mark.usefixtures("quick_compile")


class Case(NamedTuple):
    """An example.

    Attributes:
      make: `(**options) -> Algorithm`.
      batch: `(key, num) -> Batch` of `num` examples.
    """

    make: Callable
    batch: Callable


def conditional(example):
    make = partial(example.make, generator_tx=SGD, discriminator_tx=SGD)
    return Case(make, example.batch)


def unconditional(example, **options):
    make = partial(example.make, SGD, **options)
    return Case(make, lambda key, num: Batch(example.data(key, num)))


CASES = {
    "acgan": conditional(acgan),
    "infogan": conditional(infogan),
    "pix2pix": conditional(pix2pix),
    "cyclegan": conditional(cyclegan),
    "bigan": unconditional(bigan),
    "path_length": unconditional(path_length),
    "style_mixing": unconditional(style_mixing),
    "ada": unconditional(ada, rate=0.1),
}

each = pytest.mark.parametrize("name", CASES)


@cache
def batches(name):
    """Returns the leaves [STEPS, 1, NUM, ...] of ten batches."""
    drawn = CASES[name].batch(jax.random.key(1), STEPS * NUM)
    return jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(STEPS, 1, NUM, *leaf.shape[1:]), drawn
    )


@cache
def start(name):
    """Returns the states of two seeds."""
    first = jax.tree.map(lambda leaf: leaf[0, 0], batches(name))
    begin = jax.jit(partial(CASES[name].make().init, batch=first))
    return [begin(key) for key in jax.random.split(jax.random.key(0), 2)]


def on_host(state):
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def run(name, step, state):
    """Returns the state and the metrics after all batches, on the host."""
    for i in range(STEPS):
        state, metrics = step(state, jax.tree.map(lambda leaf, i=i: leaf[i], batches(name)))
    return on_host(state), jax.device_get(metrics)


@cache
def on_one_device(name):
    step = jax.jit(CASES[name].make().step)
    return [run(name, step, state) for state in start(name)]


def assert_close(actual, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=2e-5), actual, expected)


@each
def test_the_steps_move_far(name):
    """The parameters move so far that a wrong scale or draw would show above 2e-5."""
    for role in ("generator", "discriminator"):
        before, after = (
            getattr(s, role).params for s in (on_host(start(name)[0]), on_one_device(name)[0][0])
        )
        moves = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
        assert min(jax.tree.leaves(moves)) > 1e-3


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        *((name, "shard") for name in CASES),
        *((name, "pmap") for name in ("infogan", "pix2pix", "bigan", "ada")),
        *(
            pytest.param(name, "pmap", marks=pytest.mark.slow)
            for name in ("acgan", "cyclegan", "path_length", "style_mixing")
        ),
    ],
)
def test_eight_devices_do_what_one_does(name, layout):
    assert jax.device_count() == 8
    step = CASES[name].make(axis_name=parallel.AXIS_NAMES[layout]).step
    wrap = {"pmap": parallel.pmap_step, "shard": parallel.shard_step}[layout]
    made = run(name, wrap(step, donate=False), start(name)[0])
    assert_close(made, on_one_device(name)[0])


@each
def test_an_ensemble_is_each_member_alone(name):
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *start(name))
    step = parallel.ensemble_step(
        CASES[name].make().step, batch_axis=None, devices=jax.devices()[:2]
    )
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *on_one_device(name))
    assert_close(run(name, step, states), alone)


@each
def test_two_microbatches_do_what_the_whole_batch_does(name):
    """No operation in these examples compares the examples of a batch."""
    step = jax.jit(CASES[name].make(accumulate=2).step)
    assert_close(run(name, step, start(name)[0]), on_one_device(name)[0])

"""The conditional examples reach their oracles, and train alike in every layout."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from examples import acgan, cyclegan, infogan, pix2pix
from gan_jax import parallel
from gan_jax.metrics.two_sample import energy_test

EXAMPLES = [acgan, infogan, pix2pix, cyclegan]
SGD = optax.sgd(0.05)  # Adam would hide gradients of a wrong scale
NUM, STEPS = 16, 10

pytestmark = pytest.mark.usefixtures("quick_compile")
each = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.__name__)

# The oracles


def test_acgan_makes_the_class_it_is_told():
    assert acgan.main(steps=700) > 0.95


def test_infogan_shows_its_code():
    """The mutual information is within 10 % of the code's entropy."""
    assert infogan.main(steps=1000) > 0.9


@pytest.mark.slow
def test_pix2pix_fills_outlines_it_has_not_seen():
    """The error is a tenth of that of the best image that ignores the outline, the median."""
    x = pix2pix.batch(jax.random.key(3), 2000).x
    of_median = float(jnp.mean(jnp.abs(x - jnp.median(x, axis=0)[None])))
    assert 0.25 < of_median < 0.4
    assert pix2pix.main(steps=600) < of_median / 10


@pytest.mark.slow
def test_cyclegan_translates_both_ways():
    """The identity has no cycle error, but it makes points of the wrong domain."""
    x = cyclegan.batch(jax.random.key(3), 1000).x
    of_identity = float(energy_test(x["a"], x["b"], jax.random.key(4)).distance)
    assert of_identity > 0.2
    error, distance = cyclegan.main(steps=2000)
    assert error < 0.1
    assert distance < 0.1


# One result


def step_of(example, **options):
    return example.make(generator_tx=SGD, discriminator_tx=SGD, **options).step


@cache
def batches(example):
    """[STEPS, 1, NUM, ...]"""
    drawn = example.batch(jax.random.key(1), STEPS * NUM)
    return jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(STEPS, 1, NUM, *leaf.shape[1:]), drawn
    )


@cache
def start(example):
    """Returns the states of two seeds."""
    first = jax.tree.map(lambda leaf: leaf[0, 0], batches(example))
    begin = jax.jit(partial(example.make(generator_tx=SGD, discriminator_tx=SGD).init, batch=first))
    return [begin(key) for key in jax.random.split(jax.random.key(0), 2)]


def run(example, step, state):
    """Returns the state and the metrics after all batches, on the host."""
    for i in range(STEPS):
        state, metrics = step(state, jax.tree.map(lambda leaf, i=i: leaf[i], batches(example)))
    return jax.device_get((state.replace(key=jax.random.key_data(state.key)), metrics))


@cache
def on_one_device(example):
    step = jax.jit(step_of(example))
    return [run(example, step, state) for state in start(example)]


def assert_close(actual, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=2e-5), actual, expected)


@each
def test_the_steps_move_far(example):
    """The parameters move so far that a wrong scale or draw would show above 2e-5."""
    for role in ("generator", "discriminator"):
        before, after = (
            getattr(s, role).params for s in (start(example)[0], on_one_device(example)[0][0])
        )
        moves = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
        assert min(jax.tree.leaves(moves)) > 1e-3


@pytest.mark.parametrize(
    ("example", "layout"),
    [
        *((example, "shard") for example in EXAMPLES),
        (infogan, "pmap"),
        (pix2pix, "pmap"),
        pytest.param(acgan, "pmap", marks=pytest.mark.slow),
        pytest.param(cyclegan, "pmap", marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_eight_devices_do_what_one_does(example, layout):
    assert jax.device_count() == 8
    step = step_of(example, axis_name=parallel.AXIS_NAMES[layout])
    wrap = {"pmap": parallel.pmap_step, "shard": parallel.shard_step}[layout]
    made = run(example, wrap(step, donate=False), start(example)[0])
    assert_close(made, on_one_device(example)[0])


@each
def test_an_ensemble_is_each_member_alone(example):
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *start(example))
    step = parallel.ensemble_step(step_of(example), batch_axis=None, devices=jax.devices()[:2])
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *on_one_device(example))
    assert_close(run(example, step, states), alone)


@each
def test_a_batch_in_two_parts_updates_as_the_whole(example):
    made = run(example, jax.jit(step_of(example, accumulate=2)), start(example)[0])
    assert_close(made, on_one_device(example)[0])

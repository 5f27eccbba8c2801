"""A sweep in one program: over seeds, learning rates and penalty weights, members as if alone."""

from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from gan_jax import Batch, losses, penalties
from gan_jax.data import synthetic
from gan_jax.models.mlp import mlp
from gan_jax.optimizers import adam
from gan_jax.parallel import ensemble_step

pytestmark = pytest.mark.usefixtures("quick_compile")

STEPS = 100


@pytest.fixture(autouse=True)
def _in_double_precision():
    """Float64, because two float32 programs of the same step differ by 1e-2 after 100 steps.

    Rounding then moves an example across the kink of a ReLU. The rates are powers of two, because
    Optax stores them in float32.
    """
    with jax.enable_x64(True):
        yield


@cache
def small_gan(width):
    """Returns the GAN of the case "mixture" in benchmarks/cases.py, which has width 128."""
    return mlp((2,), latent=2, width=width, depth=2, bounded=False, generator_slope=0.0)


def state_of(width, tx, seed):
    gan, batch = small_gan(width), Batch(jnp.zeros((1, 2)))
    state = gan_jax.init(gan, tx, tx, jax.random.key(seed), batch)
    return jax.tree.map(
        lambda leaf: leaf.astype(float) if leaf.dtype == jnp.float32 else leaf, state
    )


def step_of(width, tx, weight):
    gan, loss = small_gan(width), losses.non_saturating
    return gan_jax.make_train_step(
        gan_jax.make_discriminator_step(gan, loss, tx, penalties=[(penalties.r1, weight)]),
        gan_jax.make_generator_step(gan, loss, tx),
    )


def batches(size):
    """Returns batches [STEPS, n_critic = 1, size, 2]."""
    x = synthetic.ring().sample(jax.random.key(7), STEPS * size)
    return Batch(x.reshape(STEPS, 1, size, 2))


def in_one_program(width, size, settings, optimizer, devices):
    """Returns states and metrics of members with any (seed, rate, weight), in one compiled call."""
    tx = optax.inject_hyperparams(optimizer, static_args=("b1", "b2", "eps"))

    def member(seed, rate, weight):
        return state_of(width, tx(learning_rate=rate, b1=0.5), seed), weight

    def chunk(carry, batches):
        state, weight = carry
        # The rate comes from the state. The one given here is not read.
        step = step_of(width, tx(learning_rate=0.0, b1=0.5), weight)
        state, metrics = jax.lax.scan(step, state, batches)
        return (state, weight), metrics

    seeds, rates, weights = (jnp.asarray(values) for values in zip(*settings, strict=True))
    members = jax.jit(jax.vmap(member))(seeds, rates, weights)
    run = ensemble_step(chunk, batch_axis=None, devices=jax.devices()[:devices])
    (states, _), metrics = run(members, batches(size))
    return states, metrics


def alone(width, size, settings, optimizer):
    """Returns each member trained alone, with its rate and weight as plain numbers."""

    @jax.jit
    def train(seed, rate, weight):
        tx = optimizer(rate, b1=0.5)
        return jax.lax.scan(step_of(width, tx, weight), state_of(width, tx, seed), batches(size))

    made = [train(*setting) for setting in settings]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)


def parameters(states):
    return [states.generator.params, states.discriminator.params, states.ema_params]


def assert_each_as_alone(made, expected, tolerance=1e-6):
    close = partial(np.testing.assert_allclose, rtol=0, atol=tolerance)
    jax.tree.map(close, parameters(made[0]), parameters(expected[0]))
    # The gradient norms jump where a ReLU does, and accuracies are counts.
    for name in ("discriminator_loss", "generator_loss", "value"):
        close(made[1][name], expected[1][name])
    # All members differ, so an exchanged seed, rate or weight would be found.
    flat = np.stack(
        [
            np.concatenate([leaf[i].ravel() for leaf in jax.tree.leaves(parameters(expected[0]))])
            for i in range(len(expected[0].key))
        ]
    )
    apart = np.abs(flat[:, None] - flat[None]).max(axis=-1)
    assert apart[~np.eye(len(flat), dtype=bool)].min() > 1e-2


@pytest.mark.parametrize("optimizer", [adam, pytest.param(optax.adam, marks=pytest.mark.slow)])
def test_seeds_rates_and_weights_in_one_program_over_devices(optimizer, compiled):
    """Two of each give eight members on four devices, for 100 steps."""
    settings = [*product([0, 1], [2**-10, 2**-8], [0.0, 0.5])]
    expected = alone(8, 16, settings, optimizer)
    compiled.clear()
    made = in_one_program(8, 16, settings, optimizer, devices=4)
    assert compiled.count("jit(mapped)") == 1
    assert_each_as_alone(made, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        [(seed, 2**-12, 0.0) for seed in range(16)],
        [*product(range(2), [2**-12, 2**-11, 2**-10, 2**-9], [0.0, 0.125])],
    ],
    ids=["seeds", "seeds, rates and weights"],
)
@pytest.mark.parametrize("devices", [1, 8])
def test_sixteen_of_the_benchmarks_size(settings, devices):
    """MLPs of 128-128 on batches of 64, for 100 steps."""
    made = in_one_program(128, 64, settings, adam, devices)
    assert_each_as_alone(made, alone(128, 64, settings, adam))

"""Tests of the synchronisation experiment: its cycle, a small run, its folder and its flags."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_runs import assert_kept, assert_refused, compiled_in_a_hurry

import gan_jax
from experiments import synchronisation
from gan_jax import Batch, losses

pytestmark = pytest.mark.slow


def test_a_cycle_is_one_update_of_d_and_several_of_g(linear_gan):
    tx, key = optax.sgd(0.1), jax.random.key(0)
    batch = Batch(jax.random.normal(key, (4, 2)))
    d_step = gan_jax.make_discriminator_step(linear_gan, losses.minimax, tx)
    g_step = gan_jax.make_generator_step(linear_gan, losses.minimax, tx)
    state = gan_jax.init(linear_gan, tx, tx, key, batch)
    made, _ = synchronisation.make_cycle(d_step, g_step, 3)(state, batch)
    assert (made.discriminator.step, made.generator.step) == (1, 3)
    expected, _ = d_step(state, batch)
    for _ in range(3):
        expected, _ = g_step(expected, batch)
    for a, b in zip(
        jax.tree.leaves(made.generator), jax.tree.leaves(expected.generator), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = synchronisation.Config(
        workdir=tmp_path_factory.mktemp("synchronisation") / "run",
        generator_steps=(1, 25),
        num_cycles=500,
        freeze_after=100,
        frozen_steps=200,
        seeds=2,
        batch_size=64,
        width=32,
    )
    with compiled_in_a_hurry():
        return config, synchronisation.main(config)


def test_g_collapses_when_d_does_not_keep_step(finished):
    training = finished[1]["training"]
    balanced, ahead = (np.array(training[num]["effective_modes"]) for num in ("1", "25"))
    assert balanced.min() > 2 * ahead.max()


def test_g_collapses_against_a_frozen_d(finished):
    frozen = finished[1]["frozen"]
    before, after = (np.mean(frozen[when]["effective_modes"]) for when in ("before", "after"))
    assert after < 0.6 * before


def test_the_folder_is_kept(finished):
    assert_kept(synchronisation, *finished, r1=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        (
            {"generator_steps": (1, 0)},
            r"--generator-steps must be different numbers of at least 1, got \(1, 0\)",
        ),
        (
            {"generator_steps": ()},
            r"--generator-steps must be different numbers of at least 1, got \(\)",
        ),
        ({"learning_rate": -1.0}, "--learning-rate must be above 0, got -1.0"),
        ({"r1": -0.1}, "--r1 must be at least 0, got -0.1"),
    ],
)
def test_bad_flags(settings, message, tmp_path):
    config = synchronisation.Config(workdir=tmp_path / "run", **settings)
    assert_refused(synchronisation, config, message)


def test_the_sample_is_the_states_own():
    """Two seeds of a vmapped state give different samples."""
    config = synchronisation.Config(batch_size=8, width=8)
    _, algorithm = synchronisation.build(config)
    batch = Batch(jnp.zeros((8, 2)))
    keys = jax.random.split(jax.random.key(0), 2)
    states = jax.vmap(lambda key: algorithm.init(key, batch))(keys)
    x = jax.vmap(lambda s: algorithm.sample(s, jax.random.key(1), 5))(states)
    assert not jnp.allclose(x[0], x[1])

"""Tests of `experiments.many`: its games against the same games put together by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from experiments import many
from gan_jax import Batch, losses, penalties
from gan_jax.algorithms import make_unrolled_generator_step
from gan_jax.augment import instance_noise, mixed_scales
from gan_jax.data.synthetic import feed, ring
from gan_jax.models.mlp import mlp
from gan_jax.networks.packing import packed
from gan_jax.optimizers import adam
from gan_jax.run import session

pytestmark = pytest.mark.usefixtures("quick_compile")

STEPS = 4
RULES = many.Rules(
    loss="hinge",
    penalty=("r2", "r1"),
    penalty_weight=0.3,
    final_penalty_share=0.01,
    noise=0.7,
    noise_share=0.6,
    pack=2,
    n_critic=3,
    num_steps=STEPS,
    batch_size=5,
    generator_lr=0.03,
    discriminator_lr=0.02,
    final_lr_share=0.2,
    generator_final_lr_share=0.05,
    lr_decay="exponential",
    b1=0.3,
    b2=0.8,
    ema_decay=0.6,
)


def small():
    return mlp((2,), latent=3, width=4, depth=1, bounded=False)


def by_hand():
    """Returns the first state and the step of the game of RULES."""
    gan = packed(small(), 2)
    noise = instance_noise(mixed_scales(0.7, share=0.6))

    def falling(rate, final, per_update):
        constant = STEPS * 3 // 10

        def at(step):
            past = jnp.maximum(step / per_update - constant, 0) / (STEPS - constant)
            return rate * final**past

        return adam(at, b1=0.3, b2=0.8)

    def weight(step):
        return 0.3 * 0.01 ** (step / (3 * STEPS))

    g_tx, d_tx = falling(0.03, 0.05, 1), falling(0.02, 0.2, 3)
    both = [(penalties.r2, weight), (penalties.r1, weight)]
    d_step = gan_jax.make_discriminator_step(
        gan, losses.hinge, d_tx, penalties=both, augmentation=noise
    )
    g_step = gan_jax.make_generator_step(
        gan,
        losses.hinge,
        g_tx,
        augmentation=noise,
        ema_decay=lambda step: jnp.minimum(0.6, (1 + step) / (10 + step)),
    )
    train_step = gan_jax.make_train_step(d_step, g_step, n_critic=3)
    state = gan_jax.init(
        gan, g_tx, d_tx, jax.random.key(2), Batch(jnp.zeros((1, 2, 2))), augmentation=noise
    )
    return state, feed(train_step, ring(), (3, 5, 2))


def played(state, step):
    step = jax.jit(step)
    for _ in range(STEPS):
        state, _ = step(state, None)
    return [state.generator.params, state.discriminator.params, state.ema_params]


def test_every_rule_is_played():
    """The rules differ from their defaults, so that each has a visible effect."""
    changed = {
        f.name for f in dataclasses.fields(many.Rules) if getattr(RULES, f.name) != f.default
    }
    assert {f.name for f in dataclasses.fields(many.Rules)} - changed == {
        "unroll",
        "seeds",
        "seed",
        "num_samples",
    }
    game = many.play(RULES, small(), ring(), (2,))
    made = played(game.state(jax.random.key(2)), game.step)
    expected = played(*by_hand())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), made, expected
    )


def test_unrolled_games_are_played_unrolled():
    rules = many.Rules(penalty=(), noise=0.0, unroll=2, num_steps=STEPS, batch_size=5)
    game = many.play(rules, small(), ring(), (2,))
    tx = adam(optax.cosine_decay_schedule(rules.generator_lr, STEPS, alpha=0.1), b1=0.0, b2=0.99)
    d_step = gan_jax.make_discriminator_step(small(), losses.non_saturating, tx)
    g_step = make_unrolled_generator_step(small(), losses.non_saturating, tx, d_step, unroll=2)
    step = feed(gan_jax.make_train_step(d_step, g_step), ring(), (1, 5))
    state = game.state(jax.random.key(0))
    generators = [played(state, made)[0] for made in (game.step, step)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *generators)


def test_updates_count_what_is_computed():
    rules = many.Rules(num_steps=10, n_critic=3, unroll=2)
    assert many.updates(rules) == {"generator": 10, "discriminator": 50}


def test_rates_end_at_a_share():
    """With b1 = b2 = 0 Adam's update is as large as the rate: the last is a fifth of the first."""
    rules = dataclasses.replace(
        RULES, b1=0, b2=0, num_steps=50, n_critic=1, lr_decay="cosine", generator_final_lr_share=0.2
    )
    game = many.play(rules, small(), ring(), (2,))
    state, moved, step = game.state(jax.random.key(0)), [], jax.jit(game.step)
    for _ in range(51):
        after, _ = step(state, None)
        both = (jax.tree.leaves(each.generator.params) for each in (state, after))
        moved.append(max(float(jnp.abs(a - b).max()) for a, b in zip(*both, strict=True)))
        state = after
    assert moved[0] == pytest.approx(0.03, rel=1e-3)
    assert moved[25] == pytest.approx(0.03 * 0.6, rel=1e-2)
    assert moved[50] == pytest.approx(0.03 * 0.2, rel=1e-2)


@pytest.mark.parametrize(
    ("seeds", "devices", "used"), [(10, 2, 2), (10, 3, 2), (10, 8, 5), (7, 8, 7), (1, 8, 1)]
)
def test_seeds_are_spread_evenly_over_as_many_devices_as_can_be(seeds, devices, used):
    assert len(session._devices_of(jnp.zeros(seeds), list(range(devices)))) == used


def test_the_table_has_a_column_for_each_sampler():
    figures = {"gan": {"captured": [7.0, 8.0]}, "real_stacks": {"captured": [8.0, 8.0]}}
    head, row = many.table(figures).splitlines()
    assert head.split("  ")[-1].strip() == "real stacks: mean (lowest to highest)"
    assert row.split() == ["captured", "7.5", "(7", "to", "8)", "8", "(8", "to", "8)"]


def test_rates_that_decay_exponentially():
    rules = many.Rules(num_steps=100, lr_decay="exponential")
    schedule = many.learning_rate(rules, 1e-4)
    expected = [1.0, 1.0, 1e-2, 1e-4, 1e-4]
    np.testing.assert_allclose([schedule(at) for at in (0, 30, 65, 100, 999)], expected, rtol=1e-4)
    assert many.generator_final(rules) == rules.final_lr_share
    own = dataclasses.replace(rules, generator_final_lr_share=0.5)
    assert many.generator_final(own) == 0.5

"""Gradient accumulation: microbatches give the update of the whole batch and need less memory.

The networks have the difficult features: dropout, and a penalty that draws for each example.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_gans import BATCH, ROLES, TX, difference, first_state, make_deep_gan, make_gan, make_step
from small_runs import assert_refused, config

import gan_jax
from experiments import mnist
from gan_jax import GAN, Batch, parallel, priors
from gan_jax import random as keys
from gan_jax.losses import non_saturating

REAL = jnp.tanh(jax.random.normal(jax.random.key(5), (BATCH, 8, 8, 1)))

pytestmark = pytest.mark.usefixtures("quick_compile")


def start(gan):
    return jax.jit(lambda key: first_state(gan, key))(jax.random.key(0))


@pytest.mark.parametrize("role", ROLES)
def test_a_batch_in_parts_updates_as_the_whole(role):
    gan = make_gan()
    state = start(gan)
    whole, metrics = jax.jit(make_step(role, gan))(state, Batch(REAL))
    updated, of_parts = jax.jit(make_step(role, gan, accumulate=4))(state, Batch(REAL))
    assert difference(updated, whole) < 1e-6
    assert difference(state, whole) > 1e-3
    for name in metrics:
        np.testing.assert_allclose(of_parts[name], metrics[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_in_parts_on_two_devices_too():
    axis = parallel.AXIS_NAME
    gan, of_shard = make_gan(), make_gan(axis)
    options = {"devices": jax.devices()[:2], "donate": False}
    mapped = parallel.pmap_step(make_step("discriminator", of_shard, axis, accumulate=4), **options)
    sharded = parallel.shard_step(make_step("generator", gan, accumulate=4), **options)
    for role, step in (("discriminator", mapped), ("generator", sharded)):
        whole, _ = jax.jit(make_step(role, gan))(start(gan), Batch(REAL))
        assert difference(step(start(gan), Batch(REAL))[0], whole) < 1e-6


def test_batch_norm_sees_its_part_only():
    gan = make_gan(norm=True)
    state = start(gan)
    updated, whole = (
        jax.jit(make_step("generator", gan, accumulate=parts))(state, Batch(REAL))[0]
        for parts in (4, 1)
    )
    assert difference(updated, whole) > 1e-4


def test_labels_go_with_their_images():
    """D's logit is the label. If labels and images were mixed up, the sum would differ."""
    seen = []

    def init(key, x, label=None):
        return {"w": jnp.ones(())}, {}

    def judge(params, model_state, x, label=None, *, train, key=None):
        return params["w"] * label * x[:, 0, 0, 0], model_state

    def generate(params, model_state, z, label=None, *, train, key=None):
        seen.append(label.shape)
        return params["w"] * jnp.ones((z.shape[0], 8, 8, 1)), model_state

    gan = GAN(gan_jax.Network(init, generate), gan_jax.Network(init, judge), priors.normal(3))
    batch = Batch(REAL, jnp.arange(BATCH) % 5)
    state = jax.jit(lambda key: gan_jax.init(gan, TX, TX, key, batch))(jax.random.key(0))
    step = gan_jax.make_discriminator_step
    updated, whole = (
        jax.jit(step(gan, non_saturating, TX, accumulate=parts))(state, batch)[0]
        for parts in (4, 1)
    )
    assert difference(updated, whole) < 1e-6
    assert {(BATCH,), (BATCH // 4,)} <= set(seen)


def test_parts_that_do_not_divide_are_refused():
    gan = make_gan()
    with pytest.raises(ValueError, match="batch of 16 cannot be split into 3 equal microbatches"):
        jax.eval_shape(make_step("generator", gan, accumulate=3), start(gan), Batch(REAL))
    for role in ROLES:
        with pytest.raises(ValueError, match="accumulate must be at least 1, got 0"):
            make_step(role, gan, accumulate=0)


@pytest.mark.parametrize("x64", [False, True])
def test_a_key_of_a_step_draws_as_the_key_it_was_made_of(x64):
    """Splits, folds and draws ignore the microbatch, also under vmap. `per_example` uses it."""
    key = jax.random.key(3)
    of_part = keys.for_step(key, 1, 4)

    @jax.jit
    def draws(key):
        first, second = jax.random.split(jax.random.fold_in(key, 7))
        many = jax.random.split(first, (2, 3)).ravel()
        return (
            jax.vmap(lambda k: jax.random.uniform(k, (3,)))(many),
            jax.random.normal(second, (2, 5)),
            jax.random.permutation(second, 9),
            [jax.random.bits(second, (5,), f"uint{width}") for width in (8, 16, 32)],
            jax.random.bernoulli(jax.random.fold_in(second, 2**31 + 5), 0.3, (4,)),
        )

    with jax.enable_x64(x64):
        made, expected = draws(of_part), draws(key)
    jax.tree.map(np.testing.assert_array_equal, made, expected)
    assert expected[1].dtype == (np.float64 if x64 else np.float32)

    every = jax.random.uniform(keys.per_example(key, 12)[5])
    assert every == jax.random.uniform(keys.per_example(of_part, 3)[1])
    assert every == jax.random.uniform(keys.per_example(keys.for_step(key), 12)[5])


@pytest.mark.parametrize("role", ROLES)
def test_parts_need_less_memory(role):
    """The compiled step keeps the activations of one microbatch: an eighth of the batch."""
    gan, batch = make_deep_gan(), Batch(jnp.zeros((4096, 8, 8, 1)))
    state = jax.eval_shape(lambda: gan_jax.init(gan, TX, TX, jax.random.key(0), batch))
    maker = getattr(gan_jax, f"make_{role}_step")

    def peak(parts):
        step = maker(gan, non_saturating, TX, accumulate=parts)
        compiled = jax.jit(step).lower(state, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert peak(8) < peak(1) / 3


def test_parts_that_do_not_divide_are_refused_before_the_data_are_read(tmp_path):
    assert_refused(
        mnist,
        config(tmp_path / "run", tmp_path / "nothing", accumulate=3),
        "--accumulate must divide 8, the number of images per batch and device, got 3",
    )

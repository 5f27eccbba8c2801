"""Accumulation, rematerialisation and mixed precision: the same training from less memory.

The networks hold what makes that hard: dropout, and a penalty that draws for each example.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params
from small_runs import assert_refused, config

import gan_jax
from experiments import mnist
from gan_jax import GAN, Batch, keys, parallel, penalties, priors
from gan_jax.losses import non_saturating
from gan_jax.models import MODELS
from gan_jax.models.layers import BatchNorm, Conv, ConvTranspose, Dropout

BATCH = 16
TX = optax.sgd(0.2)
REAL = jnp.tanh(jax.random.normal(jax.random.key(5), (BATCH, 8, 8, 1)))

pytestmark = pytest.mark.usefixtures("quick_compile")


class Generator(nn.Module):
    norm: bool

    @nn.compact
    def __call__(self, z, *, train):
        x = nn.relu(nn.Dense(4 * 4 * 2)(z)).reshape(-1, 4, 4, 2)
        if self.norm:
            x = BatchNorm()(x, train=train)
        return jnp.tanh(ConvTranspose(1)(x))


class Discriminator(nn.Module):
    axis_name: str | None

    @nn.compact
    def __call__(self, x, *, train):
        x = Dropout(0.5, self.axis_name)(nn.leaky_relu(Conv(2)(x), 0.2), train=train)
        return nn.Dense(1)(x.reshape(x.shape[0], -1))[:, 0]


def make_gan(axis_name=None, norm=False):
    return GAN(
        gan_jax.from_linen(Generator(norm)),
        gan_jax.from_linen(Discriminator(axis_name)),
        priors.normal(3),
    )


def make(role, gan, axis_name=None, **options):
    if role == "generator":
        return gan_jax.make_generator_step(gan, non_saturating, TX, axis_name=axis_name, **options)
    at_segment = partial(penalties.gradient_penalty, axis_name=axis_name)
    return gan_jax.make_discriminator_step(
        gan,
        non_saturating,
        TX,
        penalties=[(penalties.r1, 0.1), (at_segment, 0.1)],
        axis_name=axis_name,
        **options,
    )


def start(gan, key=None):
    key = jax.random.key(0) if key is None else key
    return jax.jit(lambda key: gan_jax.init(gan, TX, TX, key, Batch(REAL)))(key)


def difference(tree, other):
    """The largest of any leaf, keys aside."""
    flat = (jax.tree.leaves(t.replace(key=None)) for t in (tree, other))
    return max(float(jnp.abs(a - b).max()) for a, b in zip(*flat, strict=True))


ROLES = ["discriminator", "generator"]


@pytest.mark.parametrize("role", ROLES)
def test_a_batch_in_parts_updates_as_the_whole(role):
    gan = make_gan()
    state = start(gan)
    whole, metrics = jax.jit(make(role, gan))(state, Batch(REAL))
    updated, of_parts = jax.jit(make(role, gan, accumulate=4))(state, Batch(REAL))
    assert difference(updated, whole) < 1e-6
    assert difference(state, whole) > 1e-3
    for name in metrics:
        np.testing.assert_allclose(of_parts[name], metrics[name], rtol=1e-5, atol=1e-6)


def test_in_parts_on_two_devices_too():
    axis = parallel.AXIS_NAME
    gan, of_shard = make_gan(), make_gan(axis)
    options = {"devices": jax.devices()[:2], "donate": False}
    mapped = parallel.pmap_step(make("discriminator", of_shard, axis, accumulate=4), **options)
    sharded = parallel.shard_step(make("generator", gan, accumulate=4), **options)
    for role, step in (("discriminator", mapped), ("generator", sharded)):
        whole, _ = jax.jit(make(role, gan))(start(gan), Batch(REAL))
        assert difference(step(start(gan), Batch(REAL))[0], whole) < 1e-6


def test_batch_norm_sees_its_part_only():
    gan = make_gan(norm=True)
    state = start(gan)
    updated, whole = (
        jax.jit(make("generator", gan, accumulate=parts))(state, Batch(REAL))[0] for parts in (4, 1)
    )
    assert difference(updated, whole) > 1e-4


def test_labels_go_with_their_images():
    """D's logit is the label: were they mixed up with the images, the sum would differ."""
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


def test_parts_that_do_not_divide_and_keys_of_another_kind_are_refused():
    gan = make_gan()
    with pytest.raises(ValueError, match="batch of 16 cannot be taken in 3 equal parts"):
        jax.eval_shape(make("generator", gan, accumulate=3), start(gan), Batch(REAL))
    for role in ROLES:
        with pytest.raises(ValueError, match="accumulate must be at least 1, got 0"):
            make(role, gan, accumulate=0)
    other = jax.random.key(0, impl="rbg")
    with pytest.raises(ValueError, match="needs a key of kind threefry2x32, got rbg"):
        jax.eval_shape(make("generator", gan, accumulate=2), start(gan, other), Batch(REAL))
    jax.eval_shape(make("generator", gan), start(gan, other), Batch(REAL))  # is well without


@pytest.mark.parametrize("x64", [False, True])
def test_a_key_of_a_step_draws_as_the_key_it_was_made_of(x64):
    """Splits, folds and draws, under vmap as well; only `per_example` knows the part."""
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


# Mixed precision


def equations(jaxpr):
    """At any depth."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)


PRODUCTS = {
    "dot_general",
    *("gan_conv", "gan_conv_input_gradient", "gan_conv_kernel_gradient"),
}


def types_of_products(traced):
    return {
        str(eqn.invars[0].aval.dtype)
        for eqn in equations(traced.jaxpr)
        if eqn.primitive.name in PRODUCTS
    }


@pytest.mark.parametrize("model", MODELS)
def test_mixed_precision_multiplies_in_half_and_keeps_all_else_single(model):
    gan = MODELS[model]((28, 28, 1), width=8, latent=4)
    lower = gan_jax.mixed_precision(gan)
    batch = Batch(jnp.tanh(jax.random.normal(jax.random.key(1), (4, 28, 28, 1))))
    tx = optax.adam(1e-3)
    state = jax.jit(lambda key: gan_jax.init(lower, tx, tx, key, batch))(jax.random.key(0))
    steps = [
        [
            gan_jax.make_discriminator_step(g, non_saturating, tx),
            gan_jax.make_generator_step(g, non_saturating, tx),
        ]
        for g in (lower, gan)
    ]
    for half, single in zip(*steps, strict=True):
        traced = jax.make_jaxpr(half)(state, batch)
        assert types_of_products(traced) == {"bfloat16"}
        if model == "maxout":
            continue  # dropout and all, it is traced only: compiling takes long
        updated, metrics = jax.jit(half)(state, batch)
        for leaf in jax.tree.leaves((updated.replace(key=None), metrics)):
            assert leaf.dtype in (jnp.float32, jnp.int32)
        expected, of_single = jax.jit(single)(state, batch)
        for name in metrics.keys() - {"real_accuracy", "fake_accuracy"}:
            np.testing.assert_allclose(metrics[name], of_single[name], rtol=0.05, atol=0.02)
        assert 0 < difference(updated, expected) < 0.05


# Rematerialisation


@pytest.mark.parametrize("role", ROLES)
def test_rematerialised_networks_train_alike_from_less_memory(role):
    gan = make_gan(norm=True)
    state = start(gan)
    expected, metrics = jax.jit(make(role, gan))(state, Batch(REAL))
    updated, again = jax.jit(make(role, gan_jax.rematerialised(gan)))(state, Batch(REAL))
    assert difference(updated, expected) < 1e-6
    for name in metrics:
        np.testing.assert_allclose(again[name], metrics[name], rtol=1e-5, atol=1e-6)


class Deep(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, *, train):
        x = x.reshape(x.shape[0], -1)
        for _ in range(8):
            x = nn.tanh(nn.Dense(64)(x))
        x = nn.Dense(self.features)(x)
        return x.reshape(-1, 8, 8, 1) if self.features > 1 else x[:, 0]


@pytest.mark.parametrize("role", ROLES)
def test_parts_need_less_memory(role):
    """Of the compiled step: activations are those of an eighth of the batch."""
    gan = GAN(gan_jax.from_linen(Deep(64)), gan_jax.from_linen(Deep(1)), priors.normal(3))
    batch = Batch(jnp.zeros((4096, 8, 8, 1)))
    state = jax.eval_shape(lambda: gan_jax.init(gan, TX, TX, jax.random.key(0), batch))
    maker = getattr(gan_jax, f"make_{role}_step")

    def peak(parts):
        step = maker(gan, non_saturating, TX, accumulate=parts)
        compiled = jax.jit(step).lower(state, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert peak(8) < peak(1) / 3


def test_rematerialisation_keeps_no_activations():
    """What the pullback holds on to: parameters and the input, and nothing made on the way.

    Not of a compiled program: XLA's compiler for CPUs finds the repetition and undoes it.
    """
    gan = GAN(gan_jax.from_linen(Deep(64)), gan_jax.from_linen(Deep(1)), priors.normal(3))
    x = jnp.zeros((4096, 8, 8, 1))
    params, model_state = jax.eval_shape(gan.discriminator.init, jax.random.key(0), x)

    def held(gan):
        def pullback(params, x):
            apply = partial(gan.discriminator.apply, model_state=model_state, train=True)
            return jax.vjp(lambda params, x: apply(params, x=x)[0], params, x)[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(pullback, params, x)))

    given = sum(leaf.size for leaf in jax.tree.leaves((params, x)))
    assert held(gan_jax.rematerialised(gan)) <= given
    assert held(gan) > given + 7 * 4096 * 64


# From the command line


def test_the_experiment_has_all_three(tmp_path):
    batch = Batch(jnp.zeros((1, 8, 28, 28, 1)))
    found = {}
    for name, settings in {
        "plain": {},
        "all": {"accumulate": 2, "precision": "bfloat16", "rematerialise": True},
    }.items():
        _, state, step = mnist.build(config(tmp_path, tmp_path, **settings))
        traced = jax.make_jaxpr(step)(state, batch)
        names = [eqn.primitive.name for eqn in equations(traced.jaxpr)]
        lengths = [eqn.params.get("length") for eqn in equations(traced.jaxpr)]
        found[name] = {
            "checkpoint": "checkpoint" in names or "remat2" in names,
            "parts": lengths.count(2),
            "types": types_of_products(traced),
        }
    assert found == {
        "plain": {"checkpoint": False, "parts": 0, "types": {"float32"}},
        "all": {"checkpoint": True, "parts": 2, "types": {"bfloat16"}},
    }


def test_parts_that_do_not_divide_are_refused_before_the_data_are_read(tmp_path):
    assert_refused(
        mnist,
        config(tmp_path / "run", tmp_path / "nothing", accumulate=3),
        "--accumulate must divide the 8 images of a batch that a device has, got 3",
    )

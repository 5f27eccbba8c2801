"""Network wrappers: mixed precision, and activations recomputed for gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params
from small_gans import BATCH, ROLES, difference, first_state, make_deep_gan, make_gan, make_step
from small_runs import config

import gan_jax
from experiments import mnist
from gan_jax import GAN, Batch, Network
from gan_jax.losses import non_saturating
from gan_jax.models import MODELS

pytestmark = pytest.mark.usefixtures("quick_compile")


def equations(jaxpr):
    """Yields every equation of a jaxpr, at any depth."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)


PRODUCTS = {
    "dot_general",
    *("gan_conv", "gan_conv_input_gradient", "gan_conv_kernel_gradient"),
}


def types_of_products(traced, products=PRODUCTS):
    return {
        str(eqn.invars[0].aval.dtype)
        for eqn in equations(traced.jaxpr)
        if eqn.primitive.name in products
    }


@pytest.mark.parametrize("model", ["dcgan", "mlp", "maxout"])
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
            continue  # maxout with dropout is only traced, because compiling takes long
        updated, metrics = jax.jit(half)(state, batch)
        for leaf in jax.tree.leaves((updated.replace(key=None), metrics)):
            assert leaf.dtype in (jnp.float32, jnp.int32)
        expected, of_single = jax.jit(single)(state, batch)
        for name in metrics.keys() - {"real_accuracy", "fake_accuracy"}:
            np.testing.assert_allclose(metrics[name], of_single[name], rtol=0.05, atol=0.02)
        assert 0 < difference(updated, expected) < 0.05


@pytest.mark.parametrize("model", ["biggan", "r3gan", "sngan", "stylegan2"])
def test_convolutions_of_modern_networks_are_in_half_precision(model):
    """Norms of kernels are computed in single precision, so some matrix products are too."""
    gan = gan_jax.mixed_precision(MODELS[model]((8, 8, 1), width=8, latent=4))
    batch, tx = Batch(jnp.zeros((2, 8, 8, 1))), optax.sgd(1e-3)
    state = jax.eval_shape(lambda: gan_jax.init(gan, tx, tx, jax.random.key(0), batch))
    for make in (gan_jax.make_discriminator_step, gan_jax.make_generator_step):
        traced = jax.make_jaxpr(make(gan, non_saturating, tx))(state, batch)
        assert types_of_products(traced, PRODUCTS - {"dot_general"}) == {"bfloat16"}


@pytest.mark.parametrize("by_keyword", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_mixed_precision_lowers_floating_labels_and_every_noise(dtype, by_keyword):
    """A network on a pytree, with its label passed either way. Integers keep their type."""
    seen = []

    def apply(params, model_state, x, label=None, *, train, key=None):
        seen.append(jax.tree.map(lambda leaf: leaf.dtype.name, (params, x, label)))
        return x["noise"] @ params, model_state

    network = Network(lambda key, x, label=None: (jnp.ones(3), {}), apply)
    lower = gan_jax.mixed_precision(GAN(network, network, None)).generator
    x = {"noise": jnp.ones((2, 3)), "code": jnp.ones(2, jnp.int32)}
    label = jnp.ones((2, 4), dtype)
    given = ((), {"label": label}) if by_keyword else ((label,), {})
    y, _ = lower.apply(jnp.ones(3), {}, x, *given[0], **given[1], train=True)
    of_label = {"float32": "bfloat16", "int32": "int32"}[dtype]
    assert seen == [("bfloat16", {"noise": "bfloat16", "code": "int32"}, of_label)]
    assert y.dtype == jnp.float32
    remade = gan_jax.rematerialised(GAN(network, network, None)).generator
    np.testing.assert_array_equal(remade.apply(jnp.ones(3), {}, x, label, train=True)[0], [3, 3])


# Rematerialisation


@pytest.mark.parametrize("role", ROLES)
def test_rematerialised_networks_train_alike_from_less_memory(role):
    gan = make_gan(norm=True)
    state = jax.jit(lambda key: first_state(gan, key))(jax.random.key(0))
    batch = Batch(jnp.tanh(jax.random.normal(jax.random.key(5), (BATCH, 8, 8, 1))))
    expected, metrics = jax.jit(make_step(role, gan))(state, batch)
    updated, again = jax.jit(make_step(role, gan_jax.rematerialised(gan)))(state, batch)
    assert difference(updated, expected) < 1e-6
    for name in metrics:
        np.testing.assert_allclose(again[name], metrics[name], rtol=1e-5, atol=1e-6)


def test_rematerialisation_keeps_no_activations():
    """The pullback holds only parameters and the input, and no intermediate results.

    The test reads the traced program, because XLA's CPU compiler removes the recomputation.
    """
    gan = make_deep_gan()
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

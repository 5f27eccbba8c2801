"""Packed samples, by hand, and the minibatch standard deviation, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import gan_jax
from gan_jax import GAN, Batch, Network, batches, losses, penalties, priors
from gan_jax.data import synthetic
from gan_jax.models.mlp import mlp
from gan_jax.networks.packing import packed
from gan_jax.nn import MinibatchStd

pytestmark = pytest.mark.usefixtures("quick_compile")

SIZE = 3

first_state = jax.jit(gan_jax.init, static_argnums=(0, 1, 2))


def weigh(shape):
    """Returns a linear D, logit = w.x with w drawn by `init`, for any number of channels."""

    def init(key, x, label=None):
        return jax.random.normal(key, x.shape[1:]), {}

    def apply(params, model_state, x, label=None, *, train, key=None):
        return jnp.tensordot(x, params, params.ndim), model_state

    return Network(init, apply)


def scale(shape):
    """x is the features of z times a parameter, plus the label if there is one."""

    def init(key, z, label=None):
        return jnp.float32(2.0), {}

    def apply(params, model_state, z, label=None, *, train, key=None):
        x = params * z.reshape(-1, *shape)
        return x if label is None else x + label.reshape(-1, *[1] * len(shape)), model_state

    return Network(init, apply)


def linear(shape):
    return GAN(scale(shape), weigh(shape), priors.normal(int(np.prod(shape))))


@pytest.mark.parametrize("shape", [(2,), (4, 4, 2)])
def test_a_pack_by_hand(shape):
    """G makes each sample from its own share of z. D gets the last axes joined."""
    gan = linear(shape)
    packs = packed(gan, SIZE)
    z = packs.prior(jax.random.key(0), 5)
    assert z.shape == (5, SIZE, np.prod(shape))
    params, _ = packs.generator.init(jax.random.key(1), z)
    label = jnp.arange(5)
    x, _ = packs.generator.apply(params, {}, z, label, train=True)
    assert x.shape == (5, SIZE, *shape)
    w, _ = packs.discriminator.init(jax.random.key(2), x)
    assert w.shape == (*shape[:-1], SIZE * shape[-1])
    logits, _ = packs.discriminator.apply(w, {}, x, train=True)
    for i in range(5):
        shares = np.split(np.asarray(z[i]), SIZE)
        samples = [2 * share.reshape(shape) + i for share in shares]
        np.testing.assert_allclose(x[i], samples, rtol=1e-6)
        joined = np.concatenate(samples, axis=-1)
        np.testing.assert_allclose(logits[i], np.sum(joined * w), rtol=1e-4)
    # D distinguishes the order within a pack, and not the order of packs.
    turned, _ = packs.discriminator.apply(w, {}, x[:, ::-1], train=True)
    assert not np.allclose(turned, logits)
    moved, _ = packs.discriminator.apply(w, {}, x[::-1], train=True)
    np.testing.assert_allclose(moved, logits[::-1], rtol=1e-6)


def test_a_prior_of_two_arrays():
    """The prior has noise and a code. Each example in a pack gets its own share of both."""

    def prior(key, num):
        noise, code = jax.random.split(key)
        return jax.random.normal(noise, (num, 2)), jax.random.randint(code, (num,), 0, 9)

    def init(key, z, label=None):
        return jnp.float32(2.0), {}

    def generate(params, model_state, z, label=None, *, train, key=None):
        noise, code = z
        return params * noise + code[:, None], model_state

    gan, tx = GAN(Network(init, generate), weigh((2,)), prior), optax.sgd(0.1)
    state = first_state(gan, tx, tx, jax.random.key(0), Batch(jnp.zeros((6, 2))))
    key = jax.random.key(1)
    x = gan_jax.sample(gan, state, key, 5)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.split(key)[0], jnp.arange(5))
    for made, k in zip(x, keys, strict=True):
        noise, code = prior(k, 1)
        np.testing.assert_allclose(made, 2 * noise[0] + code[0], rtol=1e-6)

    packs = packed(gan, SIZE)
    noise, code = packs.prior(key, 4)
    assert (noise.shape, code.shape) == ((4, SIZE, 2), (4, SIZE))
    made, _ = packs.generator.apply(2.0, {}, (noise, code), train=True)
    np.testing.assert_allclose(made, 2 * noise + code[..., None], rtol=1e-6)
    batch = Batch(jnp.zeros((4, SIZE, 2)))
    state = first_state(packs, tx, tx, jax.random.key(0), batch)
    after, _ = jax.jit(gan_jax.make_generator_step(packs, losses.minimax, tx))(state, batch)
    assert after.generator.params != state.generator.params


def test_penalties_are_those_of_the_packed_discriminator():
    """For a linear D, R1 is |w|^2 over the weights of the pack, and the penalty is (|w| - 1)^2."""
    gan, tx = packed(linear((4, 4, 2)), SIZE), optax.sgd(0.1)
    batch = Batch(jax.random.normal(jax.random.key(1), (6, SIZE, 4, 4, 2)))
    state = first_state(gan, tx, tx, jax.random.key(0), batch)
    pairs = [(penalties.r1, 1.0), (penalties.r2, 1.0), (penalties.gradient_penalty, 1.0)]
    step = gan_jax.make_discriminator_step(gan, losses.minimax, tx, penalties=pairs)
    _, metrics = jax.jit(step)(state, batch)
    norm = np.linalg.norm(np.asarray(state.discriminator.params))
    for name, expected in (("r1", norm**2), ("r2", norm**2), ("gradient_penalty", (norm - 1) ** 2)):
        np.testing.assert_allclose(metrics[name], expected, rtol=1e-5)


def test_packs_of_one_are_the_gan_itself():
    gan, tx = mlp((2,), latent=2, width=4, depth=1), optax.sgd(0.1)
    x = jax.random.normal(jax.random.key(1), (1, 6, 2))

    def trained(gan, x):
        state = first_state(gan, tx, tx, jax.random.key(0), Batch(x[0]))
        step = gan_jax.make_train_step(
            gan_jax.make_discriminator_step(gan, losses.non_saturating, tx),
            gan_jax.make_generator_step(gan, losses.non_saturating, tx),
        )
        state, metrics = jax.jit(step)(state, Batch(x))
        return state.replace(key=0), metrics

    made, expected = trained(packed(gan, 1), x[:, :, None]), trained(gan, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), made, expected)


def test_samples_are_drawn_one_by_one_from_what_packs_trained():
    """The packs hold fresh samples. The original GAN also samples from the state."""
    gan, tx = mlp((2,), latent=2, width=4, depth=1, bounded=False), optax.sgd(0.1)
    packs = packed(gan, SIZE)
    ring = synthetic.ring()
    state = first_state(packs, tx, tx, jax.random.key(0), Batch(jnp.zeros((4, SIZE, 2))))
    step = gan_jax.make_train_step(
        gan_jax.make_discriminator_step(packs, losses.minimax, tx),
        gan_jax.make_generator_step(packs, losses.minimax, tx),
    )
    after, _ = jax.jit(synthetic.feed(step, ring, (1, 4, SIZE)))(state)
    x = gan_jax.sample(gan, after, jax.random.key(1), 7)
    assert x.shape == (7, 2)
    assert (x != gan_jax.sample(gan, state, jax.random.key(1), 7)).any()
    assert jax.tree.map(jnp.shape, after.generator.params) == jax.tree.map(
        jnp.shape, gan.generator.init(jax.random.key(0), jnp.zeros((4, 2)))[0]
    )


def test_what_is_refused():
    packs, key = packed(linear((2,)), SIZE), jax.random.key(0)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        packed(linear((2,)), 0)
    for x in (jnp.zeros((6, 2, 2)), jnp.zeros((6, SIZE))):
        with pytest.raises(ValueError, match=r"takes \[B, 3, ...\], 3 samples in each pack"):
            packs.discriminator.init(key, x)
    for network, x in ((packs.discriminator, (6, SIZE, 2)), (packs.generator, (6, SIZE * 2))):
        with pytest.raises(ValueError, match=r"labels have shape \(6, 3\) for 6 packs"):
            network.init(key, jnp.zeros(x), jnp.zeros((6, SIZE), int))


# Minibatch standard deviation


@pytest.mark.parametrize("shape", [(3,), (2, 4, 3)])
def test_minibatch_std_is_numpys_on_one_device_and_on_eight(shape):
    x = np.random.default_rng(0).normal(2, 3, (16, *shape)).astype(np.float32)
    x[:, ..., 0] = 5  # does not vary
    deviation = np.mean(np.std(x.astype(float), axis=0))
    expected = np.concatenate([x, np.full((*x.shape[:-1], 1), deviation)], axis=-1)
    np.testing.assert_allclose(MinibatchStd().apply({}, x), expected, rtol=1e-4)
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    split = PartitionSpec("devices")

    def shard(x):
        with batches.split_over("devices"):
            return MinibatchStd().apply({}, x)

    mapped = jax.shard_map(shard, mesh=mesh, in_specs=split, out_specs=split)
    np.testing.assert_allclose(mapped(x), expected, rtol=1e-4)


def test_minibatch_std_has_a_gradient_where_nothing_varies():
    gradient = jax.grad(lambda x: jnp.sum(MinibatchStd().apply({}, x)))(jnp.ones((4, 2)))
    np.testing.assert_array_equal(gradient, np.ones((4, 2)))


@pytest.mark.parametrize(("name", "shape"), [("mlp", (5,)), ("dcgan", (28, 28, 1))])
def test_models_with_minibatch_std_judge_examples_by_their_batch(name, shape):
    """The layer changes nothing among copies of one example. Among others it changes the logits."""
    options = {"dcgan": {"discriminator_norm": False}, "mlp": {}}[name]
    x = jax.random.uniform(jax.random.key(1), (4, *shape), minval=-1.0)
    copies = jnp.broadcast_to(x[:1], x.shape)
    for minibatch_std in (False, True):
        gan = gan_jax.models.MODELS[name](
            shape, latent=2, width=2, minibatch_std=minibatch_std, **options
        )

        @jax.jit
        def judge(x, network=gan.discriminator):
            params, model_state = network.init(jax.random.key(0), x)
            params = jax.tree.map(lambda leaf: 10 * leaf, params)
            return network.apply(params, model_state, x, train=True)[0][0]

        assert np.isclose(judge(x), judge(copies), rtol=1e-4) == (not minibatch_std)

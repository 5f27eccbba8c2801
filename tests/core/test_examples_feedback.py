"""BiGAN, path length, style mixing and ADA as examples reach their oracles."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from examples import ada, bigan, path_length, style_mixing
from gan_jax import Batch
from gan_jax.metrics.two_sample import energy_test

pytestmark = pytest.mark.usefixtures("quick_compile")

ADAM = {
    bigan: optax.adam(optax.cosine_decay_schedule(5e-3, 2000), b1=0.5),
    path_length: optax.adam(2e-3, b1=0.0, b2=0.99),
    style_mixing: optax.adam(1e-3, b1=0.5),
    ada: optax.adam(1e-3, b1=0.5),
}


def trained(example, num, size, *, seed=0, tx=None, **options):
    """Returns an example's algorithm and its state after `num` steps on batches of `size`."""
    algorithm = example.make(ADAM[example] if tx is None else tx, **options)
    x = example.data(jax.random.key(10 + seed), num, 1, size)
    state = algorithm.init(jax.random.key(seed), Batch(x[0, 0]))
    return algorithm, jax.jit(partial(jax.lax.scan, algorithm.step))(state, Batch(x))[0]


def inversion(params):
    """Returns |E(G(z)) - z| and |G(E(x)) - x| relative to unrelated pairs, and G(z) and x."""
    z, x = bigan.prior(jax.random.key(1), 1000), bigan.data(jax.random.key(2), 1000)
    generate = partial(bigan.G.apply, params["G"])
    encode = partial(bigan.E.apply, params["E"])
    shares = []
    for again, given in ((encode(generate(z)), z), (generate(encode(x)), x)):
        of_pairs, of_others = (
            np.linalg.norm(again - np.roll(given, n, axis=0), axis=1).mean() for n in (0, 1)
        )
        shares.append(of_pairs / of_others)
    return shares, generate(z), x


@pytest.mark.parametrize(
    ("num", "share", "distance"),
    [(600, 0.5, 0.1), pytest.param(2000, 0.3, 0.02, marks=pytest.mark.slow)],
)
def test_bigans_encoder_inverts_its_generator(num, share, distance):
    tx = optax.adam(optax.cosine_decay_schedule(5e-3, num), b1=0.5)
    _, state = trained(bigan, num, 128, tx=tx)
    shares, made, x = inversion(state.ema_params)
    assert max(shares) < share
    assert energy_test(made, x, jax.random.key(0), permutations=1).distance < distance


def spread(params, num=100):
    """Returns the relative standard deviation over w of |dx/dw|, from the whole Jacobian."""
    w = path_length.mapping.apply(
        {"params": params["layers_0"]}, jax.random.normal(jax.random.key(1), (num, 8))
    )
    image = partial(path_length.synthesis.apply, {"params": params["layers_1"]})
    slopes = jax.jit(jax.vmap(jax.jacobian(image)))(w[:, None])
    lengths = np.linalg.norm(slopes.reshape(num, -1), axis=1)
    return np.std(lengths) / np.mean(lengths)


@pytest.mark.parametrize(
    ("num", "share"), [(300, 0.8), pytest.param(1000, 0.5, marks=pytest.mark.slow)]
)
def test_path_length_regularisation_evens_the_slope_of_the_synthesis(num, share):
    with_term, without = (
        spread(trained(path_length, num, 64, weight=weight)[1].ema_params) for weight in (2.0, 0.0)
    )
    assert with_term < share * without


def test_each_layer_sees_the_style_of_its_side_of_the_cut():
    """This holds in training. In evaluation all layers see the first style."""
    generator, num = style_mixing.Generator(), 200
    z = style_mixing.prior(jax.random.key(0), num)
    variables = generator.init(jax.random.key(1), z)

    def styles(z, train):
        _, seen = generator.apply(variables, z, train, capture_intermediates=True)
        layers = (seen["intermediates"][f"style_{i}"]["__call__"][0] for i in range(3))
        return np.stack(list(layers), axis=1)

    either = [{**z, "styles": jnp.repeat(z["styles"][:, i : i + 1], 2, axis=1)} for i in (0, 1)]
    first, second = (styles(each, True) for each in either)
    assert np.abs(first - second).max(axis=-1).min() > 1e-3
    cut = np.asarray(z["cut"])
    expected = np.where(np.arange(3)[None, :, None] < cut[:, None, None], first, second)
    np.testing.assert_allclose(styles(z, True), expected, atol=1e-5)
    np.testing.assert_allclose(styles(z, False), first, atol=1e-5)
    counts = np.bincount(cut, minlength=4)[1:]
    np.testing.assert_allclose(counts / num, [0.25, 0.25, 0.5], atol=4 * np.sqrt(0.25 / num))


@pytest.mark.slow
def test_style_mixing_follows_the_data():
    algorithm, state = trained(style_mixing, 600, 64)
    radius = np.linalg.norm(algorithm.sample(state, jax.random.key(2), 1000), axis=1)
    assert abs(radius.mean() - 1) < 0.15
    assert radius.std() < 0.25


@cache
def ada_trained():
    algorithm = ada.make(ADAM[ada])
    return algorithm.init, jax.jit(partial(jax.lax.scan, algorithm.step))


def fed_back(examples, num=1000):
    """p and r_t of each step of the example."""
    init, train = ada_trained()
    x = ada.data(jax.random.key(10), num, 1, 64, examples=examples)
    metrics = jax.device_get(train(init(jax.random.key(0), Batch(x[0, 0])), Batch(x))[1])
    return {name: metrics[f"augmentation_{name}"] for name in ("p", "r_t")}


def test_the_augmentation_settles_where_the_target_is_held():
    after = fed_back(32)
    assert after["p"][:50].max() < 0.2
    assert 0.15 < after["p"][-400:].min() < after["p"][-400:].max() < 0.6
    assert after["r_t"][-400:].mean() == pytest.approx(0.6, abs=0.05)


def test_there_is_no_augmentation_where_nothing_is_learnt_by_heart():
    after = fed_back(None)
    assert after["p"][-400:].max() < 0.02
    assert after["r_t"][-400:].mean() < 0.5


def test_a_step_keeps_the_types_of_the_state():
    """Weak ones too: were the first state's r_t of another type, a step would compile twice."""
    algorithm = ada.make(optax.sgd(0.1), rate=0.1)
    x = ada.data(jax.random.key(3), 1, 1, 16)
    state = jax.eval_shape(algorithm.init, jax.random.key(0), Batch(x[0, 0]))
    assert jax.eval_shape(algorithm.step, state, Batch(x[0]))[0] == state


def test_a_resumed_run_goes_on_with_the_same_feedback(tmp_path):
    """A state saved as arrays, loaded and continued equals an uninterrupted run bit for bit."""
    algorithm = ada.make(ADAM[ada], rate=0.02)
    x = ada.data(jax.random.key(0), 40, 1, 64, examples=32)
    train = jax.jit(lambda state, x: jax.lax.scan(algorithm.step, state, Batch(x)))
    first = algorithm.init(jax.random.key(1), Batch(x[0, 0]))
    halfway, _ = train(first, x[:20])
    through, _ = train(halfway, x[20:])
    assert halfway.discriminator.memory["augmentation"]["p"] > 0

    leaves = jax.tree.leaves(halfway.replace(key=jax.random.key_data(halfway.key)))
    np.savez(tmp_path / "state.npz", *leaves)
    fresh = algorithm.init(jax.random.key(2), Batch(x[0, 0]))
    with np.load(tmp_path / "state.npz") as saved:
        loaded = jax.tree.unflatten(jax.tree.structure(fresh), [saved[n] for n in saved.files])
    loaded = loaded.replace(key=jax.random.wrap_key_data(loaded.key))
    resumed, _ = train(jax.tree.map(jnp.asarray, loaded), x[20:])
    for a, b in zip(*(jax.tree.leaves(s.replace(key=())) for s in (resumed, through)), strict=True):
        np.testing.assert_array_equal(a, b)

"""`from_nnx` and `from_equinox` against the same GAN in Linen, with the same parameters."""

import sys
from functools import cache, partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gan_jax
from gan_jax import (
    GAN,
    Batch,
    batches,
    from_equinox,
    from_linen,
    from_nnx,
    parallel,
    penalties,
    priors,
)
from gan_jax.losses import non_saturating

eqx = pytest.importorskip("equinox")

BATCH, SIZE, LATENT, WIDTH = 16, 2, 3, 4
TX = optax.sgd(0.2)  # Adam would hide gradients of a wrong scale
ADAPTERS = ["nnx", "equinox"]
X = jax.random.normal(jax.random.key(7), (BATCH, SIZE)) + 1.0
Z = jax.random.normal(jax.random.key(8), (BATCH, LATENT))
LABEL = jnp.arange(BATCH) % 3

pytestmark = pytest.mark.usefixtures("quick_compile")


# The same GAN in three libraries: G has batch norm and D has none, with the same names.


class LinenG(nn.Module):
    @nn.compact
    def __call__(self, z, *, train):
        x = nn.tanh(nn.Dense(WIDTH, name="first")(z))
        x = nn.BatchNorm(not train, momentum=0.9, name="norm")(x)
        return nn.Dense(SIZE, name="last")(jnp.square(x))


class LinenD(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, name="last")(nn.tanh(nn.Dense(WIDTH, name="first")(x)))[:, 0]


class NnxG(nnx.Module):
    def __init__(self, *, rngs):
        self.first = nnx.Linear(LATENT, WIDTH, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, momentum=0.9, rngs=rngs)
        self.last = nnx.Linear(WIDTH, SIZE, rngs=rngs)

    def __call__(self, z):
        return self.last(jnp.square(self.norm(nnx.tanh(self.first(z)))))


class NnxD(nnx.Module):
    def __init__(self, rngs, x):
        self.first = nnx.Linear(x.shape[1], WIDTH, rngs=rngs)
        self.last = nnx.Linear(WIDTH, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.tanh(self.first(x)))[:, 0]


class EquinoxG(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(LATENT, WIDTH, key=one)
        self.norm = eqx.nn.BatchNorm(WIDTH, "batch", momentum=0.9, mode="batch")
        self.last = eqx.nn.Linear(WIDTH, SIZE, key=two)

    def __call__(self, z, state):
        x, state = self.norm(jnp.tanh(self.first(z)), state)
        return self.last(jnp.square(x)), state


class EquinoxD(eqx.Module):
    first: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(SIZE, WIDTH, key=one)
        self.last = eqx.nn.Linear(WIDTH, "scalar", key=two)

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


def make_gan(library):
    networks = {
        "linen": lambda: (from_linen(LinenG()), from_linen(LinenD())),
        "nnx": lambda: (from_nnx(NnxG), from_nnx(NnxD)),
        "equinox": lambda: (from_equinox(EquinoxG), from_equinox(EquinoxD)),
    }
    return GAN(*networks[library](), priors.normal(LATENT))


def to_linen(library, params):
    """Returns the parameters or gradients of a network in Linen's layout."""
    if library != "equinox":
        return params
    made = {}
    for name in ("first", "norm", "last"):
        if layer := getattr(params, name, None):
            weight, bias = layer.weight, jnp.atleast_1d(layer.bias)
            made[name] = {"scale" if name == "norm" else "kernel": weight.T, "bias": bias}
    return made


def from_linen_params(library, params, own):
    """Returns Linen's parameters in the layout of another library: the inverse of `to_linen`."""
    if library != "equinox":
        return jax.tree.map(jnp.copy, params)
    for name, layer in params.items():
        weight = jnp.copy(layer["scale"] if name == "norm" else layer["kernel"].T)
        bias = layer["bias"].reshape(getattr(own, name).bias.shape)
        places = lambda tree, name=name: (getattr(tree, name).weight, getattr(tree, name).bias)  # noqa: E731
        own = eqx.tree_at(places, own, (weight, bias))
    return own


@cache
def compiled_init(library):
    return jax.jit(partial(gan_jax.init, make_gan(library), TX, TX))


@cache
def start(library, seed=0):
    """A first state, with the parameters that Linen draws."""
    key = jax.random.key(seed)
    state, linen = (compiled_init(name)(key, Batch(X)) for name in (library, "linen"))
    for role in ("generator", "discriminator"):
        player = getattr(state, role)
        params = from_linen_params(library, getattr(linen, role).params, player.params)
        state = state.replace(**{role: player.replace(params=params)})
    return state.replace(ema_params=jax.tree.map(jnp.copy, state.generator.params))


def make_step(library, axis_name=None):
    """Returns a train step with R1 that raises if it is traced twice."""
    gan = make_gan(library)
    r1 = [(penalties.r1, 0.1)]
    step = gan_jax.make_train_step(
        gan_jax.make_discriminator_step(gan, non_saturating, TX, penalties=r1, axis_name=axis_name),
        gan_jax.make_generator_step(gan, non_saturating, TX, axis_name=axis_name),
    )
    chex.clear_trace_counter()  # `once` counts by the function's place in the source
    return chex.assert_max_traces(step, n=1)


def run(library, step, state):
    """Returns the state after three train steps."""
    for _ in range(3):
        state, _ = step(state, Batch(X[None]))
    return state


@cache
def compiled_step(library):
    return jax.jit(make_step(library))


@cache
def one_device(library, seed=0):
    return run(library, compiled_step(library), start(library, seed))


def arrays(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree.replace(key=None))]


def close(one, other, atol=1e-6):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=atol), one, other)


# As Linen's


@pytest.mark.parametrize("library", ADAPTERS)
def test_the_same_parameters_make_the_same_logits_and_gradients(library):
    def loss(params, name):
        gan, state = make_gan(name), start(name)
        x, _ = gan.generator.apply(params[0], state.generator.model_state, Z, train=True)
        logits, _ = gan.discriminator.apply(
            params[1], state.discriminator.model_state, x, train=True
        )
        return jnp.mean(jnp.square(logits)), logits

    differentiated = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    made, expected = (
        differentiated((start(name).generator.params, start(name).discriminator.params), name)
        for name in (library, "linen")
    )
    close(made[0], expected[0])
    close(tuple(to_linen(library, gradients) for gradients in made[1]), expected[1])
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 1e-3


@pytest.mark.parametrize("library", ADAPTERS)
def test_three_train_steps_are_those_of_linen(library):
    made, expected = one_device(library), one_device("linen")
    for role in ("generator", "discriminator"):
        params = to_linen(library, getattr(made, role).params)
        close(params, getattr(expected, role).params)
        moved = jax.tree.map(
            lambda a, b: np.abs(a - b).max(), params, getattr(start("linen"), role).params
        )
        assert min(jax.tree.leaves(moved)) > 1e-3
    close(to_linen(library, made.ema_params), expected.ema_params)
    statistics = expected.generator.model_state["batch_stats"]["norm"]
    # Equinox also counts the batches.
    found = [leaf for leaf in jax.tree.leaves(made.generator.model_state) if leaf.ndim]
    close(found, [statistics["mean"], statistics["var"]])


# Under every transformation


@pytest.mark.parametrize("library", ADAPTERS)
@pytest.mark.parametrize("layout", ["pmap", "shard"])
def test_eight_devices_do_what_one_does(library, layout):
    step = make_step(library, parallel.AXIS_NAMES[layout])
    wrapped = parallel.make_step(layout, step, batch_axis=1)
    state = run(library, wrapped, jax.tree.map(jnp.copy, start(library)))
    close(arrays(state), arrays(one_device(library)), 2e-5)


@pytest.mark.parametrize("library", ADAPTERS)
def test_a_scan_of_members_is_each_member_alone(library):
    members = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(start(library, s) for s in (0, 1)))
    batches = Batch(jnp.stack([X[None]] * 3))
    scan = jax.vmap(partial(jax.lax.scan, make_step(library)), in_axes=(0, None))
    states, _ = jax.jit(scan)(members, batches)
    for seed in (0, 1):
        alone = arrays(one_device(library, seed))
        close([leaf[seed] for leaf in arrays(states)], alone, 2e-5)


# Running statistics and draws


@pytest.mark.parametrize("library", ADAPTERS)
def test_running_statistics_move_in_training_and_stay_in_evaluation(library):
    """The running statistics are 0.9 of the old value and 0.1 of the batch's."""
    network, state = make_gan(library).generator, start(library).generator
    _, trained = network.apply(state.params, state.model_state, Z, train=True)
    first = to_linen(library, state.params)["first"]
    h = np.tanh(np.asarray(Z, np.float64) @ first["kernel"] + first["bias"][None])
    moved = [leaf for leaf in jax.tree.leaves(trained) if leaf.ndim]
    close(moved, [0.1 * h.mean(0), 0.9 + 0.1 * h.var(0)])
    one, evaluated = network.apply(state.params, trained, Z, train=False)
    jax.tree.map(np.testing.assert_array_equal, evaluated, trained)
    # In evaluation an example does not depend on the others.
    alone, _ = network.apply(state.params, trained, Z[:1], train=False)
    close(alone, one[:1])


class NnxDropout(nnx.Module):
    def __init__(self, rngs):
        self.one, self.other = (nnx.Dropout(0.5, rngs=rngs) for _ in range(2))

    def __call__(self, x):
        return jnp.concatenate([self.one(x), self.other(x)], axis=-1)


class NnxCalled(nnx.Module):
    """The layer takes its key at the call and names its mode differently."""

    def __init__(self, rngs):
        pass

    def __call__(self, x, *, deterministic, rngs=None):
        rngs = rngs or nnx.Rngs(0)
        drop = nnx.Dropout(0.5, deterministic=deterministic)
        return jnp.concatenate([drop(x, rngs=rngs), drop(x, rngs=rngs)], axis=-1)


class EquinoxDropout(eqx.Module):
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, *, key=None):
        one, other = (None, None) if key is None else jax.random.split(key)
        return jnp.concatenate([self.dropout(x, key=one), self.dropout(x, key=other)])


DROPOUT = [from_nnx(NnxDropout), from_nnx(NnxCalled), from_equinox(EquinoxDropout)]


@pytest.mark.parametrize("network", DROPOUT, ids=["nnx", "nnx called", "equinox"])
def test_dropout_is_a_function_of_the_key_in_training_and_absent_in_evaluation(network):
    params, model_state = network.init(jax.random.key(1), X)
    assert not jax.tree.leaves((params, model_state))

    def y(seed):
        key = jax.random.key(seed)
        return network.apply(params, model_state, X, train=True, key=key)[0].reshape(BATCH, 2, SIZE)

    np.testing.assert_array_equal(y(0), y(0))
    assert (y(0) != y(1)).any()
    assert (y(0)[:, 0] != y(0)[:, 1]).any()  # each layer draws for itself
    assert ((y(0) != 0).std(axis=0) > 0).all()  # and for each example
    assert set(np.unique((y(0) / X[:, None]).round(3))) == {0.0, 2.0}
    evaluated, _ = network.apply(params, model_state, X, train=False)
    np.testing.assert_array_equal(evaluated, jnp.concatenate([X, X], axis=1))


def test_equinox_draws_for_an_example_by_its_index():
    network = DROPOUT[2]
    y, part = (
        network.apply(*network.init(jax.random.key(1), X), x, train=True, key=jax.random.key(2))[0]
        for x in (X, X[:5])
    )
    np.testing.assert_array_equal(y[:5], part)


def over_devices(network):
    """Returns a network's outputs in training, on a batch split over a mapped axis and unsplit."""
    params, model_state = network.init(jax.random.key(1), X)

    def shard(x):
        with batches.split_over("shards"):
            return network.apply(params, model_state, x, train=True, key=jax.random.key(2))[0]

    y = jax.vmap(shard, axis_name="shards")(X.reshape(4, -1, SIZE))
    return y.reshape(BATCH, -1), network.apply(
        params, model_state, X, train=True, key=jax.random.key(2)
    )[0]


def test_equinox_draws_over_a_mapped_axis_as_for_the_whole_batch():
    np.testing.assert_array_equal(*over_devices(DROPOUT[2]))


def test_dropout_of_nnx_over_a_mapped_axis_is_refused():
    with pytest.raises(ValueError, match=r"same mask for each part .*axis_name='shards'"):
        over_devices(DROPOUT[0])


@pytest.mark.parametrize("network", [DROPOUT[0], DROPOUT[2]], ids=ADAPTERS)
def test_a_draw_without_a_key_is_refused(network):
    params, model_state = network.init(jax.random.key(1), X)
    with pytest.raises((TypeError, RuntimeError)) as caught:
        network.apply(params, model_state, X, train=True)
    assert "key" in f"{caught.value}{getattr(caught.value, '__notes__', '')}"


# Arguments


class NnxLabelled(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(3, SIZE, rngs=rngs)
        self.counts = nnx.List([nnx.BatchStat(jnp.zeros((), jnp.int32))])

    def __call__(self, x, classes, *, training, is_training):
        self.counts[0][...] += 1
        return x + self.embed(classes) + training + is_training


class EquinoxLabelled(eqx.Module):
    embed: eqx.nn.Embedding
    order: jax.Array
    double: object = eqx.field(static=True)

    def __init__(self, key):
        self.embed = eqx.nn.Embedding(3, SIZE, key=key)
        self.order = jax.random.permutation(key, SIZE)  # integers are kept but not trained
        self.double = lambda x: 2 * x  # a different function each time

    def __call__(self, x, classes, *, training, inference):
        x = self.double(x)[self.order]
        return x + self.embed(classes) + training + (not inference)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("adapter", "make"), [(from_nnx, NnxLabelled), (from_equinox, EquinoxLabelled)], ids=ADAPTERS
)
def test_labels_and_modes_are_given_by_name(adapter, make, train):
    network = adapter(make, label="classes")
    params, model_state = network.init(jax.random.key(1), X, LABEL)
    y, after = network.apply(params, model_state, X, LABEL, train=train)
    (table,) = jax.tree.leaves(params)
    x = X if make is NnxLabelled else 2 * X[:, jax.tree.leaves(model_state)[0]]
    close(y, x + table[LABEL] + 2 * train)
    counted = 1 if make is NnxLabelled and train else 0
    close(after, jax.tree.map(lambda leaf: leaf + counted, model_state))
    for label, message in [
        ("label", r"Labelled.__call__ .* no argument 'label'.* from_\w+\(make, label=\.\.\.\)"),
        ("clases", "label must be the name of an argument"),
    ]:
        with pytest.raises(ValueError, match=message):
            adapter(make, label=label).init(jax.random.key(1), X, LABEL)


class Stateful(eqx.Module):
    norm: eqx.nn.BatchNorm

    def __init__(self, key):
        self.norm = eqx.nn.BatchNorm(SIZE, "batch", mode="batch")

    def __call__(self, x):
        return x


def test_the_parameters_are_an_equinox_module_to_go_on_with():
    network = from_equinox(EquinoxD)
    params, model_state = network.init(jax.random.key(1), X)
    module = eqx.combine(params, EquinoxD(jax.random.key(2)))
    close(jax.vmap(module)(X), network.apply(params, model_state, X, train=False)[0])


def test_a_state_that_no_argument_takes_is_refused():
    with pytest.raises(ValueError, match=r"Stateful has layers with a state.* take the state"):
        from_equinox(Stateful).init(jax.random.key(0), X)


def test_without_equinox_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(ImportError, match="pip install equinox"):
        from_equinox(EquinoxD)

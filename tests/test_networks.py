"""`from_linen` against the module itself and against batch norm worked out by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax import from_linen

X = jax.random.normal(jax.random.key(0), (6, 3))
LABEL = jnp.array([0, 1, 2, 0, 1, 2])


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x)


class Labelled(nn.Module):
    @nn.compact
    def __call__(self, x, label):
        return nn.Dense(2)(x) + nn.Embed(3, 2)(label)


class Trained(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(2)(x) * (10.0 if train else 1.0)


class Both(nn.Module):
    @nn.compact
    def __call__(self, x, label=None, train=False):
        y = nn.Dense(2)(x) * (10.0 if train else 1.0)
        return y if label is None else y + nn.Embed(3, 2)(label)


class Anything(nn.Module):
    @nn.compact
    def __call__(self, x, **arguments):
        return Both(name="both")(x, **arguments)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (Plain(), set()),
        (Labelled(), {"label"}),
        (Trained(), {"train"}),
        (Both(), {"label", "train"}),
        (Anything(), set()),  # it may hand them on to a layer that does not want them
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("train", [True, False])
def test_a_module_is_called_with_the_arguments_it_takes(module, names, train):
    """Equal to the module's own `apply`, called with those arguments by hand."""
    given = {k: v for k, v in {"label": LABEL, "train": train}.items() if k in names}
    network = from_linen(module)
    params, model_state = network.init(jax.random.key(1), X, LABEL)
    y, after = network.apply(params, model_state, X, LABEL, train=train, key=jax.random.key(2))
    expected = module.apply(module.init(jax.random.key(1), X, **given), X, **given)
    np.testing.assert_array_equal(y, expected)
    assert model_state == after == {}


def test_an_optional_label_may_be_left_out():
    network = from_linen(Both())
    params, model_state = network.init(jax.random.key(1), X)
    assert list(params) == ["Dense_0"]
    y, _ = network.apply(params, model_state, X, train=False)
    np.testing.assert_allclose(y, X @ params["Dense_0"]["kernel"], rtol=1e-5, atol=1e-6)


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dropout(0.5, deterministic=not train)(x)


def test_dropout_is_a_function_of_the_key_in_training_and_absent_in_evaluation():
    network = from_linen(Dropping())
    params, model_state = network.init(jax.random.key(1), X)
    assert (params, model_state) == ({}, {})

    def y(seed):
        return network.apply({}, {}, X, train=True, key=jax.random.key(seed))[0]

    np.testing.assert_array_equal(y(0), y(0))
    assert (y(0) != y(1)).any()
    assert set(np.unique((y(0) / X).round(3))) == {0.0, 2.0}
    np.testing.assert_array_equal(network.apply({}, {}, X, train=False)[0], X)


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        calls = self.variable("counters", "calls", lambda: jnp.zeros((), jnp.int32))
        if train and not self.is_initializing():
            calls.value += 1
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)(x)


def test_model_state_moves_in_training_and_stays_in_evaluation():
    """Statistics by hand: .9 of the old and .1 of the batch's; every collection is kept."""
    network = from_linen(Normalised())
    params, start = network.init(jax.random.key(1), X)
    assert set(start) == {"batch_stats", "counters"}
    x = np.asarray(X)
    mean, variance = x.mean(0), x.var(0)

    y, trained = network.apply(params, start, X, train=True)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5), atol=1e-5)
    statistics = trained["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * variance, atol=1e-6)
    assert trained["counters"]["calls"] == 1

    y, evaluated = network.apply(params, trained, X, train=False)
    expected = (x - 0.1 * mean) / np.sqrt(0.9 + 0.1 * variance + 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, evaluated, trained)


def test_apply_is_pure():
    """What goes in comes out unchanged, and a second call gives the same."""
    network = from_linen(Normalised())
    params, model_state = network.init(jax.random.key(1), X)
    before = jax.tree.map(np.array, (params, model_state))
    first = network.apply(params, model_state, X, train=True)
    jax.tree.map(np.testing.assert_array_equal, (params, model_state), before)
    second = network.apply(params, model_state, X, train=True)
    jax.tree.map(np.testing.assert_array_equal, first, second)

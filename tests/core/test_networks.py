"""`from_linen` against the module itself, and against batch norm computed by hand."""

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


class Evaluated(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        return nn.Dense(2)(x) * (1.0 if deterministic else 10.0)


class Averaged(nn.Module):
    @nn.compact
    def __call__(self, x, use_running_average=True):
        return nn.Dense(2)(x) * (1.0 if use_running_average else 10.0)


class Training(nn.Module):
    @nn.compact
    def __call__(self, x, training=False):
        return nn.Dense(2)(x) * (10.0 if training else 1.0)


class IsTraining(nn.Module):
    @nn.compact
    def __call__(self, x, is_training=False):
        return nn.Dense(2)(x) * (10.0 if is_training else 1.0)


class Both(nn.Module):
    @nn.compact
    def __call__(self, x, label=None, train=False):
        y = nn.Dense(2)(x) * (10.0 if train else 1.0)
        return y if label is None else y + nn.Embed(3, 2)(label)


class Anything(nn.Module):
    """A module that may pass its arguments on to a layer that does not use them."""

    @nn.compact
    def __call__(self, x, **arguments):
        return Both(name="both")(x, **arguments)


class Conditional(nn.Module):
    """A module whose label has another name, beside an argument that is not a label."""

    @nn.compact
    def __call__(self, x, classes=None, *, train, scale=1.0):
        y = nn.Dense(2)(x) * scale * (10.0 if train else 1.0)
        return y if classes is None else y + nn.Embed(3, 2)(classes)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (Plain(), set()),
        (Labelled(), {"label"}),
        (Trained(), {"train"}),
        (Both(), {"label", "train"}),
        (Evaluated(), {"deterministic"}),
        (Averaged(), {"use_running_average"}),
        (Training(), {"training"}),
        (IsTraining(), {"is_training"}),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("train", [True, False])
def test_a_module_is_called_with_the_arguments_it_takes(module, names, train):
    """The result equals the module's own `apply` with the same arguments."""
    modes = dict.fromkeys(("train", "training", "is_training"), train)
    modes |= dict.fromkeys(("deterministic", "use_running_average"), not train)
    given = {k: v for k, v in {"label": LABEL, **modes}.items() if k in names}
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


@pytest.mark.parametrize("train", [True, False])
def test_a_label_of_another_name_is_given_by_that_name(train):
    module = Conditional()
    network = from_linen(module, label="classes")
    params, _ = network.init(jax.random.key(1), X, label=LABEL)
    y, _ = network.apply(params, {}, X, label=LABEL, train=train)
    np.testing.assert_array_equal(y, module.apply({"params": params}, X, LABEL, train=train))
    assert "Embed_0" in params


MAY_TAKE_LABELS = [
    (Conditional(), r"Conditional.__call__ .* arguments are classes=None, scale=1\.0: name"),
    (Anything(), r"Anything.__call__ .* arguments are \*\*arguments: name"),
    (nn.Sequential([nn.Dense(2)]), r"Sequential.__call__ .* arguments are \*\*kwargs: name"),
]


@pytest.mark.parametrize(("module", "message"), MAY_TAKE_LABELS)
def test_labels_are_not_dropped_where_an_argument_may_be_meant_for_them(module, message):
    remedies = r" .*label=\.\.\.\), or ignore labels, from_linen\(module, label=None\)"
    network = from_linen(module)
    with pytest.raises(ValueError, match=message + remedies):
        network.init(jax.random.key(1), X, LABEL)
    params, model_state = network.init(jax.random.key(1), X)
    with pytest.raises(ValueError, match=message + remedies):
        network.apply(params, model_state, X, LABEL, train=True)
    ignoring = from_linen(module, label=None)
    made = [
        n.apply(params, model_state, X, *label, train=True)[0]
        for n, label in ((network, ()), (ignoring, (LABEL,)))
    ]
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize("module", [Plain(), Conditional(), Anything()])
def test_a_label_that_no_argument_takes_is_refused(module):
    with pytest.raises(ValueError, match=r"label must be the name of an argument .* got 'clases'"):
        from_linen(module, label="clases")


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        return nn.Dropout(0.5, deterministic=deterministic)(x)


class Unset(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5)(x)


def test_dropout_is_on_in_training_by_its_own_argument_or_refused_by_flax():
    network = from_linen(Deterministic())
    y, _ = network.apply({}, {}, X, train=True, key=jax.random.key(0))
    assert set(np.unique((y / X).round(3))) == {0.0, 2.0}
    np.testing.assert_array_equal(network.apply({}, {}, X, train=False)[0], X)
    with pytest.raises(ValueError, match="deterministic"):
        from_linen(Unset()).init(jax.random.key(0), X)


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
    """The statistics are 0.9 of the old value and 0.1 of the batch's. All collections are kept."""
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
    """The inputs do not change, and a second call gives the same result."""
    network = from_linen(Normalised())
    params, model_state = network.init(jax.random.key(1), X)
    before = jax.tree.map(np.array, (params, model_state))
    first = network.apply(params, model_state, X, train=True)
    jax.tree.map(np.testing.assert_array_equal, (params, model_state), before)
    second = network.apply(params, model_state, X, train=True)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_what_a_linen_module_sows_is_no_model_state():
    """The collection grows with each pass, so each step would change the state's structure."""

    class Sowing(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("intermediates", "seen", x)
            return nn.Dense(1)(x)[:, 0]

    network, x = from_linen(Sowing()), jnp.ones((2, 3))
    params, model_state = network.init(jax.random.key(0), x)
    assert model_state == {}
    assert network.apply(params, model_state, x, train=True)[1] == {}

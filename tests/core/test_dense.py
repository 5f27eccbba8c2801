"""The dense layer with few features against Linen's, for all orders of differentiation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.nn import Dense

INPUTS = jax.random.normal(jax.random.key(0), (6, 5))


def loss_of(layer):
    """params, x [6, 5] -> a scalar whose derivatives of every order in both arguments differ."""
    return lambda params, x: jnp.sum(jnp.sin(layer.apply(params, x)))


def slope(loss):
    """As in R1: the square of the gradient in x, which the gradient differentiates once more."""
    return lambda params, x: jnp.sum(jnp.square(jax.grad(loss, 1)(params, x)))


def along(loss):
    """Returns the derivative along one direction, by forward mode."""

    def change(params, x):
        steps = jax.tree.map(jnp.cos, (params, x))
        return jax.jvp(loss, (params, x), steps)[1]

    return change


@pytest.mark.parametrize("transform", [slope, along, jax.jit], ids=["slope", "along", "value"])
@pytest.mark.parametrize(
    ("width", "features"), [(5, 1), (5, 2), (5, 3), (5, 4), (1, 4), (2, 4), (3, 4), (2, 2)]
)
def test_it_is_linens_dense_layer_and_so_are_its_derivatives(width, features, transform):
    x = INPUTS[:, :width]
    ours, linens = (
        jax.jit(jax.value_and_grad(transform(loss_of(kind(features))), (0, 1)))
        for kind in (Dense, nn.Dense)
    )
    params = Dense(features).init(jax.random.key(1), x)
    expected = linens(nn.Dense(features).init(jax.random.key(1), x), x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), ours(params, x), expected
    )


@pytest.mark.parametrize(("width", "features"), [(5, 2), (2, 5)])
def test_members_of_an_ensemble_have_weights_of_their_own(width, features):
    layer, x = Dense(features), INPUTS[:, :width]
    params = jax.vmap(lambda key: layer.init(key, x))(jax.random.split(jax.random.key(2), 3))
    gradients = jax.grad(loss_of(layer), (0, 1))
    together = jax.jit(jax.vmap(gradients, in_axes=(0, None)))(params, x)
    for member in range(3):
        alone = gradients(jax.tree.map(lambda p, m=member: p[m], params), x)
        jax.tree.map(
            lambda t, a, m=member: np.testing.assert_allclose(t[m], a, 1e-5, 1e-6), together, alone
        )


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize(("features", "columns"), [(1, 1), (2, 2), (3, 3), (4, 1)])
def test_only_a_cpu_takes_two_or_three_columns_one_by_one(features, columns, platform):
    layer = Dense(features)
    traced = jax.jit(layer.apply).trace(layer.init(jax.random.key(3), INPUTS), INPUTS)
    products = traced.lower(lowering_platforms=(platform,)).as_text().count("dot_general")
    assert products == (columns if platform == "cpu" else 1)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize(("width", "rows"), [(1, 1), (2, 2), (3, 3), (4, 1)])
def test_only_a_cpu_takes_the_gradient_by_two_or_three_inputs_one_by_one(width, rows, platform):
    layer, x = Dense(5), INPUTS[:, :width]
    traced = jax.jit(jax.grad(loss_of(layer), 1)).trace(layer.init(jax.random.key(3), x), x)
    products = traced.lower(lowering_platforms=(platform,)).as_text().count("dot_general")
    # One more derivative, in forward mode.
    assert products == 1 + (rows if platform == "cpu" else 1)

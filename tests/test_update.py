"""The norm that an update reports of its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gan_jax import Batch
from gan_jax.types import PlayerState
from gan_jax.update import update

SHAPES = {
    "scalar": (),
    "bias": (5,),
    "kernel": (4, 5),
    "window": (3, 3, 2, 4),
    "no rows": (0, 3),
    "no columns": (3, 0),
}


def norm_of(params):
    """Of the gradient of half the sum of squares, which is the parameters themselves."""

    def objective(params, player, opponent, batch, key):
        del player, opponent, batch, key
        return optax.tree.norm(params, squared=True) / 2, ({}, {}, {})

    tx = optax.sgd(0.1)
    player = PlayerState(jnp.int32(0), params, {}, tx.init(params))
    return update(objective, tx, player, player, Batch(jnp.zeros((1, 1))), jax.random.key(0))[2]


@pytest.fixture
def params():
    keys = jax.random.split(jax.random.key(1), len(SHAPES))
    drawn = map(jax.random.normal, keys, SHAPES.values())
    return dict(zip(SHAPES, drawn, strict=True))


def test_it_is_that_of_all_leaves_whatever_their_shapes(params):
    flat = np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in params.values()])
    np.testing.assert_allclose(jax.jit(norm_of)(params), np.linalg.norm(flat), rtol=1e-6)


@pytest.mark.parametrize("factor", [0, 1])
def test_a_feature_without_gradient_does_not_spoil_its_derivative(params, factor):
    """The norm's gradient is the direction; a step may be differentiated, metrics and all."""
    params = jax.tree.map(lambda leaf: factor * leaf, params)
    params["kernel"] = params["kernel"].at[:, 2].set(0)
    made = jax.jit(jax.grad(norm_of))(params)
    size = float(norm_of(params)) or 1.0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b / size, atol=1e-6), made, params)

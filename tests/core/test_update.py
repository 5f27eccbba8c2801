"""The gradient norm that an update reports."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_steps import REAL, make, start

from gan_jax import GAN, Batch, Network, optimizers, penalties
from gan_jax.algorithms.update import update
from gan_jax.types import PlayerState

SHAPES = {
    "scalar": (),
    "bias": (5,),
    "kernel": (4, 5),
    "window": (3, 3, 2, 4),
    "no rows": (0, 3),
    "no columns": (3, 0),
}


def norm_of(params):
    """Returns the reported norm for half the sum of squares: its gradient is the parameters."""

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
    """The derivative of the norm is the direction. A step with metrics may be differentiated."""
    params = jax.tree.map(lambda leaf: factor * leaf, params)
    params["kernel"] = params["kernel"].at[:, 2].set(0)
    made = jax.jit(jax.grad(norm_of))(params)
    size = float(norm_of(params)) or 1.0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b / size, atol=1e-6), made, params)


# Optimizers


def test_the_optimizer_is_given_the_whole_loss(linear_gan):
    """The update is D's loss times -1, with penalties, averaged over microbatches and shards."""

    def by_value(updates, state, params=None, *, value, grad, **others):
        assert not others
        return jax.tree.map(lambda g: jnp.full_like(g, -value), grad), state

    def stateless(network):
        return Network(
            lambda key, x, label=None: (network.init(key, x)[0], {}),
            lambda params, _, x, label=None, **options: (
                network.apply(params, {"last": x}, x, **options)[0],
                {},
            ),
        )

    linear_gan = GAN(*map(stateless, linear_gan[:2]), linear_gan.prior)
    tx = optax.GradientTransformationExtraArgs(lambda params: (), by_value)
    state = start(linear_gan, tx=tx)
    _, metrics = make("discriminator", linear_gan, tx=optax.sgd(0.1), **WITH_R1)(
        start(linear_gan), Batch(REAL)
    )
    expected = state.discriminator.params["c"] - metrics["discriminator_loss"] - 3 * metrics["r1"]

    def after(state, batch, **options):
        step = make("discriminator", linear_gan, tx=tx, **WITH_R1, **options)
        return step(state, batch)[0].discriminator.params["c"]

    np.testing.assert_allclose(jax.jit(after)(state, Batch(REAL)), expected, rtol=1e-5)
    in_parts = jax.jit(lambda *given: after(*given, accumulate=2))
    np.testing.assert_allclose(in_parts(state, Batch(REAL)), expected, rtol=1e-5)
    shards = jax.vmap(lambda x: after(state, Batch(x), axis_name="a"), axis_name="a")
    made = jax.jit(shards)(REAL.reshape(2, 3, 2))
    assert made[0] == made[1]


WITH_R1 = {"penalties": [(penalties.r1, 3.0)]}


@pytest.mark.parametrize(
    ("role", "ours", "path"),
    [
        ("discriminator", optimizers.adam(0.1), r"opt_state\.count is missing"),
        ("generator", optax.adam(0.1), r"opt_state\[0\]\.count is missing"),
        ("generator", optax.chain(optax.clip(1.0), optax.sgd(0.1)), "opt_state: the containers"),
    ],
)
def test_another_optimizer_than_inits_is_refused(role, ours, path, linear_gan):
    message = (
        rf"the {role}'s opt_state does not belong to this tx: {path}.* Give make_{role}_step the tx"
    )
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make(role, linear_gan, tx=ours), start(linear_gan), Batch(REAL))


def test_players_optimizers_exchanged_are_found_by_their_shapes(linear_gan):
    state = start(linear_gan, tx=optax.adam(0.1))
    swapped = state.discriminator.replace(opt_state=state.generator.opt_state)
    with pytest.raises(ValueError, match=r"discriminator's opt_state .*\.mu\['c'\] is missing"):
        jax.eval_shape(
            make("discriminator", linear_gan, tx=optax.adam(0.1)),
            state.replace(discriminator=swapped),
            Batch(REAL),
        )


def test_a_line_search_is_refused_for_what_it_needs(linear_gan):
    state = start(linear_gan, tx=optax.lbfgs())
    step = make("discriminator", linear_gan, tx=optax.lbfgs())
    with pytest.raises(ValueError, match=r"discriminator's tx needs more .*'value_fn'.* value and"):
        jax.eval_shape(step, state, Batch(REAL))


def test_an_error_of_the_optimizers_own_passes(linear_gan):
    def broken(updates, state, params=None):
        raise RuntimeError("of my own")

    tx = optax.GradientTransformation(lambda params: (), broken)
    with pytest.raises(RuntimeError, match="of my own\nraised by the generator's tx, for"):
        make("generator", linear_gan, tx=tx)(start(linear_gan, tx=tx), Batch(REAL))

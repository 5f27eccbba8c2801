"""One bad batch with `optax.apply_if_finite`: everything stays finite and training continues."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from gan_jax import GAN, Batch, from_linen, penalties, priors
from gan_jax.algorithms.update import update
from gan_jax.losses import non_saturating
from gan_jax.types import PlayerState

pytestmark = pytest.mark.usefixtures("quick_compile")

GOOD = jax.random.normal(jax.random.key(1), (8, 2))
LABEL = jnp.ones(8)
GUARDED = optax.apply_if_finite(optax.sgd(0.1), 5)


class Norm(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, label, *, train):
        x = nn.Dense(self.features)(x * label[:, None])
        x = nn.BatchNorm(use_running_average=not train)(x)
        return x if self.features > 1 else x[:, 0]


GAN_OF_NORMS = GAN(from_linen(Norm(2)), from_linen(Norm(1)), priors.normal(2))
PENALTIES = [(penalties.lecam(), 0.1)]


def is_finite(tree):
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return all(np.isfinite(leaf).all() for leaf in floats)


def steps(role, tx, **options):
    """Returns the states after a good batch, then a bad one, then a good one."""
    batch = Batch(GOOD, LABEL)
    state = gan_jax.init(GAN_OF_NORMS, tx, tx, jax.random.key(0), batch, penalties=PENALTIES)
    if role == "discriminator":
        options["penalties"] = PENALTIES
        bad = Batch(GOOD.at[3, 0].set(jnp.nan), LABEL)
    else:
        bad = Batch(GOOD, LABEL.at[3].set(jnp.nan))
    make = {
        "discriminator": gan_jax.make_discriminator_step,
        "generator": gan_jax.make_generator_step,
    }
    step = jax.jit(make[role](GAN_OF_NORMS, non_saturating, tx, **options))
    states = []
    for given in (batch, bad, batch):
        state, metrics = step(state, given)
        states.append((state, metrics))
    return states


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("role", ["discriminator", "generator"])
def test_a_bad_batch_leaves_the_state_as_it_was(role, accumulate):
    (before, _), (after, metrics), (later, _) = steps(role, GUARDED, accumulate=accumulate)
    assert np.isnan(metrics[f"{role}_loss"])
    assert np.isnan(metrics[f"{role}_gradient_norm"])
    was, now, then = (getattr(state, role) for state in (before, after, later))
    for name in ("params", "model_state", "memory"):
        jax.tree.map(np.testing.assert_array_equal, getattr(now, name), getattr(was, name))
    assert (was.step, now.step) == (1, 2)
    assert is_finite(later.replace(key=None))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), then.model_state, now.model_state)
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_without_the_guard_the_parameters_say_so():
    _, (after, metrics), (later, _) = steps("generator", optax.sgd(0.1))
    assert np.isnan(metrics["generator_loss"])
    for state in (after, later):
        for tree in (state.generator.params, state.ema_params):
            assert not is_finite(tree)


@pytest.mark.parametrize("size", [1.0, 1e15, np.inf])
def test_only_a_gradient_that_is_not_finite_keeps_the_state(size):
    def objective(params, player, opponent, batch, key):
        return size * params["w"], ({}, {"seen": jnp.ones(())}, {"last": jnp.ones(())})

    params = {"w": jnp.zeros(())}
    zero = jnp.zeros(())
    player = PlayerState(jnp.int32(0), params, {"seen": zero}, GUARDED.init(params), {"last": zero})
    made, _, norm = update(
        objective, GUARDED, player, player, Batch(jnp.zeros((1, 1))), jax.random.key(0)
    )
    np.testing.assert_allclose(norm, size)
    assert made.model_state["seen"] == made.memory["last"] == np.isfinite(size)

"""Steps for games on several devices: derivatives through averages over devices."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

import gan_jax
from gan_jax import Batch, algorithms, losses
from gan_jax.models.mlp import mlp
from gan_jax.nn import BatchNorm
from gan_jax.parallel import AXIS_NAME, pmap_step

pytestmark = pytest.mark.usefixtures("quick_compile")


class Discriminator(nn.Module):
    """Batch norm gives the networks a model state."""

    @nn.compact
    def __call__(self, x, *, train):
        x = BatchNorm()(nn.Dense(3)(x), train=train)
        return nn.Dense(1)(nn.tanh(x))[:, 0]


def with_batch_norm():
    discriminator = gan_jax.from_linen(Discriminator())
    return mlp((2,), latent=2, width=3, depth=1)._replace(discriminator=discriminator)


def at_once(kind, axis_name=None):
    """Returns a step of both players, by consensus or with unrolling."""
    gan, tx, loss = with_batch_norm(), optax.sgd(0.2), losses.non_saturating
    if kind == "unrolled":
        of_d = gan_jax.make_discriminator_step(gan, loss, tx, axis_name=axis_name)
        of_g = algorithms.make_unrolled_generator_step(
            gan, loss, tx, of_d, unroll=2, axis_name=axis_name
        )
    else:
        of_d, of_g = algorithms.make_consensus_steps(
            gan, loss, tx, tx, own=0.5, other=0.7, axis_name=axis_name
        )
    return algorithms.make_simultaneous_step(of_d, of_g)


def wrapped(layout, step, devices):
    if layout == "pmap":
        return pmap_step(step, donate=False, devices=devices)
    mesh = jax.make_mesh((2,), (AXIS_NAME,), axis_types=(AxisType.Auto,), devices=devices)
    specs = PartitionSpec(), PartitionSpec(AXIS_NAME)
    return jax.jit(jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=PartitionSpec()))


# The derivative of a mean over devices differs between pmap and shard_map.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "layouts"), [("consensus", ["shard_map"]), ("unrolled", ["shard_map", "pmap"])]
)
def test_two_devices_do_what_one_does(kind, layouts):
    tx, batch = optax.sgd(0.2), Batch(jax.random.normal(jax.random.key(1), (8, 2)))
    state = gan_jax.init(with_batch_norm(None), tx, tx, jax.random.key(0), batch)
    expected = jax.jit(at_once(kind))(state, batch)
    for layout in layouts:
        made = wrapped(layout, at_once(kind, AXIS_NAME), jax.devices()[:2])(state, batch)
        pairs = zip(
            *(jax.tree.leaves((after.replace(key=0), m)) for after, m in (made, expected)),
            strict=True,
        )
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

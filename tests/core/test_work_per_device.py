"""The work per device: an eighth of the batch on eight devices, for any kind of sharding.

The compiler counts the floating-point operations of the program that each device runs.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gan_jax
from gan_jax import Batch, parallel, penalties
from gan_jax.augment import instance_noise
from gan_jax.data import synthetic
from gan_jax.losses import non_saturating
from gan_jax.models import MODELS

SIZE, NUM = (6,), 256
TX = optax.sgd(0.1)
KINDS = {"discriminator": 0, "generator": 0, "train": 1}
"""The kinds of step, and the axis of each batch that counts examples."""

pytestmark = pytest.mark.usefixtures("quick_compile")
slow = partial(pytest.param, marks=pytest.mark.slow)


def scaled(key, x):
    return x * jax.random.uniform(key)


MLP = MODELS["mlp"](SIZE, latent=8, width=32, depth=1)
DROPOUT = MODELS["maxout"](SIZE, latent=8, width=16)
NOISE = instance_noise(0.1)


@cache
def start(gan, augmentation=None):
    batch = Batch(jnp.zeros((2, *SIZE)))
    make = partial(gan_jax.init, gan, TX, TX, batch=batch, augmentation=augmentation)
    return jax.jit(make)(jax.random.key(0))


def build(kind, gan, pairs=(), augmentation=None):
    d_step = gan_jax.make_discriminator_step(
        gan, non_saturating, TX, penalties=pairs, augmentation=augmentation
    )
    g_step = gan_jax.make_generator_step(gan, non_saturating, TX, augmentation=augmentation)
    train = gan_jax.make_train_step(d_step, g_step)
    return {"discriminator": d_step, "generator": g_step, "train": train}[kind]


def batch(kind):
    leading = (1, NUM) if kind == "train" else (NUM,)
    return np.random.default_rng(0).normal(size=(*leading, *SIZE)).astype(np.float32)


def mesh(axis_type, names=("devices",), shape=(8,)):
    return jax.make_mesh(shape, names, axis_types=(axis_type,) * len(names))


def sharded(kind, gan, mesh, augmentation=None):
    """Returns the state on every device of a mesh, and a batch split over the devices."""
    of_batch = PartitionSpec(*[None] * KINDS[kind], mesh.axis_names)
    x = jax.device_put(batch(kind), NamedSharding(mesh, of_batch))
    return jax.device_put(start(gan, augmentation), NamedSharding(mesh, PartitionSpec())), Batch(x)


def compiled(way, kind, gan=MLP, pairs=(), augmentation=None):
    """Returns a step compiled by a user who has sharded its arguments, and the arguments."""
    step = jax.jit(build(kind, gan, pairs, augmentation))
    if way == "one device":
        arguments = start(gan, augmentation), Batch(batch(kind))
    elif way == "sharded arguments":
        arguments = sharded(kind, gan, mesh(AxisType.Auto), augmentation)
    elif way == "two axes":
        arguments = sharded(
            kind, gan, mesh(AxisType.Auto, ("rows", "columns"), (4, 2)), augmentation
        )
    else:
        of = mesh(AxisType.Explicit if way == "explicit mesh" else AxisType.Auto)
        arguments = sharded(kind, gan, of, augmentation)
        with jax.set_mesh(of):
            return step.lower(*arguments).compile(), arguments
    return step.lower(*arguments).compile(), arguments


def flops(program):
    return program.cost_analysis()["flops"]


one_device = cache(partial(compiled, "one device"))


def whole(*case):
    return flops(one_device(*case)[0])


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        *((way, kind) for way in ("sharded arguments", "explicit mesh") for kind in KINDS),
        ("mesh", "train"),
        slow("mesh", "discriminator"),
        slow("mesh", "generator"),
        ("two axes", "generator"),
    ],
)
def test_each_device_does_an_eighth_and_together_they_do_what_one_does(way, kind):
    program, arguments = compiled(way, kind)
    assert flops(program) < 1.1 / 8 * whole(kind)
    alone, of_one = one_device(kind)
    made, expected = (p(*a)[0] for p, a in ((program, arguments), (alone, of_one)))
    close = partial(np.testing.assert_allclose, rtol=0, atol=2e-5)
    jax.tree.map(close, *(jax.device_get(s.replace(key=0)) for s in (made, expected)))


NOISY = MLP, (partial(penalties.consistency, augment=scaled), 0.1), NOISE
DROPPED = DROPOUT, None, None
DRAGAN = DROPOUT, (penalties.dragan, 0.1), None


@pytest.mark.parametrize(
    ("way", "kind", "gan", "penalty", "augmentation"),
    [
        ("sharded arguments", "generator", *DROPPED),
        ("explicit mesh", "discriminator", *NOISY),
        slow("explicit mesh", "generator", *DROPPED),
        slow("sharded arguments", "discriminator", *NOISY),
        slow("sharded arguments", "discriminator", *DRAGAN),
        slow("explicit mesh", "discriminator", *DRAGAN),
    ],
)
def test_what_draws_for_each_example_does_so_where_the_example_is(
    way, kind, gan, penalty, augmentation
):
    pairs = () if penalty is None else (penalty,)
    program, _ = compiled(way, kind, gan, pairs, augmentation)
    assert flops(program) < 1.1 / 8 * whole(kind, gan, pairs, augmentation)


def loaded_by(call):
    """Returns the flops of all programs that a call loads."""
    client = jax.devices()[0].client
    before = client.live_executables()
    made = call()
    jax.block_until_ready(made)
    known = set(map(id, before))
    loaded = [e for e in client.live_executables() if id(e) not in known]
    assert loaded
    return sum(e.cost_analysis().get("flops", 0) for e in loaded)


@pytest.mark.parametrize("kind", KINDS)
def test_shard_step_splits_the_work(kind):
    step = parallel.shard_step(build(kind, MLP), donate=False)
    assert loaded_by(lambda: step(start(MLP), Batch(batch(kind)))) < 1.1 / 8 * whole(kind)


def test_shard_step_splits_the_work_of_a_step_that_draws_its_own_data():
    gan = MODELS["mlp"]((2,), latent=8, width=32, depth=1)
    make = partial(gan_jax.init, gan, TX, TX, batch=Batch(jnp.zeros((2, 2))))
    state = jax.jit(make)(jax.random.key(0))
    fed = synthetic.feed(build("train", gan), synthetic.ring(), (1, NUM))
    alone = flops(jax.jit(fed).lower(state, None).compile())
    step = parallel.shard_step(fed, donate=False)
    assert loaded_by(lambda: step(state, None)) < 1.1 / 8 * alone


def test_an_ensemble_shards_nothing_but_its_members():
    """The batch of each member stays on its device, whatever array the draws follow."""
    states = jax.vmap(lambda _: start(MLP))(jnp.arange(8))
    step = parallel.ensemble_step(build("generator", MLP), batch_axis=None, donate=False)
    text = jax.jit(step).lower(states, Batch(batch("generator"))).compile().as_text()
    assert not any(f" {word}" in text for word in ("all-", "collective-", "reduce-scatter"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["discriminator", "generator"])
def test_convolutions_too(kind):
    gan = MODELS["dcgan"]((28, 28, 1), latent=3, width=8)
    step, x = build(kind, gan), np.zeros((NUM, 28, 28, 1), np.float32)
    make = partial(gan_jax.init, gan, TX, TX, batch=Batch(jnp.zeros((2, 28, 28, 1))))
    state = jax.jit(make)(jax.random.key(0))
    of = mesh(AxisType.Auto)
    on_all = jax.device_put(state, NamedSharding(of, PartitionSpec()))
    split = jax.device_put(x, NamedSharding(of, PartitionSpec("devices")))
    alone, program = (
        jax.jit(step).lower(*arguments).compile()
        for arguments in ((state, Batch(x)), (on_all, Batch(split)))
    )
    assert flops(program) < 1.1 / 8 * flops(alone)

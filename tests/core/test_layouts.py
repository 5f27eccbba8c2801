"""`shard_step` on a mesh of the user's own, with a state that is split over the devices."""

from functools import cache, partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from small_gans import BATCH, TX, first_state, make_gan
from small_gans import make_step as make_small_step
from test_collectives import collectives

import gan_jax
from gan_jax import Batch, losses, parallel, penalties
from gan_jax.errors import UserError
from gan_jax.models import MODELS
from gan_jax.nn import MinibatchStd
from gan_jax.terms import CONDITIONAL_TERMS

pytestmark = pytest.mark.usefixtures("quick_compile")

P = PartitionSpec
X = np.asarray(jax.random.uniform(jax.random.key(1), (10, 1, BATCH, 8, 8, 1), minval=-1.0))


def make_mesh(axis_type=AxisType.Auto):
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)


def layout(leaf, axis="model", size=2):
    """Returns the array with its first axis split, if the mesh divides it."""
    return P(axis) if leaf.ndim and leaf.shape[0] % size == 0 else P()


def make_step():
    """A train step of convolutions, batch norm, dropout and R1; traced once."""
    gan = make_gan(norm=True)
    d_step = make_small_step("discriminator", gan, penalties=[(penalties.r1, 0.1)])
    g_step = make_small_step("generator", gan)
    chex.clear_trace_counter()  # which counts by the function's place in the source
    return chex.assert_max_traces(gan_jax.make_train_step(d_step, g_step), n=1)


@cache
def start():
    return jax.jit(partial(first_state, make_gan(norm=True)))(jax.random.key(0))


def run(step):
    state = jax.tree.map(jnp.copy, start())
    for x in X:
        state, metrics = step(state, Batch(x))
    return state, metrics


@cache
def one_device():
    return jax.device_get(arrays(*run(parallel.jit_step(make_step()))))


def arrays(state, metrics):
    return state.replace(key=None), metrics


@pytest.mark.parametrize(
    ("axis_type", "split_over"),
    [
        (AxisType.Auto, None),
        pytest.param(AxisType.Auto, "data", marks=pytest.mark.slow),
        (AxisType.Explicit, ("data", "model")),
    ],
)
def test_a_split_state_trains_as_one_device_does_and_stays_split(axis_type, split_over):
    specs = jax.tree.map(layout, start())
    step = parallel.shard_step(
        make_step(), mesh=make_mesh(axis_type), split_over=split_over, state_sharding=specs
    )
    state, metrics = run(step)
    close = partial(np.testing.assert_allclose, rtol=0, atol=2e-5)
    jax.tree.map(close, jax.device_get(arrays(state, metrics)), one_device())
    halves = 0
    for leaf, spec in zip(jax.tree.leaves(state), jax.tree.leaves(specs), strict=True):
        whole, part = leaf.shape, leaf.addressable_shards[0].data.shape
        assert part == ((whole[0] // 2, *whole[1:]) if spec == P("model") else whole)
        halves += spec == P("model")
    assert halves > 10


def toy_step(state, batch):
    return jax.tree.map(lambda leaf: leaf + 1, state), {"mean": jnp.mean(batch.x)}


def test_a_state_that_lies_as_wanted_is_not_moved():
    mesh = make_mesh()
    state, batch = jnp.arange(8.0), Batch(jnp.arange(16.0))
    step = parallel.shard_step(toy_step, mesh=mesh, state_sharding=P("model"), donate=False)
    placed = jax.device_put((state, batch), NamedSharding(mesh, P("model")))[0]
    batch = jax.device_put(batch, NamedSharding(mesh, P(("data", "model"))))
    made, metrics = step(placed, batch)
    assert made.sharding.is_equivalent_to(placed.sharding, 1)
    assert metrics["mean"] == 7.5
    with jax.transfer_guard("disallow_explicit"):
        made, _ = step(made, batch)
        with pytest.raises(Exception, match="Disallowed"):
            step(state, batch)
    np.testing.assert_array_equal(made, np.arange(8.0) + 2)


@pytest.mark.parametrize(
    "sharding",
    [
        {"a": P("model"), "rest": None},
        {"a": P("model"), "rest": P()},
        {
            "a": NamedSharding(make_mesh(AxisType.Explicit), P("model")),
            "rest": {"b": P(), "c": None},
        },
    ],
)
def test_a_sharding_may_stand_for_a_part_of_the_state(sharding):
    state = {"a": jnp.zeros(4), "rest": {"b": jnp.zeros(3), "c": jnp.zeros(())}}
    step = parallel.shard_step(toy_step, mesh=make_mesh(), state_sharding=sharding)
    made, _ = step(state, Batch(jnp.zeros(8)))
    assert [leaf.addressable_shards[0].data.shape for leaf in jax.tree.leaves(made)] == [
        (2,),
        (3,),
        (),
    ]


def test_the_batch_is_divided_by_the_axes_it_is_split_over():
    step = parallel.shard_step(toy_step, mesh=make_mesh(), split_over="data")
    step(jnp.zeros(3), Batch(jnp.zeros(12)))
    with pytest.raises(UserError, match="batch of 6 cannot be split over 4 devices"):
        step(jnp.zeros(3), Batch(jnp.zeros(6)))


def test_a_mesh_of_one_device_is_that_device():
    mesh = jax.make_mesh((1, 1), ("data", "model"), devices=jax.devices()[3:4])
    step = parallel.shard_step(toy_step, mesh=mesh, state_sharding=P("model"))
    made, _ = step(jnp.zeros(3), Batch(jnp.zeros(5)))
    assert made.devices() == {jax.devices()[3]}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"devices": jax.devices()}, UserError, "devices and mesh are both given"),
        (
            {"split_over": "rows"},
            UserError,
            "split_over is 'rows', .* no axis rows: .* data, model",
        ),
        ({"state_sharding": "model"}, UserError, "state_sharding holds 'model': give Part"),
        ({"state_sharding": P("rows")}, ValueError, "rows"),
    ],
)
def test_what_does_not_fit_the_mesh_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        parallel.shard_step(toy_step, mesh=make_mesh(), **options)


def make_gathered(model):
    """Returns a GAN that gathers its parameters, and a batch for a train step."""
    shape = {"mlp": (6,), "dcgan": (28, 28, 1)}[model]
    x = np.random.default_rng(0).normal(size=(1, 64, *shape)).astype(np.float32)
    return parallel.gathered(MODELS[model](shape, latent=4, width=8)), Batch(x)


@pytest.mark.parametrize(
    ("model", "axis_type"),
    [
        ("mlp", AxisType.Explicit),
        pytest.param("mlp", AxisType.Auto, marks=pytest.mark.slow),
        pytest.param("dcgan", AxisType.Explicit, marks=pytest.mark.slow),
        pytest.param("dcgan", AxisType.Auto, marks=pytest.mark.slow),
    ],
)
def test_a_gathered_gan_trains_on_split_parameters_as_on_one_device(model, axis_type):
    """Each device has an eighth of the arithmetic and half of the state.

    Parameters are gathered, and activations stay where their examples are.
    """
    gan, batch = make_gathered(model)
    mesh = make_mesh(axis_type)
    step = gan_jax.make_train_step(
        make_small_step("discriminator", gan), make_small_step("generator", gan)
    )
    init = partial(gan_jax.init, gan, TX, TX, batch=Batch(batch.x[0]))
    state = jax.jit(init)(jax.random.key(0))
    places = jax.tree.map(lambda leaf: NamedSharding(mesh, layout(leaf)), state)
    with jax.set_mesh(mesh):
        split = (
            jax.device_put(state, places),
            jax.device_put(batch, NamedSharding(mesh, P(None, mesh.axis_names))),
        )
        outputs = places, NamedSharding(mesh, P())
        eight = jax.jit(step, out_shardings=outputs).lower(*split).compile()
        made = eight(*split)
    one = jax.jit(step).lower(state, batch).compile()
    close = partial(np.testing.assert_allclose, rtol=0, atol=2e-5)
    jax.tree.map(close, *(jax.device_get(arrays(*both)) for both in (made, one(state, batch))))
    assert eight.cost_analysis()["flops"] < 1.3 / 8 * one.cost_analysis()["flops"]
    assert bytes_per_device(made[0]) < 0.6 * bytes_per_device(state)
    found = collectives(eight.as_text())
    assert found["all-gather"] > 0
    if axis_type == AxisType.Explicit or model == "mlp":
        assert set(found) == {"all-gather", "all-reduce"}


def bytes_per_device(state):
    leaves = jax.tree.leaves(state.replace(key=None))
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)


def inner_layout(leaf):
    """Returns the array with its axis of input features split, if the mesh divides it."""
    divides = leaf.ndim > 1 and leaf.shape[-2] % 2 == 0
    return P(*[None] * (leaf.ndim - 2), "model") if divides else P()


def make_conditional(model, shape, kind, **options):
    """Returns the algorithm of a gathered GAN with three classes, and a batch for its step."""
    gan = MODELS[model](shape, latent=3, num_classes=3, conditional=kind, **options)
    terms = CONDITIONAL_TERMS[kind]
    algorithm = gan_jax.adversarial(
        parallel.gathered(gan),
        losses.hinge,
        generator_tx=TX,
        discriminator_tx=TX,
        discriminator_terms=terms.discriminator,
        generator_terms=terms.generator,
    )
    x = np.random.default_rng(0).normal(size=(1, 16, *shape)).astype(np.float32)
    return algorithm, Batch(x, np.arange(16)[None] % 3)


def places_of(mesh, layout, state, batch):
    return (
        jax.tree.map(lambda leaf: NamedSharding(mesh, layout(leaf)), state),
        jax.tree.map(lambda _: NamedSharding(mesh, P(None, mesh.axis_names)), batch),
    )


@pytest.mark.parametrize(
    ("model", "shape", "layout", "kind", "width"),
    [
        ("mlp", (6,), layout, "reacgan", 8),
        ("dcgan", (28, 28, 1), inner_layout, "concat", 2),
        pytest.param("sngan", (8, 8, 1), layout, "acgan", 2, marks=pytest.mark.slow),
    ],
)
def test_a_gathered_gan_may_have_any_layer_and_keeps_the_layout_of_its_state(
    model, shape, layout, kind, width
):
    """With explicit axes, the layout is a part of the types of the results. Nothing is compiled."""
    algorithm, batch = make_conditional(model, shape, kind, width=width)
    mesh = make_mesh(AxisType.Explicit)
    one = jax.tree.map(lambda leaf: leaf[0], batch)
    arguments = jax.eval_shape(algorithm.init, jax.random.key(0), one), batch
    places = places_of(mesh, layout, *arguments)
    split = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        arguments,
        places,
    )
    with jax.set_mesh(mesh):
        state, _ = jax.eval_shape(algorithm.step, *split)
    for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(places[0]), strict=True):
        assert NamedSharding(mesh, leaf.sharding.spec).is_equivalent_to(place, leaf.ndim)


@pytest.mark.slow
def test_a_conditional_gathered_gan_trains_and_samples_as_on_one_device():
    algorithm, batch = make_conditional("mlp", (6,), "reacgan", width=8)
    one = jax.tree.map(lambda leaf: leaf[0], batch)
    alone = jax.jit(algorithm.init)(jax.random.key(0), one), batch
    mesh = make_mesh(AxisType.Explicit)
    split = jax.device_put(alone, places_of(mesh, layout, *alone))
    label = jnp.arange(5) % 3

    def trained(state, batch):
        step = jax.jit(algorithm.step)
        for _ in range(3):
            state, metrics = step(state, batch)
        x = algorithm.sample(state, jax.random.key(1), 5, label)
        return jax.device_get((*arrays(state, metrics), x))

    with jax.set_mesh(mesh):
        made = trained(*split)
    close = partial(np.testing.assert_allclose, rtol=0, atol=2e-5)
    jax.tree.map(close, made, trained(*alone))


def test_only_a_gan_can_be_gathered():
    with pytest.raises(TypeError, match=r"gan must be a gan_jax\.GAN.*got Network"):
        parallel.gathered(make_gan().generator)


def test_a_gathered_gan_without_a_mesh_is_the_same():
    gan, batch = make_gathered("mlp")
    plain = MODELS["mlp"]((6,), latent=4, width=8)
    params, state = plain.discriminator.init(jax.random.key(0), batch.x[0])
    made, expected = (
        each.discriminator.apply(params, state, batch.x[0], train=True) for each in (gan, plain)
    )
    jax.tree.map(np.testing.assert_array_equal, made, expected)


class _Compared(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = MinibatchStd()(nn.tanh(nn.Conv(8, (3, 3))(x)))
        return nn.Dense(1)(x.reshape(x.shape[0], -1))[:, 0]


@pytest.mark.parametrize("discriminator", ["convolutions and noise", "minibatch statistics"])
def test_explicit_axes_split_the_work_of_convolutions_noise_and_minibatch_statistics(discriminator):
    """Without `shard_step`: the arguments alone say how the step is split."""
    gan, pairs, noise = make_gan(), [(penalties.r1, 0.1)], None
    if discriminator == "minibatch statistics":
        gan, pairs = gan._replace(discriminator=gan_jax.from_linen(_Compared())), []
    else:
        noise = gan_jax.augment.instance_noise(0.1)
    step = make_small_step("discriminator", gan, penalties=pairs, augmentation=noise)
    init = partial(gan_jax.init, gan, TX, TX, batch=Batch(X[0, 0]), augmentation=noise)
    step, state = jax.jit(step), jax.jit(init)(jax.random.key(0))
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Explicit,))
    alone = state, Batch(jnp.repeat(X[0, 0], 4, axis=0))
    split = (
        jax.device_put(alone[0], NamedSharding(mesh, P())),
        jax.device_put(alone[1], NamedSharding(mesh, P("devices"))),
    )
    one, eight = (step.lower(*arguments).compile() for arguments in (alone, split))
    assert eight.cost_analysis()["flops"] < 1.3 / 8 * one.cost_analysis()["flops"]
    close = partial(np.testing.assert_allclose, rtol=0, atol=2e-5)
    jax.tree.map(
        close, *(jax.device_get(arrays(*p(*a))) for p, a in ((eight, split), (one, alone)))
    )

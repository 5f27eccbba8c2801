"""One pure step gives the same result under every transformation and on any number of devices.

The networks have the difficult features: batch norm, dropout and penalties. The oracle is the
step compiled for one device.
"""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from small_gans import BATCH, ROLES, first_state, make_gan, make_step

import gan_jax
from gan_jax import Batch, parallel, penalties
from gan_jax.errors import UserError

NUM_STEPS, N_CRITIC = 10, 2
AXIS_OF_EXAMPLES = {"discriminator": 0, "generator": 0, "train": 1}
"""The kinds of step, and the axis of each batch that counts examples."""

pytestmark = pytest.mark.usefixtures("quick_compile")


def build(kind, axis_name=None):
    """Returns a pure step of a kind, which raises if it is traced twice."""
    gan = make_gan(norm=True)
    # The second penalty takes long to compile, so it is in one kind only.
    weighted = {"penalties": [(penalties.r1, 0.1)]} if kind == "train" else {}
    d_step = make_step("discriminator", gan, axis_name, **weighted)
    g_step = make_step("generator", gan, axis_name, ema_decay=0.5)
    steps = {
        "discriminator": d_step,
        "generator": g_step,
        "train": gan_jax.make_train_step(d_step, g_step, n_critic=N_CRITIC),
    }

    chex.clear_trace_counter()  # `assert_max_traces` counts by the function's place in the source
    return chex.assert_max_traces(steps[kind], n=1)


def batches(kind):
    leading = (NUM_STEPS, N_CRITIC) if kind == "train" else (NUM_STEPS,)
    x = jax.random.uniform(jax.random.key(1), (*leading, BATCH, 8, 8, 1), minval=-1.0)
    return Batch(np.asarray(x))


@jax.jit
def start(seed):
    return first_state(make_gan(norm=True), jax.random.key(seed))


def run(kind, wrapped, seed=0):
    """Returns the state and metrics after ten calls of a wrapped step, on the host."""
    state = start(seed)
    for x in batches(kind).x:
        state, metrics = wrapped(state, Batch(x))
    return on_host(state, metrics)


def on_host(state, metrics):
    return jax.device_get((state.replace(key=jax.random.key_data(state.key)), metrics))


@cache
def one_device(kind):
    """Returns the oracle: three seeds on one device."""
    step = parallel.jit_step(build(kind))
    return [run(kind, step, seed) for seed in range(3)]


def assert_close(actual, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=2e-5), actual, expected)


def wrap(layout, kind):
    """Returns the step of a kind, on 8 devices."""
    axis = AXIS_OF_EXAMPLES[kind]
    if layout in parallel.AXIS_NAMES:
        step = build(kind, parallel.AXIS_NAMES[layout])
        return parallel.make_step(layout, step, batch_axis=axis)
    if layout == "vmap":  # the batch is split over a vmapped axis
        step = jax.vmap(
            build(kind, "shards"), in_axes=(None, axis), out_axes=None, axis_name="shards"
        )
        compiled = jax.jit(step)

        def split(x):
            return x.reshape(*x.shape[:axis], 8, -1, *x.shape[axis + 1 :])

        return lambda state, batch: compiled(state, Batch(split(batch.x)))
    names, sizes = ("rows", "columns"), (4, 2)
    if "two axes" not in layout:
        names, sizes = ("devices",), (8,)
    mesh = jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))
    everywhere = NamedSharding(mesh, PartitionSpec())
    mapped = jax.shard_map(
        build(kind, names if len(names) > 1 else names[0]),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(*[None] * axis, names)),
        out_specs=PartitionSpec(),
        check_vma="unchecked" not in layout,
    )
    compiled = jax.jit(mapped, donate_argnums=0)
    return lambda state, batch: compiled(jax.device_put(state, everywhere), batch)


slow = partial(pytest.param, marks=pytest.mark.slow)

LAYOUTS = [
    *((kind, layout) for kind in ROLES for layout in ("shard", "pmap", "shard_map")),
    ("train", "shard"),
    slow("train", "pmap"),
    slow("train", "shard_map"),
    # What these add to the others does not depend on the kind of step.
    ("generator", "shard_map, two axes"),
    ("generator", "shard_map, unchecked"),
    ("generator", "vmap"),
]


@pytest.mark.parametrize(("kind", "layout"), LAYOUTS)
def test_eight_devices_do_what_one_does_and_trace_the_step_once(kind, layout):
    """The whole state and the metrics after ten steps agree within 2e-5."""
    assert jax.device_count() == 8
    assert_close(run(kind, wrap(layout, kind)), one_device(kind)[0])


@pytest.mark.parametrize("kind", AXIS_OF_EXAMPLES)
def test_the_oracle_moves_far(kind):
    """The parameters move so far that a wrong scale, mask or statistic would show above 2e-5."""
    state, _ = one_device(kind)[0]
    for role in ["discriminator", "generator"]:
        if kind in (role, "train"):
            player, before = getattr(state, role), getattr(start(0), role)
            moves = jax.tree.map(lambda a, b: np.abs(a - b).max(), player.params, before.params)
            assert min(jax.tree.leaves(moves)) > 1e-3


@pytest.mark.parametrize("kind", [slow("discriminator"), "generator", "train"])
def test_a_scan_of_ten_steps_is_ten_steps(kind):
    state, metrics = jax.jit(partial(jax.lax.scan, build(kind)))(start(0), batches(kind))
    last = jax.tree.map(lambda leaf: leaf[-1], metrics)
    assert_close(on_host(state, last), one_device(kind)[0])


@pytest.mark.parametrize("kind", [*ROLES, slow("train")])
def test_an_ensemble_under_vmap_is_each_member_alone(kind):
    states = jax.vmap(start)(jnp.arange(3))
    step = jax.jit(jax.vmap(build(kind), in_axes=(0, None)))
    for x in batches(kind).x:
        states, metrics = step(states, Batch(x))
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *one_device(kind))
    assert_close(on_host(states, metrics), stacked)


@pytest.mark.slow  # tests/core/test_sweep.py has a sweep over devices by default
def test_an_ensemble_over_devices_is_each_member_alone():
    """Two members on each of three devices, with one batch for all, then with a batch for each."""
    states = jax.vmap(start)(jnp.arange(6) % 3)
    step = parallel.ensemble_step(build("train"), batch_axis=None, devices=jax.devices()[:3])
    *most, last = batches("train").x
    for x in most:
        states, _ = step(states, Batch(x))
    step = parallel.ensemble_step(build("train"), batch_axis=1, devices=jax.devices()[:3])
    own = Batch(jnp.stack([last] * 6, axis=1))
    text = jax.jit(step).lower(states, own).compile().as_text()
    assert not any(f" {word}" in text for word in ("all-", "collective-", "reduce-scatter"))
    states, metrics = step(states, own)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves * 2), *one_device("train"))
    assert_close(on_host(states, metrics), stacked)


@pytest.mark.parametrize(
    ("state", "batch", "message"),
    [
        ({"w": (4, 2)}, None, "an ensemble of 4 cannot be spread over 3 devices"),
        ({"a": (6, 2), "b": (3,)}, None, r"the state\['b'\] has shape \(3,\).* members is 6"),
        ({"a": (), "b": (6,)}, None, r"the state\['a'\] has shape \(\), .* is not known"),
        ({}, None, "the state has no leaves"),
        ({"a": (6,)}, {"x": (3, 6)}, r"the batch\['x'\] has shape \(3, 6\).* members is 6"),
    ],
)
def test_members_that_disagree_or_that_the_devices_do_not_divide_are_refused(state, batch, message):
    ensemble = parallel.ensemble_step(build("train"), devices=jax.devices()[:3])
    made = [t and {name: jnp.zeros(shape) for name, shape in t.items()} for t in (state, batch)]
    with pytest.raises(UserError, match=message):
        ensemble(*made)


@pytest.mark.parametrize(
    ("wrapper", "num"),
    [
        slow(parallel.pmap_step, 1),
        (parallel.pmap_step, 4),
        (parallel.shard_step, 1),
        (parallel.shard_step, 2),
        slow(parallel.shard_step, 4),
    ],
)
def test_the_number_of_devices_does_not_matter(wrapper, num):
    step = build("generator", parallel.AXIS_NAME if wrapper is parallel.pmap_step else None)
    wrapped = wrapper(step, devices=jax.devices()[:num])
    assert_close(run("generator", wrapped), one_device("generator")[0])


# Promises of the wrappers


WRAPPERS = [parallel.jit_step, parallel.pmap_step, parallel.shard_step]


def toy_step(state, batch):
    return jax.tree.map(lambda leaf: leaf + 1, state), {}


def toy_player(state, batch):
    return state + 1, {"x": batch.x}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("donate", [True, False])
def test_the_state_passed_in_is_gone_only_if_donated(wrapper, donate):
    step = wrapper(toy_step, donate=donate)
    first = {"a": jnp.arange(4.0), "b": jnp.ones((2, 2))}
    second, _ = step(first, jnp.zeros(8))
    third, _ = step(second, jnp.zeros(8))
    for state in (first, second):
        assert all(leaf.is_deleted() == donate for leaf in jax.tree.leaves(state))
    np.testing.assert_array_equal(third["a"], np.arange(4.0) + 2)


@pytest.mark.parametrize("wrapper", WRAPPERS[1:])
@pytest.mark.parametrize(
    ("shape", "axis", "nearest"),
    [((9, 2), 0, "8 or 16"), ((8, 20), 1, "16 or 24"), ((2, 3, 5), 1, "8")],
)
def test_a_batch_the_devices_do_not_divide_is_refused_before_tracing(wrapper, shape, axis, nearest):
    traced = []
    step = wrapper(lambda state, batch: traced.append(1) or (state, {}), batch_axis=axis)
    message = (
        rf"batch\.x has shape .*axis {axis} counts the examples .*\[n_critic, B, \.\.\.\].*: a "
        f"batch of {shape[axis]} cannot be split over 8 devices: make it {nearest},"
    )
    with pytest.raises(UserError, match=message):
        step(jnp.zeros(2), Batch(jnp.zeros(shape)))
    assert not traced


@pytest.mark.parametrize("wrapper", WRAPPERS[1:])
def test_a_train_steps_batch_is_split_over_its_examples(wrapper):
    """The step needs no hint, even if the devices divide n_critic. A wrong axis is refused."""
    step = gan_jax.make_train_step(toy_player, toy_player, n_critic=8)
    x = jnp.arange(8 * 16.0).reshape(8, 16, 1)
    state, metrics = wrapper(step, donate=False)(jnp.zeros(3), Batch(x))
    np.testing.assert_array_equal(state, np.full(3, 9.0))
    # The examples of the last update. Each device of pmap has an eighth of them.
    shard = np.asarray(x)[-1, : 2 if wrapper is parallel.pmap_step else 16]
    np.testing.assert_array_equal(metrics["x"], shard)
    with pytest.raises(UserError, match=r"batch_axis=0, but .* \[n_critic, B, \.\.\.\].*give 1"):
        wrapper(step, batch_axis=0)


@pytest.mark.parametrize("wrapper", WRAPPERS[1:])
def test_the_refusal_names_the_leaf_its_shape_and_the_axis(wrapper):
    step = wrapper(lambda state, batch: (state, {}))
    message = r"batch\.label has shape \(3, 16\), in which axis 0 counts .* that is axis 1\)"
    with pytest.raises(UserError, match=message):
        step(jnp.zeros(2), Batch(jnp.zeros((8, 16, 2)), jnp.zeros((3, 16))))


@pytest.mark.parametrize("wrapper", [*WRAPPERS[1:], parallel.ensemble_step])
def test_no_devices_are_refused(wrapper):
    with pytest.raises(UserError, match="devices is empty"):
        wrapper(toy_step, devices=[])


def anywhere():
    """Arrays of numbers in several forms: (a state's, a batch's)."""
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    over = NamedSharding(mesh, PartitionSpec("b"))
    last = jax.devices()[-1]
    return {
        "NumPy's": (np.arange(4.0), np.arange(16.0)),
        "another device's": (
            jax.device_put(jnp.arange(4.0), last),
            jax.device_put(jnp.arange(16.0), jax.devices()[3]),
        ),
        "another mesh's": tuple(jax.device_put(jnp.arange(n), over) for n in (4.0, 16.0)),
    }


@pytest.mark.parametrize("wrapper", [*WRAPPERS[1:], parallel.ensemble_step])
@pytest.mark.parametrize("kind", ["NumPy's", "another device's", "another mesh's"])
def test_arguments_may_lie_anywhere_and_be_numbers(wrapper, kind):
    """The state may lie on other devices than the wrapper's."""

    def step(state, batch):
        total = jnp.sum(batch["x"] * batch["scale"])
        if wrapper is parallel.pmap_step:
            total = jax.lax.psum(total, parallel.AXIS_NAME)
        return jax.tree.map(lambda leaf: leaf + 1, state), total

    given, x = anywhere()[kind]
    state, batch = {"a": given, "b": given + 1}, {"x": x, "scale": 2.0}
    if wrapper is not parallel.ensemble_step:
        state["b"] = 1.0
    else:
        batch["x"] = batch["x"].reshape(4, 4)
    before = np.asarray(given)
    first = wrapper(step, devices=jax.devices()[:4], donate=False)
    second = wrapper(step, devices=jax.devices()[4:6], donate=False)
    made, total = second(first(state, batch)[0], batch)
    np.testing.assert_array_equal(made["a"], before + 2)
    assert np.sum(total) == 240


@pytest.mark.parametrize("wrapper", WRAPPERS[1:])
def test_each_device_works_on_its_own_eighth(wrapper):
    """The examples are split in order. A leaf without that axis goes to every device whole."""
    shapes = []

    def step(state, batch):
        shapes.append((batch["x"].shape, batch["scale"].shape))
        total = jnp.sum(batch["x"] * batch["scale"])
        if wrapper is parallel.pmap_step:
            position = 10.0 ** jax.lax.axis_index(parallel.AXIS_NAME)
            total = jax.lax.psum(total * position, parallel.AXIS_NAME)
        return state, total

    batch = {"x": jnp.repeat(jnp.arange(1.0, 9.0), 2), "scale": jnp.float32(0.5)}
    _, total = wrapper(step, donate=False)(jnp.zeros(1), batch)
    if wrapper is parallel.pmap_step:
        assert shapes == [((2,), ())]
        assert total == 87654321
    else:
        assert shapes == [((16,), ())]
        assert total == 36


def test_shard_step_keeps_the_state_on_every_device():
    state, _ = parallel.shard_step(toy_step)(jnp.zeros(3), jnp.zeros((16, 2)))
    assert len(state.sharding.device_set) == 8
    assert state.is_fully_replicated


def test_on_one_device_shard_step_traces_nothing_anew():
    """JAX keeps a trace for each mesh, so a function that `init` traced is traced again."""
    inner = jax.jit(chex.assert_max_traces(lambda x: jnp.sin(x) + 1.0, n=1))

    def step(state, batch):
        return inner(state), batch

    arguments = jnp.zeros(3), jnp.zeros((16, 2))
    parallel.jit_step(step, donate=False)(*arguments)
    parallel.shard_step(step, devices=jax.devices()[:1], donate=False)(*arguments)
    with pytest.raises(AssertionError, match="traced"):  # which a mesh of many does
        parallel.shard_step(step, donate=False)(*arguments)


@pytest.mark.parametrize(("layout", "num"), [("jit", 1), ("pmap", 8), ("shard", 8)])
def test_layouts_use_all_devices_but_jit(layout, num):
    assert parallel.num_devices(layout) == num
    state, _ = parallel.make_step(layout, toy_step)(jnp.zeros(3), jnp.zeros(8))
    assert len(state.sharding.device_set) == num

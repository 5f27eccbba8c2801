"""Errors for input that breaks the contract. Each names the argument, its value and the remedy."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from gan_jax import AdversarialLoss, Batch, Network
from gan_jax.contract import check_made_like
from gan_jax.losses import LOSSES, f_divergence, minimax, relativistic_average, smoothed, top_k
from gan_jax.models.mlp import mlp
from gan_jax.penalties import PENALTIES, lazy, lecam, r1
from gan_jax.types import WithMemory

pytestmark = pytest.mark.usefixtures("quick_compile")

PLAYERS = ["discriminator", "generator"]

# Losses

MADE = {
    **LOSSES,
    "f_gan": f_divergence("gan"),
    "non-saturating f_kl": f_divergence("kl", non_saturating=True),
    "smoothed": smoothed(minimax),
    "smoothed average": smoothed(relativistic_average()),
    "top_k": top_k(minimax, 0.5),
    "smoothed top_k": smoothed(top_k(minimax, 0.5)),
    "top_k smoothed": top_k(smoothed(minimax), 0.5),
}
"""Returns every loss of the table and one of each factory."""

FLOATS, COLUMN = jnp.ones(4), jnp.ones((4, 1))
REFUSED = [
    (COLUMN, FLOATS, r"real_logits must be \[B\].* shape \(4, 1\): .*logits\[:, 0\]"),
    (FLOATS, COLUMN, r"fake_logits must be \[B\].* shape \(4, 1\): .*logits\[:, 0\]"),
    (COLUMN, COLUMN, r"real_logits must be \[B\].* shape \(4, 1\)"),
    (jnp.ones(()), FLOATS, r"real_logits must be \[B\].* shape \(\)"),
    (FLOATS, jnp.ones(1), r"real_logits has shape \(4,\) and fake_logits \(1,\)"),
    (jnp.ones(4, int), FLOATS, r"real_logits must be floating, got int32: give D's logits"),
    (FLOATS, jnp.ones(4, bool), r"fake_logits must be floating, got bool"),
    (FLOATS, jnp.ones(4, complex), r"fake_logits must be floating, got complex64"),
]


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("player", PLAYERS)
@pytest.mark.parametrize("jit", [False, True])
def test_losses_refuse_other_logits(name, player, jit):
    function = getattr(MADE[name], player)
    for real, fake, message in REFUSED:
        with pytest.raises(AssertionError, match=message):
            (jax.jit(function) if jit else function)(real, fake)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_losses_take_every_floating_type(dtype):
    logits = jnp.ones(4, dtype)
    for loss in MADE.values():
        for function in loss:
            made = jax.eval_shape(function, logits, logits)
            assert (made.shape, made.dtype) == ((4,), dtype)


def test_a_compiled_loss_has_no_assertions():
    traced = jax.make_jaxpr(minimax.generator)(FLOATS, FLOATS)
    plain = jax.make_jaxpr(lambda real, fake: -jax.nn.softplus(fake))(FLOATS, FLOATS)
    assert str(traced) == str(plain)


# Penalties

REAL = jnp.ones((4, 8, 8, 1))
KEY = jax.random.key(0)


def called(name, *arguments):
    penalty = PENALTIES[name]
    if isinstance(penalty, WithMemory):
        return penalty.apply(*arguments, penalty.init())
    return penalty(*arguments)


def total(x):
    return jnp.sum(x, axis=(1, 2, 3))


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_refuse_other_samples_and_critics(name):
    for real, fake, message in [
        (REAL, REAL[:1], r"real has shape \(4, 8, 8, 1\) and fake \(1, 8, 8, 1\): give as many"),
        (REAL[..., 0], REAL, r"real has shape \(4, 8, 8\) and fake \(4, 8, 8, 1\)"),
        (REAL.astype(jnp.uint8), REAL, "real must be floating, got uint8: convert the samples"),
        (REAL, REAL.astype(complex), "fake must be floating, got complex64"),
    ]:
        with pytest.raises(AssertionError, match=message):
            jax.eval_shape(partial(called, name, total), real, fake, KEY)
    for critic, message in [
        (lambda x: total(x)[:, None], r"the critic returned shape \(4, 1\) for a batch of 4"),
        (lambda x: jnp.mean(total(x)), r"the critic returned shape \(\) for a batch of 4"),
        (lambda x: total(x).astype(int), "the result of the critic must be floating, got int32"),
    ]:
        with pytest.raises(AssertionError, match=message):
            jax.eval_shape(partial(called, name, critic), REAL, REAL, KEY)


# Results of a user's own functions

TX = optax.sgd(0.1)
GAN = mlp((3,), latent=2, width=4, depth=1)
X = jnp.ones((4, 3))


def steps(gan=GAN, loss=minimax, **options):
    return (
        gan_jax.make_discriminator_step(gan, loss, TX, **options),
        gan_jax.make_generator_step(gan, loss, TX),
    )


@pytest.fixture(scope="module")
def state():
    return start()


def start(penalties=()):
    """Only shapes and types: nothing is computed here."""
    make = partial(gan_jax.init, GAN, TX, TX, penalties=penalties)
    return jax.eval_shape(make, KEY, Batch(X))


def changed_critic(change):
    """The GAN whose D gets different logits."""
    plain = GAN.discriminator

    def apply(*arguments, **options):
        y, model_state = plain.apply(*arguments, **options)
        return change(y), model_state

    return GAN._replace(discriminator=Network(plain.init, apply))


WRONG = [
    (lambda y: y[:, None], r"returned shape \(4, 1\) for a batch of 4: .* shape \(4,\), without"),
    (jnp.mean, r"returned shape \(\) for a batch of 4: .* without a mean over the batch"),
    (lambda y: y[:2], r"returned shape \(2,\) for a batch of 4"),
    (lambda y: y > 0, r"must be floating, got bool: return floats"),
    (lambda y: y + 1j, r"must be floating, got complex64: return floats"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_the_steps_refuse_logits_losses_and_penalties_of_other_shapes(change, message, state):
    if message != WRONG[0][1]:  # D may return a column, which is a map with one logit
        for step in steps(changed_critic(change)):
            with pytest.raises(AssertionError, match=f"the discriminator {message}"):
                jax.eval_shape(step, state, Batch(X))
    loss = AdversarialLoss(*(lambda r, f, p=player: change(p(r, f)) for player in minimax))
    for step, player in zip(steps(loss=loss), PLAYERS, strict=True):
        with pytest.raises(AssertionError, match=f"the {player}'s loss {message}"):
            jax.eval_shape(step, state, Batch(X))

    def own(*arguments):
        return change(r1(*arguments))

    def remembering(critic, real, fake, key, memory):
        return own(critic, real, fake, key), memory

    with_memory = WithMemory(dict, remembering, "own")
    for penalty in (own, partial(own), with_memory):
        for weight in (0.1, lazy(0.1)):
            penalties = [(penalty, weight)]
            step = steps(penalties=penalties)[0]
            with pytest.raises(AssertionError, match=f"'own' {message}"):
                jax.eval_shape(step, start(penalties), Batch(X))


# Batches


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool", "complex64"])
def test_batches_that_are_not_floating_are_refused(dtype, state):
    batch = Batch(X.astype(dtype))
    message = f"batch.x must be floating, got {dtype}: .* gan_jax.data.pipeline.dequantize"
    with pytest.raises(AssertionError, match=message):
        jax.eval_shape(partial(gan_jax.init, GAN, TX, TX), KEY, batch)
    for step in steps():
        with pytest.raises(AssertionError, match=message):
            jax.eval_shape(step, state, batch)
    with pytest.raises(AssertionError, match=message):
        jax.eval_shape(gan_jax.make_train_step(*steps()), state, Batch(batch.x[None]))


def test_another_number_of_labels_is_refused(state):
    batch = Batch(X, jnp.zeros(3, jnp.int32))
    message = r"batch.label has shape \(3,\) for batch.x of shape \(4, 3\): give one label for each"
    with pytest.raises(AssertionError, match=message):
        jax.eval_shape(partial(gan_jax.init, GAN, TX, TX), KEY, batch)
    for step in steps():
        with pytest.raises(AssertionError, match=message):
            jax.eval_shape(step, state, batch)


def test_numpy_batches_are_taken(state):
    batch = Batch(np.ones((4, 3), np.float32), np.zeros(4, np.int64))
    for step in steps():
        jax.eval_shape(step, state, batch)


# Parts of a GAN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gan": "dcgan"}, "gan must be a gan_jax.GAN.*got 'dcgan'"),
        ({"gan": GAN._replace(generator=nn.Dense(3))}, "gan.generator must be .*from_linen"),
        ({"gan": GAN._replace(prior=4)}, r"gan\.prior must be a function .*got 4"),
        ({"loss": "hinge"}, "loss must be .*losses.hinge, got 'hinge'"),
        ({"loss": optax.sgd(0.1)}, "loss must be .*got GradientTransformation"),
        ({"discriminator_tx": optax.adam}, "tx must be an optax optimizer.*got adam"),
        ({"discriminator_tx": 1e-3}, "tx must be an optax optimizer.*got 0.001"),
        ({"penalties": [r1]}, "penalties must be pairs .*got r1"),
        ({"penalties": (r1, 0.1)}, "penalties must be pairs .*got r1"),
        ({"penalties": [("r1", 0.1)]}, "penalties must be pairs .*got tuple"),
        ({"generator_terms": [r1]}, "terms must be pairs .*got r1"),
        ({"penalties": [(lecam, 0.1)]}, r"penalties holds lecam, .*\(critic, real.*call it: lecam"),
        ({"generator_terms": [(r1, 0.1)]}, r"terms holds r1, which cannot be called with \(seen\)"),
    ],
)
def test_what_is_not_a_part_of_a_gan_is_named(change, message):
    right = {"gan": GAN, "loss": minimax, "generator_tx": TX, "discriminator_tx": TX}
    with pytest.raises(TypeError, match=message):
        gan_jax.adversarial(**(right | change))


@pytest.mark.parametrize("player", [0, 1])
@pytest.mark.parametrize("change", [lambda x: x[None], lambda x: x[0]])
def test_a_batch_with_an_axis_too_many_or_too_few_is_named(player, change, state):
    step = steps()[player]
    wrong = change(X)
    shape = str(wrong.shape).replace("(", r"\(").replace(")", r"\)")
    match = rf"batch.x has shape {shape}, but the generator makes .*: build the GAN for the shape"
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(step, state, Batch(wrong))


def test_the_samples_may_be_a_tree_of_nodes_without_an_equality():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(eq=False)
    class Node:
        a: jax.Array

    check_made_like(Node(jnp.zeros((4, 3))), Node(jnp.zeros((5, 3))))
    for other in (Node(jnp.zeros((4, 2))), jnp.zeros((4, 3)), (jnp.zeros((4, 3)),)):
        with pytest.raises(ValueError, match="build the GAN for the shape of the data"):
            check_made_like(Node(jnp.zeros((4, 3))), other)


def test_an_error_of_a_conditional_generator_names_the_shapes_of_the_batch():
    gan = mlp((2,), latent=3, width=4, num_classes=3)
    batch = Batch(jnp.zeros((4, 2)), jnp.zeros(4, int))
    state = jax.eval_shape(partial(gan_jax.init, gan, TX, TX), jax.random.key(0), batch)
    step = gan_jax.make_discriminator_step(gan, minimax, TX)
    wrong = jax.tree.map(lambda leaf: leaf[None], batch)
    shapes = r"batch.x of shape \(1, 4, 2\) and labels of shape \(1, 4\)"
    with pytest.raises(Exception, match=shapes):
        jax.eval_shape(step, state, wrong)


def test_swapped_players_and_other_batches_are_named(state):
    d_step, g_step = steps()
    with pytest.raises(ValueError, match="discriminator_step is G's"):
        gan_jax.make_train_step(g_step, d_step)
    for batch in ((X, None), X):
        with pytest.raises(TypeError, match=r"batch must be a gan_jax\.Batch\(x, label\), got"):
            jax.eval_shape(d_step, state, batch)
    with pytest.raises(TypeError, match="generator_tx must be an optax optimizer"):
        gan_jax.init(GAN, None, TX, jax.random.key(0), Batch(X))
    labels = jnp.zeros(len(X), int)
    with pytest.raises(ValueError, match=r"with labels \(4,\), but n_critic = 1"):
        gan_jax.make_train_step(d_step, g_step)(state, Batch(X[None], labels))


@pytest.mark.parametrize(
    "prior",
    [
        lambda key, num: jax.random.normal(key, (4, num)),
        lambda key, num: jax.random.normal(key, (7, 4)),
        lambda key, num: jax.random.normal(key, (num,))[0],
        lambda key, num: None,
    ],
)
def test_a_prior_that_does_not_draw_one_row_for_each_example_is_refused(prior):
    with pytest.raises(ValueError, match=r"prior\(key, num=1\) returned shapes"):
        gan_jax.init(GAN._replace(prior=prior), TX, TX, jax.random.key(0), Batch(X))


@pytest.mark.parametrize(
    "layer", [partial(nn.Dropout, 0.5, deterministic=False), partial(nn.BatchNorm, False)]
)
@pytest.mark.parametrize("split", ["accumulate", "axis_name"])
def test_linen_layers_that_see_a_part_of_a_batch_are_refused(layer, split):
    """The dropout mask would repeat, and the statistics would be those of one shard only."""

    class Judge(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(layer()(x.reshape(x.shape[0], -1)))[:, 0]

    gan = GAN._replace(discriminator=gan_jax.from_linen(Judge()))
    state = gan_jax.init(gan, TX, TX, jax.random.key(0), Batch(X))
    jax.eval_shape(gan_jax.make_discriminator_step(gan, minimax, TX), state, Batch(X))
    value = {"accumulate": 2, "axis_name": "shards"}[split]
    step = gan_jax.make_discriminator_step(gan, minimax, TX, **{split: value})
    if split == "axis_name":
        step = jax.vmap(step, in_axes=(None, 0), out_axes=None, axis_name="shards")
        batch = Batch(X.reshape(2, 2, *X.shape[1:]))
    else:
        batch = Batch(X)
    if layer.func is nn.BatchNorm and split == "accumulate":
        jax.eval_shape(step, state, batch)
    else:
        with pytest.raises(ValueError, match=rf"use .*gan_jax\.nn\.{layer.func.__name__}"):
            jax.eval_shape(step, state, batch)

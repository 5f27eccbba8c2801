"""Conditional networks: how G and D use labels, and the terms of conditional GANs."""

import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gan_jax
from gan_jax import Batch, Output, Pass, from_linen, losses, priors, terms
from gan_jax.models import MODELS
from gan_jax.models.small_dcgan import small_dcgan
from gan_jax.nn import BatchNorm, judged, with_class, with_class_channel
from gan_jax.parallel import AXIS_NAME
from gan_jax.terms import CONDITIONAL_TERMS

pytestmark = pytest.mark.usefixtures("quick_compile")

MAKERS = MODELS | {"small_dcgan": small_dcgan}
LABEL = jnp.array([0, 2, 1, 2])


def draw(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


class Judge(nn.Module):
    """`judged` as a network of its own, on features [B, F]."""

    conditional: str

    @nn.compact
    def __call__(self, x, label=None):
        return judged(x, 3, label, self.conditional)


def judge(conditional, x, label=LABEL):
    module = Judge(conditional)
    params = module.init(jax.random.key(0), x, label)["params"]
    return module.apply({"params": params}, x, label), jax.tree.map(np.asarray, params)


def test_projection_adds_the_product_with_the_embedding_of_the_class():
    x = draw(1, 4, 5)
    logits, params = judge("projection", x)
    dense, table = params["Dense_0"], params["Embed_0"]["embedding"]
    x = np.asarray(x)
    expected = [
        x[i] @ dense["kernel"][:, 0] + dense["bias"][0] + sum(x[i] * table[LABEL[i]])
        for i in range(4)
    ]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


def test_acgan_predicts_classes_and_its_logits_ignore_the_label():
    x = draw(1, 4, 5)
    output, params = judge("acgan", x)
    expected = np.asarray(x) @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
    np.testing.assert_allclose(output.heads["label"], expected, rtol=1e-5)
    np.testing.assert_array_equal(output.logits, judge("acgan", x, 2 - LABEL)[0].logits)


def test_reacgan_heads_have_length_1_also_for_features_of_0():
    x = draw(1, 4, 5).at[0].set(0.0)
    output, _ = judge("reacgan", x)
    lengths = {name: np.linalg.norm(head, axis=1) for name, head in output.heads.items()}
    np.testing.assert_allclose(lengths["proxy"], 1, rtol=1e-5)
    np.testing.assert_allclose(lengths["embedding"], [0, 1, 1, 1], rtol=1e-5)
    slope = jax.grad(lambda x: judge("reacgan", x)[0].heads["embedding"].sum())(x)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("shape", [(4, 6, 5, 2), (4, 7)])
def test_a_class_channel_is_the_same_for_one_class_and_differs_between_classes(shape):
    module = from_linen(_ClassChannel())
    x = draw(1, *shape)
    params, _ = module.init(jax.random.key(0), x, LABEL)
    y = np.asarray(module.apply(params, {}, x, LABEL, train=True)[0])
    added = shape[-1] if len(shape) == 2 else 1
    assert y.shape == (*shape[:-1], shape[-1] + added)
    np.testing.assert_array_equal(y[..., : shape[-1]], x)
    np.testing.assert_array_equal(y[1, ..., shape[-1] :], y[3, ..., shape[-1] :])
    assert not np.allclose(y[0, ..., shape[-1] :], y[1, ..., shape[-1] :])


class _ClassChannel(nn.Module):
    @nn.compact
    def __call__(self, x, label=None):
        return with_class_channel(x, 3, label, "concat")


def test_with_class_joins_a_one_hot_vector():
    z = draw(1, 4, 2)
    expected = np.concatenate([z, np.eye(3)[LABEL]], axis=1)
    np.testing.assert_array_equal(with_class(z, 3, LABEL), expected)
    assert with_class(z, None, LABEL) is z


@pytest.mark.parametrize("train", [True, False])
def test_conditional_batch_norm_has_a_scale_and_a_bias_for_each_class(train):
    layer, x = BatchNorm(num_classes=3), 3 * draw(1, 4, 6, 5, 2) + 1
    variables = layer.init(jax.random.key(0), x, LABEL, train=True)
    params = {"scale": draw(2, 3, 2), "bias": draw(3, 3, 2)}
    shapes = jax.tree.map(jnp.shape, variables["params"]["BatchNorm_0"])
    assert shapes == jax.tree.map(jnp.shape, params)
    statistics = {"mean": draw(4, 2), "var": jnp.exp(draw(5, 2))}
    given = {"params": {"BatchNorm_0": params}, "batch_stats": {"BatchNorm_0": statistics}}
    y, _ = layer.apply(given, x, LABEL, train=train, mutable=["batch_stats"])
    mean, variance = np.asarray(statistics["mean"]), np.asarray(statistics["var"])
    if train:
        mean, variance = np.asarray(x).mean((0, 1, 2)), np.asarray(x).var((0, 1, 2))
    for i, label in enumerate(LABEL):
        plain = (np.asarray(x[i]) - mean) / np.sqrt(variance + 1e-5)
        expected = plain * np.asarray(params["scale"])[label] + np.asarray(params["bias"])[label]
        np.testing.assert_allclose(y[i], expected, rtol=1e-4, atol=1e-5)


def test_labels_that_are_missing_or_no_integers_are_refused():
    gan = MODELS["mlp"]((2,), latent=2, width=4, num_classes=3)
    state = partial(gan_jax.init, gan, optax.sgd(0.1), optax.sgd(0.1), jax.random.key(0))
    with pytest.raises(ValueError, match="num_classes=3 but no labels: give Batch"):
        state(Batch(jnp.zeros((4, 2))))
    with pytest.raises(ValueError, match=r"integers \[B\] in \[0, 3\), got float32 \[4, 3\]"):
        state(Batch(jnp.zeros((4, 2)), jnp.zeros((4, 3))))


# The term of ReACGAN


def _seen(embedding, proxy, label):
    output = Output(jnp.zeros(len(proxy)), {"embedding": embedding, "proxy": proxy})
    nothing = dict.fromkeys(Pass._fields)
    return Pass(**nothing | {"fake_output": output, "fake_label": label})


def test_data_to_data_is_equation_7():
    """A loop over samples in float64. Some cosines are beyond the margins, where the slope is 0."""
    unit = jax.vmap(lambda v: v / jnp.linalg.norm(v))
    embedding, proxy = unit(draw(1, 4, 3)), unit(draw(2, 4, 3))
    proxy = proxy.at[0].set(embedding[0])
    found = terms.data_to_data("fake")(_seen(embedding, proxy, LABEL))
    e, w = np.asarray(embedding, float), np.asarray(proxy, float)
    for i in range(4):
        own = np.exp(min(e[i] @ w[i] - 0.98, 0) / 0.5)
        others = sum(
            np.exp(max(e[i] @ e[j] - 0.02, 0) / 0.5) for j in range(4) if LABEL[j] != LABEL[i]
        )
        np.testing.assert_allclose(found[i], -np.log(own / (own + others)), rtol=1e-4)


def test_data_to_data_compares_with_the_samples_of_all_devices():
    unit = jax.vmap(lambda v: v / jnp.linalg.norm(v))
    embedding, proxy = unit(draw(1, 4, 3)), unit(draw(2, 4, 3))
    term = terms.data_to_data("fake")

    def of_shard(*arrays):
        with gan_jax.batches.split_over(AXIS_NAME):
            return term(_seen(*arrays))

    halves = [a.reshape(2, 2, *a.shape[1:]) for a in (embedding, proxy, LABEL)]
    found = jax.vmap(of_shard, axis_name=AXIS_NAME)(*halves).reshape(4)
    np.testing.assert_allclose(found, term(_seen(embedding, proxy, LABEL)), rtol=1e-6)


def test_data_to_data_is_finite_where_all_samples_have_one_class():
    embedding = jnp.eye(4)
    of_one_class = _seen(embedding, embedding, jnp.zeros(4, int))
    np.testing.assert_allclose(terms.data_to_data("fake")(of_one_class), 0, atol=1e-6)


def test_data_to_data_refuses_bad_options_and_missing_labels():
    with pytest.raises(ValueError, match="of must be"):
        terms.data_to_data("both")
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        terms.data_to_data("real", temperature=0)
    with pytest.raises(ValueError, match="needs labels"):
        terms.data_to_data("fake")(_seen(jnp.eye(2), jnp.eye(2), None))


# Fake labels


def test_classes_are_drawn_by_frequency():
    label = priors.classes([30, 0, 10])(jax.random.key(0), 4000)
    assert label.dtype == jnp.int32
    share = np.bincount(label, minlength=3) / 4000
    np.testing.assert_allclose(share, [0.75, 0, 0.25], atol=4 * (0.75 * 0.25 / 4000) ** 0.5)


@pytest.mark.parametrize("bad", [[], [0, 0], [1, -1], [[1, 2]]])
def test_frequencies_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="frequencies must be"):
        priors.classes(bad)


# Whole GANs


@pytest.mark.parametrize(
    ("model", "conditional"),
    [
        pytest.param(model, kind, marks=[] if model == "mlp" else [pytest.mark.slow])
        for model, kind in itertools.product(MAKERS, CONDITIONAL_TERMS)
    ],
)
def test_every_model_trains_with_labels_and_both_players_read_them(model, conditional):
    shape = (28, 28, 1)
    gan = MAKERS[model](shape, latent=3, width=4, num_classes=3, conditional=conditional)
    kind = CONDITIONAL_TERMS[conditional]
    algorithm = gan_jax.adversarial(
        gan,
        losses.hinge,
        generator_tx=optax.sgd(0.1),
        discriminator_tx=optax.sgd(0.1),
        penalties=[(gan_jax.penalties.gradient_penalty, 0.1)],
        discriminator_terms=kind.discriminator,
        generator_terms=kind.generator,
    )
    batch = Batch(jnp.tanh(draw(1, 1, 4, *shape)), LABEL[None])

    @jax.jit
    def run(batch):
        start = algorithm.init(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], batch))
        state, metrics = algorithm.step(start, batch)
        z = jnp.tile(draw(2, 1, 3), (3, 1))
        return state, metrics, algorithm.generate(state, z, jnp.arange(3))

    state, metrics, x = run(batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((metrics, x)))
    assert not np.allclose(x[0], x[1])  # the same z, another class
    other, _, _ = run(batch._replace(label=2 - batch.label))
    for player in ("generator", "discriminator"):
        changed = jax.tree.map(
            lambda a, b: not np.allclose(a, b, atol=1e-7),
            *(getattr(end, player).params for end in (state, other)),
        )
        assert any(jax.tree.leaves(changed)), player

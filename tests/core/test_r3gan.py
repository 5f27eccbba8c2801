"""R3GAN against the paper's counts and initial variances, and a block against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_runs import compiled_in_a_hurry

import gan_jax
from gan_jax import Batch, losses, penalties
from gan_jax.models import r3gan as model
from gan_jax.models.r3gan import r3gan

pytestmark = pytest.mark.usefixtures("quick_compile")

SHAPE = (8, 12, 1)


def tiny(shape=SHAPE, **options):
    return r3gan(shape, **{"width": 16, "blocks": 1, **options})


@pytest.fixture(scope="module")
def begun():
    """A GAN of three classes, the labels of its batch, its optimizer and its first state."""
    gan, label, tx = tiny(num_classes=3), np.array([0, 0, 1, 2]), optax.adam(1e-3, b1=0.0)
    batch = Batch(jnp.zeros((4, *SHAPE)), label)
    with compiled_in_a_hurry():
        state = jax.jit(lambda: gan_jax.init(gan, tx, tx, jax.random.key(0), batch))()
    return gan, label, tx, state


def described(gan, shape, label=None):
    """Returns samples, G's parameters, and D's output and parameters, as shapes only."""

    def play():
        z = gan.prior(jax.random.key(0), 2)
        g, _ = gan.generator.init(jax.random.key(0), z, label)
        x, _ = gan.generator.apply(g, {}, z, label, train=True)
        d, _ = gan.discriminator.init(jax.random.key(0), x, label)
        return x, g, gan.discriminator.apply(d, {}, x, label, train=True)[0], d

    return jax.eval_shape(play)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("classes", [None, 10])
def test_the_networks_for_cifar_have_the_papers_number_of_parameters(classes):
    """Eight blocks of 768 features, expanded to 1536 in groups of 16, and what surrounds them."""
    _, g, _, d = described(
        r3gan((32, 32, 3), num_classes=classes), (32, 32, 3), classes and np.zeros(2, int)
    )
    block = (768 + 1) * 1536 + (9 * 16 + 1) * 1536 + 1536 * 768
    of_both = 8 * block + 4 * 4 * 768 + 3 * 768
    if classes is None:
        assert count(g) == of_both + 64 * 768
        assert count(d) == of_both + 768
    else:
        assert count(g) == of_both + 10 * 64 + (64 + 64) * 768
        assert count(d) == of_both + 768 * 768 + 10 * 768
    assert round(count(g) / 1e6, 1) == {None: 20.7, 10: 20.8}[classes]


@pytest.mark.parametrize(
    ("side", "options", "widths"),
    [(64, {}, (384, 768, 768, 768, 768)), (28, {"width": 64, "wide_up_to": 7}, (16, 32, 64))],
)
def test_widths_halve_beyond_a_size(side, options, widths):
    """The first case is the paper's preset for FFHQ-64."""
    _, g, _, d = described(r3gan((side, side, 3), blocks=1, **options), (side, side, 3))
    for params, order in ((d, widths), (g, widths[::-1])):
        for number, features in enumerate(order):
            assert params[f"_Block_{number}"]["Conv_0"]["kernel"].shape[2] == features


@pytest.mark.parametrize(
    ("shape", "smallest"),
    [
        ((48, 96, 3), (6, 12)),
        ((28, 32, 1), (7, 8)),
        ((36, 36, 1), (9, 9)),
        ((256, 256, 3), (4, 4)),
    ],
)
def test_stages_double_from_the_smallest_size_for_any_shape(shape, smallest):
    x, g, logits, d = described(tiny(shape, width=64), shape)
    assert x.shape == (2, *shape)
    assert logits.shape == (2,)
    assert g["basis"].shape[1:3] == d["kernel"].shape[:2] == smallest


def test_shapes_and_widths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="between 4 and 15, got 100x100, which ends at 25x25"):
        r3gan((100, 100, 3))
    with pytest.raises(ValueError, match="got 3x8, which ends at 3x8"):
        r3gan((3, 8, 1))
    with pytest.raises(ValueError, match="multiple of 8 for images of 32x32, got 20"):
        r3gan((32, 32, 3), width=20)
    with pytest.raises(ValueError, match="multiple of 16 for images of 64x64, got 24"):
        r3gan((64, 64, 3), width=24)


def test_initial_variances(begun):
    """The gains are those of the paper. Each estimate of a deviation has its own standard error."""
    g, d = begun[-1].generator.params, begun[-1].discriminator.params
    gain = np.sqrt(2 / 1.04) * 2**-0.25
    deviations = [(g["basis"], 1), (d["kernel"], 1 / np.sqrt(4 * 6))]
    for params in (g, d):
        for block in (params["_Block_0"], params["_Block_1"]):
            deviations.append((block["Conv_0"]["kernel"], gain / np.sqrt(16)))
            deviations.append((block["Conv_1"]["kernel"], gain / np.sqrt(9 * 16)))
            assert not np.any(block["Conv_2"]["kernel"])
    deviations += [
        (g["Embed_0"]["embedding"], 1 / np.sqrt(3)),
        (g["Dense_0"]["kernel"], 1 / np.sqrt(64 + 64)),
        (g["Conv_0"]["kernel"], 1 / np.sqrt(16)),
        (d["Conv_0"]["kernel"], 1),
        (d["Dense_0"]["kernel"], 1 / np.sqrt(16)),
        (d["Embed_0"]["embedding"], 1 / np.sqrt(16 * 3)),
    ]
    for array, deviation in deviations:
        estimate = np.sqrt(np.mean(np.square(array)))
        assert abs(estimate / deviation - 1) < 4 / np.sqrt(2 * array.size)


def test_a_block_is_the_identity_plus_three_convolutions_of_which_one_is_grouped():
    rng = np.random.default_rng(0)
    block = model._Block(total=4)
    x = rng.normal(size=(2, 4, 3, 16)).astype(np.float32)
    params = jax.jit(block.init)(jax.random.key(0), x)["params"]
    np.testing.assert_array_equal(block.apply({"params": params}, x), x)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 4, params)

    def leaky(y):
        return np.where(y > 0, y, 0.2 * y)

    first, grouped, last = (params[name] for name in ("Conv_0", "Conv_1", "Conv_2"))
    y = leaky(x @ first["kernel"][0, 0] + first["bias"])
    padded = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.zeros_like(y) + grouped["bias"]
    for feature in range(32):
        group = slice(16 * (feature // 16), 16 * (feature // 16) + 16)
        for row, column in np.ndindex(3, 3):
            window = padded[:, row : row + 4, column : column + 3, group]
            y[..., feature] += window @ grouped["kernel"][row, column, :, feature]
    np.testing.assert_allclose(
        jax.jit(block.apply)({"params": params}, x), x + leaky(y) @ last["kernel"][0, 0], atol=1e-4
    )


@pytest.mark.parametrize("conditional", ["projection", "concat", "acgan", "reacgan"])
def test_class_conditional_outputs(conditional):
    gan = tiny(num_classes=3, conditional=conditional)
    x, _, output, _ = described(gan, SHAPE, np.zeros(2, int))
    assert x.shape == (2, *SHAPE)
    heads = {"acgan": ["label"], "reacgan": ["embedding", "proxy"]}
    if conditional in heads:
        assert sorted(output.heads) == heads[conditional]
        output = output.logits
    assert output.shape == (2,)
    with pytest.raises(ValueError, match="no labels"):
        described(gan, SHAPE)


def test_both_networks_use_the_class_and_the_logit_has_no_unconditional_term(begun):
    gan, label, _, state = begun
    g, d = state.generator.params, state.discriminator.params

    @jax.jit
    def play(g, d):
        z, x = jnp.ones((4, 64)), jnp.ones((4, *SHAPE))
        x_of_g, _ = gan.generator.apply(g, {}, z, label, train=True)
        return x_of_g, gan.discriminator.apply(d, {}, x, label, train=True)[0]

    x, logits = play(g, d)
    for y in (x, logits):
        np.testing.assert_array_equal(y[0], y[1])
        assert all(np.abs(y[i] - y[j]).max() > 1e-3 for i, j in [(0, 2), (0, 3), (2, 3)])
    doubled = {**d, "Embed_0": jax.tree.map(lambda leaf: 2 * leaf, d["Embed_0"])}
    np.testing.assert_allclose(play(g, doubled)[1], 2 * logits, rtol=1e-5)


@pytest.mark.slow
def test_steps_with_the_papers_loss_are_finite_and_move_every_parameter(begun):
    """The second step moves what stands before a last convolution, which starts at 0."""
    gan, label, tx, state = begun
    weights = [(penalties.r1, 0.5), (penalties.r2, 0.5)]
    step = jax.jit(
        gan_jax.make_train_step(
            gan_jax.make_discriminator_step(gan, losses.relativistic, tx, penalties=weights),
            gan_jax.make_generator_step(gan, losses.relativistic, tx),
        )
    )
    x = jax.random.normal(jax.random.key(1), (1, 4, *SHAPE))
    after = state
    for _ in range(2):
        after, metrics = step(after, Batch(x, label[None]))
    for leaf in jax.tree.leaves((after.replace(key=0), metrics)):
        assert np.isfinite(leaf).all()
    for player in ("generator", "discriminator"):
        old, new = (jax.tree.leaves(getattr(s, player).params) for s in (state, after))
        assert all((a != b).any() for a, b in zip(old, new, strict=True))

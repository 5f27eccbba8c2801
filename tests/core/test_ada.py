"""ADA's transformations against SciPy, NumPy and matrices by hand, their distributions, R1 through
them, and the feedback of their probability in closed loop."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads
from scipy import ndimage, stats

from gan_jax import Output, penalties
from gan_jax.augment import ada, adaptive, diff_augment, scheduled

pytestmark = pytest.mark.usefixtures("quick_compile")

SIDE, NUM = 16, 2000
EVERYTHING = partial(ada.pipe, kinds=tuple(ada.KINDS), flips=True)


@cache
def smooth():
    """A sum of cosines [SIDE, SIDE] that is smooth across mirrors at the edges."""
    waves = np.cos(np.pi * np.outer(np.arange(3), np.arange(SIDE)) / (SIDE - 1))
    return waves.T @ np.random.default_rng(0).normal(size=(3, 3)) @ waves


@jax.jit
def changed(amount, x):
    """The image with given amounts of the geometric transformations and colours."""
    x = ada._warped(x, ada._affine(amount, *x.shape[:2]))
    return ada._recoloured(x, amount)


def amounts(**given):
    still = {name: np.zeros(2) if name in ("xint", "xfrac") else 0.0 for name in ada._AMOUNTS}
    return jax.tree.map(jnp.asarray, still | given)


def zoomed(x, down, across):
    middle = (SIDE - 1) / 2
    matrix = np.array([1 / down, 1 / across])
    return ndimage.affine_transform(x, matrix, middle * (1 - matrix), order=5, mode="mirror")


def moved(x, down, across):
    return ndimage.shift(x, (down, across), order=5, mode="mirror")


def turned(x, angle):
    """Positive angles turn x (to the right) towards y (down)."""
    return ndimage.rotate(x, -np.rad2deg(angle), reshape=False, order=5, mode="mirror")


@pytest.mark.parametrize(
    ("given", "expected", "atol"),
    [
        ({"xflip": 1.0}, np.fliplr, 0),
        ({"rotate90": 1.0}, lambda x: np.rot90(x, -1), 0),
        ({"rotate90": 3.0}, np.rot90, 0),
        ({"xint": np.array([2.2, -1.0]) / SIDE}, lambda x: moved(x, -1, 2), 1e-5),
        ({"scale": 0.3}, lambda x: zoomed(x, 2**0.3, 2**0.3), 0.03),
        ({"aniso": 0.3}, lambda x: zoomed(x, 2**-0.3, 2**0.3), 0.03),
        ({"rotate": 0.5}, lambda x: turned(x, 0.5), 0.03),
        ({"rotate_again": -0.7}, lambda x: turned(x, -0.7), 0.03),
        ({"xfrac": np.array([1.5, -9.3]) / SIDE}, lambda x: moved(x, -9.3, 1.5), 0.03),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_each_transformation_of_an_image_is_scipys(given, expected, atol):
    x = smooth()
    made = changed(amounts(**given), x[..., None].astype(np.float32))[..., 0]
    np.testing.assert_allclose(made, expected(x.astype(np.float32)), atol=atol)


def test_the_order_of_the_transformations():
    """The matrix of all is the inverse of the product of each."""
    given = {"xflip": 1.0, "rotate90": 1.0, "xint": np.array([0.12, -0.06]), "scale": 0.2}
    given |= {"rotate": 0.4, "aniso": -0.3, "rotate_again": 1.1, "xfrac": np.array([0.03, 0.11])}
    made = jax.jit(lambda amount: ada._affine(amount, 20, 10))(amounts(**given))

    def turn(angle):
        return np.array(
            [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
        )

    def shift(x, y):
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])

    in_turn = [np.diag([-1, 1, 1]), turn(np.pi / 2), shift(1, -1), np.diag([2**0.2, 2**0.2, 1])]
    in_turn += [turn(0.4), np.diag([2**-0.3, 2**0.3, 1]), turn(1.1), shift(0.3, 2.2)]
    whole = np.linalg.multi_dot(in_turn[::-1])
    np.testing.assert_allclose(made @ whole, np.eye(3), atol=1e-5)


def test_colours_are_a_product_of_matrices_by_hand():
    x = np.asarray(jax.random.normal(jax.random.key(0), (SIDE, SIDE, 3)))
    given = {"brightness": 0.3, "contrast": 0.7, "lumaflip": 1.0, "hue": 2.0, "saturation": -0.4}
    grey = np.ones(3) / np.sqrt(3)
    onto_grey = np.outer(grey, grey)
    brightness = np.eye(4)
    brightness[:3, 3] = 0.3
    lumaflip, hue, saturation = np.eye(4), np.eye(4), np.eye(4)
    lumaflip[:3, :3] -= 2 * onto_grey
    # A rotation by 2 from red-green towards the vector that is orthogonal to it and to grey.
    first = np.array([1, -1, 0]) / np.sqrt(2)
    second = np.cross(grey, first)
    basis = np.stack([grey, first, second], axis=1)
    turn = np.array([[1, 0, 0], [0, np.cos(2), -np.sin(2)], [0, np.sin(2), np.cos(2)]])
    hue[:3, :3] = basis @ turn @ basis.T
    saturation[:3, :3] = onto_grey + 2**-0.4 * (np.eye(3) - onto_grey)
    contrast = np.diag([2**0.7, 2**0.7, 2**0.7, 1])
    whole = saturation @ hue @ lumaflip @ contrast @ brightness
    expected = x @ whole[:3, :3].T + whole[:3, 3]
    np.testing.assert_allclose(changed(amounts(**given), x), expected, atol=1e-5)
    on_grey = changed(amounts(**given), x[..., :1])
    np.testing.assert_allclose(on_grey, -(2**0.7) * (x[..., :1] + 0.3), atol=1e-5)


@cache
def drawn(p):
    """The amounts of all transformations for many keys."""

    @jax.jit
    @jax.vmap
    def draw(key):
        return ada._amounts(jax.random.split(key), p, {"xflip", *ada._AMOUNTS})

    return jax.device_get(draw(jax.random.split(jax.random.key(0), NUM)))


SHARES = {"xflip": 1 / 2, "rotate90": 3 / 4, "lumaflip": 1 / 2}
"""The share of amounts that change the image, among all amounts that are drawn."""


def test_each_transformation_is_made_with_probability_p():
    made = drawn(0.4)
    either = (made["rotate"] != 0) | (made["rotate_again"] != 0)
    assert either.mean() == pytest.approx(0.4, abs=5 * np.sqrt(0.24 / NUM))
    for name, amount in made.items():
        share = 1 - np.sqrt(0.6) if "rotate_" in name or name == "rotate" else 0.4
        share *= SHARES.get(name, 1)
        found = (amount.reshape(NUM, -1) != 0).any(axis=1).mean()
        assert found == pytest.approx(share, abs=5 * np.sqrt(0.25 / NUM)), name


@pytest.mark.parametrize(
    ("name", "distribution"),
    [
        ("xint", stats.uniform(-1 / 8, 1 / 4)),
        ("scale", stats.norm(0, 0.2)),
        ("rotate", stats.uniform(-np.pi, 2 * np.pi)),
        ("aniso", stats.norm(0, 0.2)),
        ("xfrac", stats.norm(0, 1 / 8)),
        ("brightness", stats.norm(0, 0.2)),
        ("contrast", stats.norm(0, 0.5)),
        ("hue", stats.uniform(-np.pi, 2 * np.pi)),
        ("saturation", stats.norm(0, 1)),
        ("noise", stats.halfnorm(0, 0.1)),
    ],
)
def test_amounts_have_the_distributions_of_the_paper(name, distribution):
    amount = drawn(1.0)[name]
    assert stats.kstest(amount.ravel(), distribution.cdf).pvalue > 0.005


def test_flips_and_turns_are_alike_often_and_independent():
    made = drawn(1.0)
    table = stats.contingency.crosstab(made["xflip"], made["rotate90"], made["lumaflip"]).count
    assert table.shape == (2, 4, 2)
    assert stats.chisquare(table.ravel()).pvalue > 0.01


@cache
def all_of_it():
    return jax.jit(jax.vmap(EVERYTHING, (0, 0, None)))


def test_without_probability_it_is_the_identity_and_with_it_each_image_has_its_own_change():
    x = jnp.tile(jax.random.normal(jax.random.key(0), (1, 8, 8, 3)), (64, 1, 1, 1))
    keys = jax.random.split(jax.random.key(1), 64)
    np.testing.assert_array_equal(all_of_it()(keys, x, 0.0), x)
    y = np.asarray(all_of_it()(keys, x, 1.0))
    assert len(np.unique(y.reshape(64, -1), axis=0)) == 64
    # The centre of the square of half a side is uniform, and the side is even.
    assert (y == 0).all(axis=-1).mean() == pytest.approx((7 / 16) ** 2, abs=0.05)


@pytest.mark.slow
def test_it_has_derivatives_of_second_order():
    with jax.enable_x64(True):
        x = 0.3 * jax.random.normal(jax.random.key(0), (3, 4, 1))
        y = jax.jit(lambda x: jnp.sum(jnp.tanh(EVERYTHING(jax.random.key(7), x, 1.0))))
        check_grads(y, (x,), order=2, modes=["rev"])


def turned_and_recoloured(key, x):
    del key
    given = {"rotate": 0.7, "scale": -0.2, "xfrac": np.array([0.1, -0.2]), "lumaflip": 1.0}
    return changed(amounts(**given), x)


@pytest.mark.parametrize(
    "augment",
    [
        turned_and_recoloured,
        pytest.param(partial(ada.pipe, p=1.0), marks=pytest.mark.slow),
        pytest.param(diff_augment, marks=pytest.mark.slow),
    ],
    ids=["fixed", "ada", "diff_augment"],
)
def test_r1_through_the_augmentation_equals_finite_differences(augment):
    """D(x) = w . tanh(T(x)), so R1 is a sum of squared slopes before the augmentation T."""
    with jax.enable_x64(True):
        x = 0.3 * jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
        keys = jax.random.split(jax.random.key(1), 2)

        def logits(w, x):
            y = jax.vmap(augment)(keys, x).reshape(len(x), -1)
            return jnp.tanh(y) @ w

        @jax.jit
        @jax.value_and_grad
        def r1(w):
            return jnp.sum(penalties.r1(partial(logits, w), x, x, keys[0]))

        w, along = jax.random.normal(jax.random.key(2), (2, 16))
        h = 1e-5
        steps = h * jnp.eye(16).reshape(16, 1, 4, 4, 1)
        sides = jax.jit(jax.vmap(logits, (None, 0)))
        slopes = (sides(w, x[None] + steps) - sides(w, x[None] - steps)) / (2 * h)
        value, slope = r1(w)
        np.testing.assert_allclose(value, jnp.sum(slopes**2), rtol=1e-6)
        ahead, behind = (r1(w + side * along)[0] for side in (h, -h))
        np.testing.assert_allclose(slope @ along, (ahead - behind) / (2 * h), rtol=1e-6)


LUMAFLIP = partial(ada.pipe, kinds=("lumaflip",))


def judged(augmentation, memory, step):
    """The logits of a D that returns the mean, of images of ones: a luma flip changes the sign."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), 256)
    x = jnp.ones((2, 2, 1))
    return jnp.mean(
        jax.vmap(lambda key: augmentation.apply(key, x, memory, step))(keys), axis=(1, 2, 3)
    )


def test_the_feedback_finds_the_probability_that_holds_the_target():
    """Half of the flips change the sign, so r_t = 1 - p, and 0.6 needs p = 0.4."""
    augmentation = adaptive(LUMAFLIP, rate=0.01)

    def update(memory, step):
        return augmentation.update(memory, Output(judged(augmentation, memory, step))), memory["p"]

    _, p = jax.jit(lambda: jax.lax.scan(update, augmentation.init(), jnp.arange(200)))()
    assert p[0] == 0
    assert p[100:].mean() == pytest.approx(0.4, abs=0.03)


def test_a_schedule_sets_the_probability_of_each_update():
    augmentation = scheduled(LUMAFLIP, lambda step: step / 10)
    shares = jax.jit(
        lambda: jax.lax.map(
            lambda step: jnp.mean(judged(augmentation, augmentation.init(), step) > 0),
            jnp.arange(11),
        )
    )()
    np.testing.assert_allclose(shares, 1 - np.arange(11) / 20, atol=5 * 0.5 / 256**0.5)
    assert shares[0] == 1


def test_it_can_be_traced_for_a_batch_over_a_mesh_with_explicit_axes():
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Explicit,))
    split = NamedSharding(mesh, PartitionSpec("devices"))
    keys, x = jax.device_put(
        (jax.random.split(jax.random.key(0), 8), jnp.ones((8, 4, 4, 3))), split
    )
    made = jax.eval_shape(jax.vmap(partial(EVERYTHING, p=0.5)), keys, x)
    assert made.sharding.spec == PartitionSpec("devices", None, None, None)


def test_it_keeps_types_and_refuses_what_it_does_not_know():
    key, x = jax.random.key(0), jnp.ones((4, 4, 2))
    assert jax.eval_shape(EVERYTHING, key, x[..., :1].astype(jnp.bfloat16), 0.5).dtype == "bfloat16"
    with pytest.raises(ValueError, match=r"kinds must be .*blit.* got \('xflip',\)"):
        ada.pipe(key, x, 0.5, kinds=("xflip",))
    with pytest.raises(ValueError, match="colours need 1 or 3 channels, got 2"):
        jax.eval_shape(ada.pipe, key, x, 0.5)
    with pytest.raises(ValueError, match="one image"):
        ada.pipe(key, x[0], 0.5)

"""StyleGAN2 and its layers against the equations of Karras et al. 2020."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import signal

import gan_jax
from gan_jax import Batch, losses, penalties, terms
from gan_jax.models import stylegan2 as models
from gan_jax.models.stylegan2 import Mixed, Styles, stylegan2
from gan_jax.nn.modulated import EqualConv, EqualDense, modulated_conv
from gan_jax.types import Bound, Pass

SHAPE, NUM, LATENT, LAYERS = (8, 8, 1), 4, 5, 4
KEY = jax.random.key(0)
TX = optax.sgd(0.01)

pytestmark = pytest.mark.usefixtures("quick_compile")


def small(shape=SHAPE, **options):
    return stylegan2(shape, latent=LATENT, width=4, max_width=6, **options)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def disturbed(params, scale):
    """Returns the parameters plus N(0, scale^2), so that none of them is 0."""
    rng = np.random.default_rng(5)
    return jax.tree.map(
        lambda leaf: leaf + jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype), params
    )


# Layers


def scaled_kernel(kernel, style, demodulate):
    """Equations 1 and 3 of the paper, for one example."""
    kernel = style[None, None, :, None] * kernel
    return kernel / np.sqrt((kernel**2).sum((0, 1, 2)) + 1e-8) if demodulate else kernel


def convolved(x, kernel, up):
    """One image [H, W, I] and its own kernel, by SciPy, one pair of features at a time."""
    height, width, _ = x.shape
    made = np.zeros(((1 + up) * height, (1 + up) * width, kernel.shape[3]))
    for i, o in np.ndindex(kernel.shape[2:]):
        if up:
            spread = np.zeros((2 * height - 1, 2 * width - 1))
            spread[::2, ::2] = x[:, :, i]
            fir = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 16
            y = signal.convolve2d(signal.convolve2d(spread, kernel[:, :, i, o]), fir)
            made[:, :, o] += y[2:-2, 2:-2]
        else:
            made[:, :, o] += signal.correlate2d(x[:, :, i], kernel[:, :, i, o], mode="same")
    return made


@pytest.mark.parametrize(
    ("window", "up", "demodulate"), [(3, False, True), (3, True, True), (1, False, False)]
)
def test_a_modulated_convolution_is_one_with_a_scaled_kernel_for_each_example(
    window, up, demodulate
):
    rng = np.random.default_rng(0)
    x, style = rng.normal(size=(2, 5, 4, 3)), rng.normal(1, 1, size=(2, 3))
    kernel = rng.normal(size=(window, window, 3, 2))
    with jax.enable_x64(True):
        made = modulated_conv(*map(jnp.asarray, (x, kernel, style)), up=up, demodulate=demodulate)
    for i in range(2):
        expected = convolved(x[i], scaled_kernel(kernel, style[i], demodulate), up)
        np.testing.assert_allclose(made[i], expected, atol=1e-9)


def test_demodulated_features_have_variance_1_for_every_style():
    key_x, key_kernel, key_style = jax.random.split(KEY, 3)
    x = jax.random.normal(key_x, (3, 100, 100, 4))
    kernel = 7 * jax.random.normal(key_kernel, (3, 3, 4, 2))
    style = jnp.array([[0.1], [1.0], [30.0]]) * jax.random.normal(key_style, (3, 4))
    inside = np.asarray(modulated_conv(x, kernel, style))[:, 1:-1, 1:-1]
    # 9604 values, each correlated with 24 neighbours: the standard error is below 0.05.
    np.testing.assert_allclose(np.square(inside).mean((1, 2)), 1.0, atol=0.15)


def test_layers_with_an_equalised_rate_keep_the_variance_and_start_from_kernels_of_one_size():
    x = jax.random.normal(KEY, (1000, 50))
    layers = EqualDense(40), EqualDense(40, rate=0.01), EqualConv(40)
    inputs = x, x, x.reshape(1, 25, 40, 50)
    made = jax.jit(
        lambda: [a.init_with_output(KEY, x) for a, x in zip(layers, inputs, strict=True)]
    )()
    for (y, variables), deviation in zip(made, (1, 100, 1), strict=True):
        (kernel,) = (
            leaf for leaf in jax.tree.leaves(variables) if leaf.ndim > 1 and leaf.size > 40
        )
        assert np.std(kernel) == pytest.approx(deviation, rel=0.1)
        inside = y[:, 1:-1, 1:-1] if y.ndim > 2 else y
        assert np.square(inside).mean() == pytest.approx(1, rel=0.15)


def test_a_slow_layer_has_its_initial_bias_and_learns_it_by_its_rate():
    layer, x = EqualDense(2, rate=0.01, bias=3.0), jnp.zeros((1, 4))

    @jax.jit
    def value_and_slope():
        variables = layer.init(KEY, x)
        return jax.value_and_grad(lambda v: layer.apply(v, x)[0, 0])(variables)

    value, slope = value_and_slope()
    assert value == pytest.approx(3.0)
    np.testing.assert_allclose(slope["params"]["bias"], [0.01, 0.0], rtol=1e-6)


def test_a_convolution_that_halves_is_the_filter_and_a_convolution_with_stride_2():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 6, 8, 1)), rng.normal(size=(3, 3, 1, 1))
    with jax.enable_x64(True):
        variables = {"params": {"kernel": jnp.asarray(kernel)}}
        made = EqualConv(1, down=True, use_bias=False).apply(variables, jnp.asarray(x))
    fir = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    blurred = signal.convolve2d(x[0, :, :, 0], fir)[1:-1, 1:-1]  # two pixels of padding
    expected = signal.correlate2d(blurred, kernel[:, :, 0, 0], mode="valid")[::2, ::2] / 3
    np.testing.assert_allclose(made[0, :, :, 0], expected, atol=1e-12)


# Networks


def test_the_parameters_are_those_of_configuration_f_to_the_unit():
    """The totals that the authors' code prints for FFHQ at 1024 pixels: 30.37 M and 29.01 M."""
    gan = stylegan2((1024, 1024, 3), latent=512, width=32, mapping_depth=8)
    z, x = jnp.zeros((1, 512)), jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32)
    generator, _ = jax.eval_shape(gan.generator.init, KEY, z)
    discriminator, _ = jax.eval_shape(gan.discriminator.init, KEY, x)
    assert count(generator) == 30_370_060
    assert count(generator["mapping"]) == 8 * (512 * 512 + 512)
    assert count(discriminator) == 29_012_513


def test_the_residual_g_of_configuration_f_has_shortcuts_in_the_place_of_images():
    """The layers of the authors' code with architecture="resnet", counted by hand."""
    gan = stylegan2((1024, 1024, 3), latent=512, width=32, mapping_depth=8, architecture="residual")
    generator, _ = jax.eval_shape(gan.generator.init, KEY, jnp.zeros((1, 512)))
    widths = (512, 512, 512, 512, 512, 256, 128, 64, 32)
    images = sum(512 * width + width + 3 * width + 3 for width in widths[:-1])
    shortcuts = sum(a * b for a, b in itertools.pairwise(widths))
    assert count(generator) == 30_370_060 - images + shortcuts == 30_040_564


def expected_image(params, w, architecture):
    """The image [8, 8, C] of G for w [LAYERS, L], by SciPy."""

    def modulated(x, w, layer, up=False, demodulate=True):
        conv = layer["conv"]
        kernel, style = conv["kernel"], conv["style"]
        style = w @ style["dense"]["kernel"] / np.sqrt(LATENT) + style["bias"]
        kernel = scaled_kernel(kernel / np.sqrt(kernel[..., 0].size), style, demodulate)
        return convolved(x, kernel, up) + layer["bias"].reshape(1, 1, -1)

    def styled(x, w, layer, up=False):
        x = modulated(x, w, layer, up)
        return np.sqrt(2) * np.where(x > 0, x, 0.2 * x)

    def doubled(x, kernel):
        """The result of a 1x1 convolution, doubled."""
        return convolved(x, np.pad(kernel, ((1, 1), (1, 1), (0, 0), (0, 0))), up=True)

    first = styled(params["constant"][0], w[0], params["_Styled_0"])
    last = styled(first, w[1], params["_Styled_1"], up=True)
    last = styled(last, w[2], params["_Styled_2"])
    if architecture == "residual":
        kernel = params["EqualConv_0"]["kernel"]
        last = (last + doubled(first, kernel / np.sqrt(kernel.shape[2]))) / np.sqrt(2)
        return modulated(last, w[3], params["_ToImage_0"], demodulate=False)
    before = modulated(first, w[1], params["_ToImage_0"], demodulate=False)
    image = modulated(last, w[3], params["_ToImage_1"], demodulate=False)
    return doubled(before, np.eye(before.shape[2])[None, None]) + image


@pytest.mark.parametrize("architecture", ["residual", pytest.param("skip", marks=pytest.mark.slow)])
def test_g_is_the_sum_of_images_or_of_features(architecture):
    gan = small((8, 8, 2), architecture=architecture)
    params, _ = moved(gan)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    w = np.random.default_rng(1).normal(size=(2, LAYERS, LATENT))
    with jax.enable_x64(True):
        made = jax.jit(partial(gan.generator.apply, train=False))(params, {}, Styles(w))[0]
    for i in range(2):
        expected = expected_image(params, w[i], architecture)
        np.testing.assert_allclose(made[i], expected, atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "first"), [((28, 28, 1), (7, 7)), ((48, 48, 3), (6, 6)), ((16, 40, 2), (4, 10))]
)
def test_sizes(shape, first):
    gan = small(shape)

    def make(key, z):
        params, model_state = gan.generator.init(key, z)
        return params, gan.generator.apply(params, model_state, z, train=False)[0]

    params, x = jax.eval_shape(make, KEY, jnp.zeros((2, LATENT)))
    assert params["constant"].shape[1:3] == first
    assert x.shape == (2, *shape)


@pytest.mark.parametrize("shape", [(30, 30, 1), (16, 34, 1), (18, 16, 3), (4, 8, 1), (7, 7, 1)])
def test_other_sizes_are_refused(shape):
    with pytest.raises(ValueError, match=f"at least 8, .* got {shape[0]}x{shape[1]}"):
        stylegan2(shape)


def moved(gan, label=None):
    """Returns parameters and a model state of G that are all nonzero, in a moment."""
    made = jax.eval_shape(gan.generator.init, KEY, jnp.zeros((NUM, LATENT)), label)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), made)
    params, model_state = disturbed(zeros, 1.0)
    params["mapping"] = jax.tree.map(lambda leaf: 100 * leaf, params["mapping"])  # its rate is 0.01
    return params, model_state


@pytest.fixture(scope="module", params=["skip", pytest.param("residual", marks=pytest.mark.slow)])
def trained(request):
    gan = small(architecture=request.param)
    return gan, *moved(gan)


def test_w_does_not_depend_on_the_size_of_z_nor_on_that_of_the_classes_embedding():
    label = jnp.arange(NUM) % 3
    mapping = moved(small(num_classes=3), label)[0]["mapping"]
    dense = jax.tree.map(lambda leaf: 100 * leaf, mapping["embedding"])
    larger = mapping | {"embedding": dense}
    z = jax.random.normal(KEY, (NUM, LATENT))
    styles = jax.jit(lambda mapping, z, label: models.styles({"mapping": mapping}, z, label))
    w = np.asarray(styles(mapping, z, label))
    np.testing.assert_allclose(styles(mapping, 100 * z, label), w, rtol=1e-4)
    np.testing.assert_allclose(styles(larger, z, label), w, rtol=1e-4)
    assert (np.abs(styles(mapping, -z, label) - w).max(1) > 0.01).all()
    assert (np.abs(styles(mapping, z, (label + 1) % 3) - w).max(1) > 0.01).all()


@partial(jax.jit, static_argnums=(0, 1))
def run(gan, train, params, model_state, z, key=None):
    return gan.generator.apply(params, model_state, z, train=train, key=key)[0]


def test_noise_differs_by_key_and_example_and_there_is_none_without_a_key(trained):
    gan, params, model_state = trained
    z = jnp.ones((NUM, LATENT))
    generate = partial(run, gan, False)
    a, b = (np.asarray(generate(params, model_state, z, jax.random.key(seed))) for seed in (1, 2))
    assert np.abs(a - b).max() > 0.1
    assert np.abs(a[0] - a[1]).max() > 0.1
    strengths_0 = jax.tree.map(lambda leaf: leaf if leaf.ndim else 0 * leaf, params)
    silent = generate(strengths_0, model_state, z, KEY)
    np.testing.assert_allclose(generate(params, model_state, z), silent, atol=1e-4)
    np.testing.assert_allclose(silent, np.broadcast_to(silent[:1], silent.shape), atol=1e-4)


def test_truncation_by_0_gives_one_image_and_by_1_the_images_themselves(trained):
    gan, params, model_state = trained
    z = jax.random.normal(KEY, (NUM, LATENT))

    @jax.jit
    def make(psi):
        apply = models.truncated(gan, psi).generator.apply
        return apply(params, model_state, z, train=False)[0]

    whole, none = np.asarray(make(1.0)), np.asarray(make(0.0))
    np.testing.assert_allclose(whole, run(gan, False, params, model_state, z), atol=1e-4)
    assert np.abs(whole - whole[:1]).max() > 0.1
    np.testing.assert_allclose(none, np.broadcast_to(none[:1], none.shape), atol=1e-5)


def test_truncation_interpolates_between_w_and_its_mean(trained):
    """A generator that returns its styles shows them."""
    gan, params, model_state = trained
    network = gan.generator._replace(apply=lambda params, state, z, label, **_: (z.w, state))
    of_w = models.truncated(gan._replace(generator=network), 0.25).generator.apply
    z = jax.random.normal(KEY, (NUM, LATENT))
    expected = 0.75 * model_state["mean"]["w"][None] + 0.25 * models.styles(params, z)
    made = of_w(params, model_state, z, train=False)[0]
    np.testing.assert_allclose(made, expected, rtol=1e-5)


def test_mixed_latents_style_the_layers_before_and_after_the_cut(trained):
    gan, *of_generator = trained
    z = jax.random.normal(KEY, (NUM, 2, LATENT))
    second = jnp.arange(LAYERS)[None] >= jnp.array([0, 1, 3, 4])[:, None]

    def make(z):
        return np.asarray(run(gan, True, *of_generator, z))

    def of_layers(second):
        return make(jnp.where(second[..., None], z[:, 1:], z[:, :1]))

    mixed = make(Mixed(z, second))
    np.testing.assert_allclose(mixed, of_layers(second), atol=1e-4)
    first, other = of_layers(jnp.zeros_like(second)), of_layers(jnp.ones_like(second))
    np.testing.assert_allclose(mixed[0], other[0], atol=1e-4)
    np.testing.assert_allclose(mixed[3], first[3], atol=1e-4)
    for images in (first, other):
        assert (np.abs(mixed - images).max((1, 2, 3))[1:3] > 0.01).all()
    w = models.styles(of_generator[0], Mixed(z, second), train=False)
    np.testing.assert_allclose(w, models.styles(of_generator[0], z[:, 0]), rtol=1e-5)


def test_the_mixing_prior_cuts_as_often_as_asked():
    gan = small(style_mixing=0.25)
    z, second = jax.tree.map(np.asarray, jax.jit(lambda: gan.prior(KEY, 4000))())
    assert z.shape == (4000, 2, LATENT)
    assert second.shape == (4000, LAYERS)
    assert not second[:, 0].any()
    assert (second[:, 1:] >= second[:, :-1]).all()
    assert second[:, -1].mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)
    cuts = np.bincount(LAYERS - second.sum(1), minlength=LAYERS + 1)[1:LAYERS]
    np.testing.assert_allclose(cuts / cuts.sum(), 1 / (LAYERS - 1), atol=0.06)


def test_bad_latents_and_options_are_refused(trained):
    gan, *of_generator = trained
    with pytest.raises(ValueError, match=r"\[B, 4, 5\], one vector for each .* got \[2, 3, 5\]"):
        run(gan, False, *of_generator, Styles(jnp.zeros((2, 3, LATENT))))
    with pytest.raises(ValueError, match=r"probability, got 2\.0"):
        small(style_mixing=2.0)
    with pytest.raises(ValueError, match="'skip' or 'residual', got 'resnet'"):
        small(architecture="resnet")
    with pytest.raises(ValueError, match="no labels"):
        small(num_classes=3).generator.init(KEY, jnp.zeros((2, LATENT)))


@pytest.mark.parametrize("conditional", ["projection", "concat", "acgan", "reacgan"])
def test_every_kind_of_condition_has_its_shapes(conditional):
    gan = small(num_classes=3, conditional=conditional)

    def judge(key, x, label):
        params = gan.discriminator.init(key, x, label)[0]
        return gan.discriminator.apply(params, {}, x, label, train=False)[0]

    output = jax.eval_shape(judge, KEY, jnp.zeros((NUM, *SHAPE)), jnp.zeros(NUM, jnp.int32))
    logits = output if conditional in ("projection", "concat") else output.logits
    assert logits.shape == (NUM,)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["skip", "residual"])
def test_a_step_with_r1_and_path_length_is_finite_and_moves_everything(architecture):
    """One step with all that StyleGAN2 trains with, on a conditional GAN with mixed styles."""
    gan = small(num_classes=3, style_mixing=0.9, architecture=architecture)
    algorithm = gan_jax.adversarial(
        gan,
        losses.non_saturating,
        generator_tx=TX,
        discriminator_tx=TX,
        n_critic=1,
        penalties=[(penalties.r1, 1.0)],
        generator_terms=[(terms.path_length(path=models.path), 2.0)],
    )
    x = jax.random.uniform(KEY, (2, NUM, *SHAPE), minval=-1.0)
    batch = Batch(x, jnp.arange(2 * NUM).reshape(2, NUM) % 3)

    @jax.jit
    def train():
        key = jax.random.key(0)
        first = algorithm.init(key, jax.tree.map(lambda leaf: leaf[0], batch))
        return first, *jax.lax.scan(
            algorithm.step, first, jax.tree.map(lambda leaf: leaf[:, None], batch)
        )

    first, state, metrics = train()
    for leaf in jax.tree.leaves((state.replace(key=0), metrics)):
        assert np.isfinite(leaf).all()
    assert metrics["generator_path_length"][1] > 0
    for role in ("generator", "discriminator"):
        params = (getattr(s, role).params for s in (first, state))
        for a, b in zip(*map(jax.tree.leaves, params), strict=True):
            assert (a != b).any()
    assert (state.ema_model_state["mean"]["w"] != 0).all()


def test_the_mean_of_w_is_a_running_mean(trained):
    gan, params, before = trained

    @jax.jit
    def update(z):  # the compiler removes the synthesis network
        return gan.generator.apply(params, before, z, train=True)[1]["mean"]["w"]

    z = jax.random.normal(KEY, (NUM, LATENT))
    w = models.styles(params, z)
    expected = 0.995 * before["mean"]["w"] + 0.005 * w.mean(0)
    np.testing.assert_allclose(update(z), expected, rtol=1e-5)
    np.testing.assert_array_equal(update(Styles(w)), before["mean"]["w"])


# Path length


def passed(gan, params, model_state, z):
    """Returns a `Pass` with what `terms.path_length` reads."""
    bound = Bound(gan.generator.apply, params, model_state, KEY)
    nothing = dict.fromkeys(Pass._fields)
    return Pass(**nothing | {"generator": bound, "z": z, "fake": bound(z), "key": KEY})


@pytest.mark.slow
def test_the_gradient_of_the_path_length_is_that_of_finite_differences():
    """|J^T y| by the whole Jacobian, and a derivative of the term in a random direction."""
    with jax.enable_x64(True):
        gan = small()
        z = jax.random.normal(KEY, (NUM, LATENT), jnp.float64)
        params, model_state = gan.generator.init(KEY, z)
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), disturbed(params, 0.5))
        term = terms.path_length(path=models.path)
        memory = {"length": jnp.array(2.0), "weight": jnp.array(1.0)}

        def value(params):
            return term.apply(passed(gan, params, model_state, z), memory)[0]

        seen = passed(gan, params, model_state, z)
        w, image = models.path(seen)
        np.testing.assert_allclose(image(w), seen.fake, rtol=1e-9)
        keys = gan_jax.random.per_example(KEY, seen.fake)
        y = jax.vmap(lambda key: jax.random.normal(key, SHAPE, jnp.float64))(keys) / 8
        jacobian = jax.jacobian(image)(w)  # [B, H, W, C, B, L]
        own = jnp.stack([jacobian[i, ..., i, :] for i in range(NUM)])
        length = jnp.linalg.norm(jnp.einsum("bhwcl,bhwc->bl", own, y), axis=1)
        np.testing.assert_allclose(jax.jit(value)(params), jnp.square(length - 2.0), rtol=1e-6)

        direction = jax.tree.map(lambda leaf: leaf - 0.3, disturbed(params, 0.5))
        total = jax.jit(lambda params: jnp.sum(value(params)))
        slope = jax.jit(jax.grad(total))(params)
        slope = float(optax.tree.vdot(slope, direction))
        step = 1e-6
        ahead, behind = (
            total(jax.tree.map(lambda a, b: a + sign * step * b, params, direction))  # noqa: B023
            for sign in (1, -1)
        )
        assert float(ahead - behind) / (2 * step) == pytest.approx(slope, rel=1e-5)

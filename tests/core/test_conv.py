"""The convolutions against loops, and their derivatives against autodiff of XLA's convolutions.

The tests use float64, where two correct computations agree to 1e-10.
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax._cpu import batched, winograd
from gan_jax._cpu import convolutions as conv_cpu
from gan_jax._cpu.arrays import materialised
from gan_jax.nn import conv_native
from gan_jax.nn.conv import conv, conv_transpose

GEOMETRIES = {
    "halving": ((6, 4), (4, 4), (2, 2), (1, 1)),
    "pointwise": ((2, 3), (1, 1), (1, 1), (0, 0)),
    "same": ((4, 5), (3, 3), (1, 1), (1, 1)),
    "odd halving": ((7, 6), (3, 3), (2, 2), (0, 0)),
    "padded odd halving": ((6, 7), (3, 3), (2, 2), (1, 2)),
    "remainder": ((8, 7), (3, 2), (2, 3), (1, 0)),  # rows and columns the stride never reaches
    "gaps": ((7, 8), (2, 1), (3, 2), (0, 0)),  # strides larger than the window
    "wide padding": ((5, 6), (2, 2), (1, 2), (2, 3)),  # padding larger than the window's edge
}
"""(height, width), window, strides, padding."""

pytestmark = pytest.mark.usefixtures("float64", "quick_compile")


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def jitted(form, name):
    return jax.jit(getattr(form, name), static_argnums=2)


def three_maps(form, x, kernel, g, shape):
    """The convolution and its two gradients in one of the forms."""
    return (
        form.forward(x, kernel, shape),
        form.input_gradient(g, kernel, shape),
        form.kernel_gradient(x, g, shape),
    )


native_maps = jax.jit(partial(three_maps, conv_native), static_argnums=3)


def cpu_maps(*arrays, shape):
    """Traced anew each time: the thresholds that a test patches are no part of jit's cache key."""
    return jax.jit(lambda *arrays: three_maps(conv_cpu, *arrays, shape))(*arrays)


def operands(size, window):
    """Returns x [2, H, W, 3] and a kernel [kh, kw, 3, 4]."""
    return draw((2, *size, 3), (*window, 3, 4))


def conv_by_loops(x, kernel, strides, padding):
    """y[b, i, j, o] = sum over u, v, c of x[b, i s + u - p, j s + v - p, c] kernel[u, v, c, o]."""
    x = np.pad(x, [(0, 0), *((p, p) for p in padding), (0, 0)])
    kh, kw = kernel.shape[:2]
    height, width = (
        (n - k) // s + 1 for n, k, s in zip(x.shape[1:3], (kh, kw), strides, strict=True)
    )
    y = np.zeros((x.shape[0], height, width, kernel.shape[3]))
    for i, j in np.ndindex(height, width):
        top, left = i * strides[0], j * strides[1]
        y[:, i, j] = np.einsum("buvc,uvco->bo", x[:, top : top + kh, left : left + kw], kernel)
    return y


def conv_transpose_by_loops(x, kernel, strides, padding):
    """Each x[b, i, j] adds its multiple of the kernel at (i s, j s). Then padding is removed."""
    (kh, kw), (h, w) = kernel.shape[:2], x.shape[1:3]
    y = np.zeros(
        (x.shape[0], (h - 1) * strides[0] + kh, (w - 1) * strides[1] + kw, kernel.shape[2])
    )
    for i, j in np.ndindex(h, w):
        top, left = i * strides[0], j * strides[1]
        y[:, top : top + kh, left : left + kw] += np.einsum("bc,uvoc->buvo", x[:, i, j], kernel)
    return y[:, padding[0] : y.shape[1] - padding[0], padding[1] : y.shape[2] - padding[1]]


def native_conv(x, kernel, *, strides, padding, groups=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        [(p, p) for p in padding],
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def native_conv_transpose(x, kernel, *, strides, padding):
    return jax.lax.conv_transpose(
        x,
        kernel,
        strides,
        [(k - 1 - p, k - 1 - p) for k, p in zip(kernel.shape[:2], padding, strict=True)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        transpose_kernel=True,
    )


ALL = list(product([conv, conv_transpose], GEOMETRIES))
LOOPS = {conv: conv_by_loops, conv_transpose: conv_transpose_by_loops}
NATIVE = {conv: native_conv, conv_transpose: native_conv_transpose}


def arguments(function, geometry):
    """Returns (x, kernel) and the options of a call."""
    size, window, strides, padding = GEOMETRIES[geometry]
    x, kernel = operands(size, window)
    if function is conv_transpose:
        x = draw((2, *size, 4))[0]
    return (x, kernel), {"strides": strides, "padding": padding}


@pytest.mark.parametrize(("function", "geometry"), ALL)
def test_values_are_those_of_loops(function, geometry):
    inputs, options = arguments(function, geometry)
    expected = LOOPS[function](*map(np.asarray, inputs), **options)
    assert min(expected.shape) > 0
    close(function(*inputs, **options), expected)


def derivatives(function, inputs):
    """First and second derivatives of sum(sin(f(x, w))), in both operands and in both nestings."""
    directions = draw(*(a.shape for a in inputs))
    gradient = jax.grad(lambda pair: jnp.sum(jnp.sin(function(*pair))))
    first = gradient(inputs)

    def along(pair):
        return sum(jnp.sum(g * d) for g, d in zip(gradient(pair), directions, strict=True))

    reverse_over_reverse = jax.grad(along)(inputs)
    forward_over_reverse = jax.jvp(gradient, (inputs,), (tuple(directions),))[1]
    forward = jax.jvp(lambda pair: function(*pair), (inputs,), (tuple(directions),))[1]
    return first, reverse_over_reverse, forward_over_reverse, forward


@pytest.mark.parametrize(("function", "geometry"), ALL)
def test_derivatives_to_second_order_are_those_of_xlas_own(function, geometry):
    inputs, options = arguments(function, geometry)
    ours, native = (
        jax.jit(partial(derivatives, partial(f, **options)))(inputs)
        for f in (function, NATIVE[function])
    )
    jax.tree.map(close, ours, native)
    close(jax.tree.leaves(ours[1])[0], jax.tree.leaves(ours[2])[0])


GROUPED = {
    "filtered": ((4, 5), (3, 3), (1, 1)),
    "halving": ((6, 4), (4, 4), (2, 2)),
    "pointwise": ((2, 3), (1, 1), (1, 1)),
}
"""(height, width), window, strides. The padding is half the window, rounded down."""


def grouped_arguments(geometry):
    """Returns x [2, H, W, 16], a kernel [kh, kw, 8, 24] and the options for two groups."""
    size, window, strides = GROUPED[geometry]
    inputs = draw((2, *size, 16), (*window, 8, 24))
    padding = (window[0] - 1) // 2, (window[1] - 1) // 2
    return inputs, {"strides": strides, "padding": padding, "groups": 2}


@pytest.mark.parametrize("geometry", GROUPED)
def test_groups_are_separate_convolutions(geometry):
    (x, kernel), options = grouped_arguments(geometry)
    made = conv(x, kernel, **options)
    del options["groups"]
    halves = zip(jnp.split(x, 2, axis=3), jnp.split(kernel, 2, axis=3), strict=True)
    expected = [conv_by_loops(*map(np.asarray, half), **options) for half in halves]
    close(made, np.concatenate(expected, axis=3))


@pytest.mark.parametrize("geometry", GROUPED)
def test_derivatives_of_groups_are_those_of_xlas_own(geometry):
    inputs, options = grouped_arguments(geometry)
    ours, native = (
        jax.jit(partial(derivatives, partial(f, **options)))(tuple(inputs))
        for f in (conv, native_conv)
    )
    jax.tree.map(close, ours, native)


@pytest.mark.parametrize("axes", [(1, None), (0, 3)])
def test_groups_under_vmap(axes):
    (x, kernel), options = grouped_arguments("filtered")
    stacked = [
        a if axis is None else jnp.stack([a, 2 * a + 1], axis)
        for a, axis in zip((x, kernel), axes, strict=True)
    ]

    def gradients(function, x, kernel):
        return jax.grad(lambda *pair: jnp.sum(jnp.sin(function(*pair, **options))), argnums=(0, 1))(
            x, kernel
        )

    ours, native = (
        jax.jit(jax.vmap(partial(gradients, function), in_axes=axes))(*stacked)
        for function in (conv, native_conv)
    )
    jax.tree.map(close, ours, native)


def test_third_order_too():
    """The third derivative of a known polynomial along a line.

    f(t) = sum(conv(t x, t w)^2) = t^4 f(1), with third derivative 24 f(1) at t = 1.
    """
    inputs, options = arguments(conv_transpose, "halving")

    def f(t):
        return jnp.sum(jnp.square(conv_transpose(*(t * a for a in inputs), **options)))

    close(jax.jit(jax.grad(jax.grad(jax.grad(f))))(1.0), 24 * f(1.0))


@pytest.mark.parametrize("function", [conv, conv_transpose])
@pytest.mark.parametrize("axes", [(None, 0), (1, None), (0, 3)])
def test_under_vmap_over_inputs_kernels_or_both(function, axes):
    """Values and gradients under vmap equal those of one member at a time."""
    inputs, options = arguments(function, "remainder")
    stacked = [
        a if axis is None else jnp.stack([a, 2 * a + 1], axis)
        for a, axis in zip(inputs, axes, strict=True)
    ]
    alone = [
        [a if axis is None else jnp.take(a, i, axis) for a, axis in zip(stacked, axes, strict=True)]
        for i in range(2)
    ]

    def both(x, kernel):
        def loss(*pair):
            return jnp.sum(jnp.sin(function(*pair, **options)))

        return function(x, kernel, **options), jax.grad(loss, argnums=(0, 1))(x, kernel)

    mapped = jax.jit(jax.vmap(both, in_axes=axes))(*stacked)
    single = [jax.jit(both)(*pair) for pair in alone]
    jax.tree.map(close, mapped, jax.tree.map(lambda *leaves: jnp.stack(leaves), *single))


@pytest.mark.parametrize("function", [conv, conv_transpose])
def test_inside_scan_as_outside(function):
    """Three steps of gradient descent are the same in a compiled loop and one by one."""
    (x, kernel), options = arguments(function, "halving")

    def descend(w, scale):
        loss, gradient = jax.value_and_grad(
            lambda w: jnp.mean(jnp.sin(scale * function(x, w, **options)))
        )(w)
        return w - gradient, loss

    scales = jnp.array([1.0, 2.0, 3.0])
    scanned = jax.jit(partial(jax.lax.scan, descend))(kernel, scales)
    losses = []
    for scale in scales:
        kernel, loss = jax.jit(descend)(kernel, scale)
        losses.append(loss)
    jax.tree.map(close, scanned, (kernel, jnp.stack(losses)))


@pytest.mark.parametrize("thick", [1, 5])  # with Winograd, without it
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_forms_for_the_cpu_equal_the_native_ones(geometry, thick, monkeypatch):
    monkeypatch.setattr(conv_cpu, "_THICK", thick)
    size, window, strides, padding = GEOMETRIES[geometry]
    shape = conv_native.Geometry(size, window, strides, padding)
    x, kernel = operands(size, window)
    (g,) = draw((2, *shape.output, 4))
    made, expected = cpu_maps(x, kernel, g, shape=shape), native_maps(x, kernel, g, shape)
    for ours, native in zip(made, expected, strict=True):
        assert ours.shape == native.shape
        close(ours, native)
    close(conv_native.canonical_kernel_gradient(x, g, shape), expected[2])


def test_a_3x3_window_with_stride_2_is_a_window_of_2x2_tiles():
    shape = conv_native.Geometry((9, 9), (3, 3), (2, 2), (0, 0))
    x, kernel, g = draw((2, 9, 9, 32), (3, 3, 32, 40), (2, 4, 4, 40))
    made = jax.make_jaxpr(partial(three_maps, conv_cpu, shape=shape))(x, kernel, g)
    assert "conv_general_dilated" not in str(made)


@pytest.mark.parametrize(
    ("size", "padding", "groups"),
    [((4, 4), (1, 1), 1), ((6, 9), (0, 1), 2), ((6, 8), (3, 2), 3)],
)
def test_filtering_at_once_equals_the_native_form(size, padding, groups):
    """The method tiles every size, and padding may be larger than the window."""
    shape = conv_native.Geometry(size, (3, 3), (1, 1), padding, groups)
    assert batched.applies(shape)
    x, kernel, g = draw((2, *size, 6), (3, 3, 6 // groups, 12), (2, *shape.output, 12))
    made = jax.jit(partial(three_maps, batched), static_argnums=3)(x, kernel, g, shape)
    for ours, native in zip(made, native_maps(x, kernel, g, shape), strict=True):
        close(ours, native)


@pytest.mark.parametrize("groups", [1, 3])
def test_chunks_equal_the_whole_batch(groups, monkeypatch):
    """On one device a large batch is computed in chunks: here 12 examples in chunks of 3."""
    monkeypatch.setattr(batched, "_CHUNK", 4 * 5 * 5 * 6 * 8)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    shape = conv_native.Geometry((5, 5), (3, 3), (1, 1), (1, 1), groups)
    x, kernel, g = draw((12, 5, 5, 6), (3, 3, 6 // groups, 12), (12, 5, 5, 12))
    maps = partial(three_maps, batched, shape=shape)
    assert "scan[" in str(jax.make_jaxpr(maps)(x, kernel, g))
    for ours, native in zip(
        jax.jit(maps)(x, kernel, g), native_maps(x, kernel, g, shape), strict=True
    ):
        close(ours, native)


def test_a_batch_that_may_be_split_over_devices_is_not_cut(monkeypatch):
    """Otherwise every device would gather the batch and compute all chunks."""
    monkeypatch.setattr(batched, "_CHUNK", 1)
    assert jax.device_count() > 1
    shape = conv_native.Geometry((5, 5), (3, 3), (1, 1), (1, 1), 1)
    x, kernel, g = draw((8, 5, 5, 6), (3, 3, 6, 12), (8, 5, 5, 12))
    maps = partial(three_maps, batched, shape=shape)
    assert "scan[" not in str(jax.make_jaxpr(maps)(x, kernel, g))


@pytest.mark.parametrize("window", [1, 3])
def test_a_batch_may_be_empty(window):
    x, kernel = draw((0, 8, 8, 32), (window, window, 32, 40))
    pad = (window // 2, window // 2)
    assert conv(x, kernel, strides=(1, 1), padding=pad).shape == (0, 8, 8, 40)


@pytest.mark.parametrize(("features", "groups"), [(32, 1), (32, 2)])
def test_filtering_at_once_rounds_little(features, groups):
    shape = conv_native.Geometry((8, 8), (3, 3), (1, 1), (1, 1), groups)
    assert conv_cpu._is_batched(shape, features, features)
    image = (4, 8, 8, features)
    arrays = draw(image, (3, 3, features // groups, features), image)
    made = cpu_maps(*(a.astype(jnp.float32) for a in arrays), shape=shape)
    for ours, exact in zip(made, native_maps(*arrays, shape), strict=True):
        assert jnp.linalg.norm(ours - exact) < 1e-5 * jnp.linalg.norm(exact)


@pytest.mark.parametrize("rows", range(1, 10))
@pytest.mark.parametrize("least", [1, 256])  # m = 2, 3 or 4; m = 2
def test_filtering_tiles_every_number_of_outputs(rows, least, monkeypatch):
    """A product of `rows` by 17 - `rows` outputs: all sizes up to 16."""
    monkeypatch.setattr(conv_cpu, "_THICK", 1)
    monkeypatch.setattr(winograd, "_ROWS", least)
    size = 2 * rows, 2 * (17 - rows)
    shape = conv_native.Geometry(size, (4, 4), (2, 2), (1, 1))
    assert conv_cpu._is_winograd(shape, 3, 4)
    x, kernel, g = draw((2, *size, 3), (4, 4, 3, 4), (2, *shape.output, 4))
    made = cpu_maps(x, kernel, g, shape=shape)
    for ours, native in zip(made, native_maps(x, kernel, g, shape), strict=True):
        close(ours, native)


def test_all_three_ways_of_the_cpu_are_among_the_geometries(monkeypatch):
    monkeypatch.setattr(conv_cpu, "_THICK", 1)
    shapes = [conv_native.Geometry(*each) for each in GEOMETRIES.values()]
    ways = {
        (conv_cpu._is_tiled(shape), conv_cpu._is_winograd(shape, 3, 4), conv_cpu._tiling(shape))
        for shape in shapes
    }
    assert {way[:2] for way in ways} == {(False, False), (True, False), (True, True)}
    outputs = [shape.output for shape in shapes if conv_cpu._is_winograd(shape, 3, 4)]
    assert {n % 2 for output in outputs for n in output} == {0, 1}  # with partners and without


@pytest.mark.parametrize(("batch", "products_of_one", "worse"), [(64, 81, 7), (63, 121, 2)])
def test_filtering_multiplies_less_and_rounds_little(batch, products_of_one, worse):
    """A layer of the 28-pixel DCGAN at half width, in float32, with errors against float64.

    It takes 81 products instead of 196. With few examples the matrices are small, so it takes 121
    products in a shorter program, with the rounding errors of the direct form.
    """
    size, window, strides, padding = (14, 14), (4, 4), (2, 2), (1, 1)
    shape = conv_native.Geometry(size, window, strides, padding)
    x, kernel, g = draw((batch, *size, 32), (*window, 32, 64), (batch, 7, 7, 64))
    loops = (np.asarray(kernel), strides, padding)
    for name, inputs, exact in (
        ("forward", (x, kernel), conv_by_loops(np.asarray(x), *loops)),
        ("input_gradient", (g, kernel), conv_transpose_by_loops(np.asarray(g), *loops)),
        ("kernel_gradient", (x, g), jitted(conv_native, "kernel_gradient")(x, g, shape)),
    ):
        single = [a.astype(jnp.float32) for a in inputs]
        ours, native = (
            jnp.linalg.norm(jitted(form, name)(*single, shape) - exact)
            for form in (conv_cpu, conv_native)
        )
        assert ours < worse * native
        assert ours < 2e-6 * jnp.linalg.norm(exact)
        products = jax.make_jaxpr(lambda *pair, name=name: getattr(conv_cpu, name)(*pair, shape))(
            *single
        ).eqns
        multiplied = sum(
            np.prod(eqn.outvars[0].aval.shape)
            * eqn.invars[1].aval.shape[eqn.params["dimension_numbers"][0][1][0]]
            for eqn in products
            if eqn.primitive.name == "dot_general"
        )
        assert multiplied == batch * products_of_one * 128 * 64


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("function", [conv, conv_transpose])
def test_only_the_cpu_is_given_matrix_products(platform, function):
    """If the strides divide the window, two of the three maps compile without any convolution."""
    (x, kernel), options = arguments(function, "halving")
    traced = jax.jit(jax.grad(lambda w: jnp.sum(jnp.sin(function(x, w, **options))))).trace(kernel)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    products, convolutions = (
        text.count(f"stablehlo.{op}") for op in ("dot_general", "convolution")
    )
    assert (products, convolutions) == ((2, 0) if platform == "cpu" else (0, 2))


def test_a_materialised_array_keeps_its_bits():
    odd = [0.0, -0.0, np.inf, -np.inf, np.nan, 2e-38, 3e38, 1 / 3]
    x = np.array(odd * 8, np.float32).reshape(8, 8)
    once = jax.jit(materialised)(x)
    assert once.dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(once).view(np.uint32), x.view(np.uint32))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of the compiler for CPUs")
def test_rows_of_tiles_are_written_down_before_their_sums_read_them():
    """The factors must not repeat the transposition of the pixels.

    Otherwise a DCGAN step takes 1.2 times as long. One of five rows of factors comes from complete
    tiles only.
    """
    x, kernel = (array.astype(jnp.float32) for array in draw((64, 14, 14, 64), (4, 4, 64, 128)))
    geometry = conv_native.Geometry((14, 14), (4, 4), (2, 2), (1, 1))
    text = jitted(conv_cpu, "forward").lower(x, kernel, geometry).compile().as_text()
    moves = [
        shape
        for computation in text.split("\n\n")
        for shape in ("f32[64,2,8,2,2,64]", "f32[64,1,8,2,2,64]")
        if shape in computation and " transpose(" in computation
    ]
    assert sorted(moves) == ["f32[64,1,8,2,2,64]"] + 4 * ["f32[64,2,8,2,2,64]"]

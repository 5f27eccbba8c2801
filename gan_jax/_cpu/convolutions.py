"""The three maps of a strided convolution as matrix products, which are fast on a CPU.

A window is the part of the image under the kernel. Most of these forms apply if the stride is above
1 and divides the size of the window, as 2x2 divides 4x4. The image is then cut into *tiles* of
stride x stride pixels, and every window covers whole tiles. The strided convolution over pixels
becomes a convolution with stride 1 over tiles. That convolution is computed in one of two ways:

*Windows*: each row of a matrix holds the tiles of one window, and the matrix is multiplied by the
kernel.

*Winograd's minimal filtering* (see `winograd`): this method is for windows of 2x2 tiles. A row and
a column of zeros make a 3x3 kernel with stride 2 a kernel of 2x2 tiles.

Windows of 3x3 pixels with stride 1, with or without groups, are filtered by `batched`. A 1x1
convolution with stride 1, without padding or groups, is one matrix product of all pixels. All other
convolutions are computed as in `conv_native`. The modules `winograd` and `batched` also use the
word tiles, but for groups of outputs.
"""

import itertools
from collections.abc import Callable
from functools import reduce, wraps

import jax.numpy as jnp

from gan_jax._cpu import batched, winograd
from gan_jax._cpu.arrays import materialised
from gan_jax._cpu.winograd import place, together
from gan_jax.nn import conv_native
from gan_jax.nn.conv_native import Geometry, Pair
from gan_jax.types import Array

_THICK = 32
"""The smallest number of input features, and of output features, for which Winograd's method is
used. With fewer features, the other method (*windows*) is faster."""

_THIN = 8
"""The same number for one group of several."""


def _at_least_single(function: Callable[..., Array]) -> Callable[[Array, Array, Geometry], Array]:
    """Returns a version of the function that computes in float32 if the arrays have half precision.

    A CPU has no faster way to multiply half-precision arrays.
    """

    @wraps(function)
    def widened(x: Array, y: Array, geometry: Geometry) -> Array:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return function(x.astype(wide), y.astype(wide), geometry).astype(x.dtype)

    return widened


@_at_least_single
def forward(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the same as `conv_native.forward`, up to rounding."""
    if _is_nearly_winograd(geometry, *kernel.shape[2:]):
        return materialised(forward(materialised(x), _whole_kernel(kernel), _whole(geometry)))
    if _is_winograd(geometry, *kernel.shape[2:]):
        axes = _axes(x, geometry)
        taps = winograd.taps(_tile_kernel(kernel, geometry), axes)
        products = _each(jnp.matmul, winograd.inputs(_pixels(x, geometry), axes), taps)
        return winograd.outputs(products, axes)
    if _is_batched(geometry, x.shape[3], kernel.shape[3]):
        return batched.forward(x, kernel, geometry)
    if _is_pointwise(geometry):
        return _at_pixels(x, kernel[0, 0])
    if _is_tiled(geometry):
        windows, matrix = _windows(x, geometry), _tile_kernel(kernel, geometry)
        return windows @ matrix.reshape(-1, kernel.shape[3])
    return conv_native.forward(x, kernel, geometry)


@_at_least_single
def input_gradient(g: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the same as `conv_native.input_gradient`, up to rounding."""
    if _is_nearly_winograd(geometry, *kernel.shape[2:]):
        height, width = geometry.size
        made = input_gradient(materialised(g), _whole_kernel(kernel), _whole(geometry))
        return made[:, :height, :width]
    if _is_winograd(geometry, *kernel.shape[2:]):
        axes = _axes(g, geometry)
        taps = winograd.taps(_tile_kernel(kernel, geometry), axes)
        products = _each(lambda m, w: m @ w.T, winograd.outputs_transposed(g, axes), taps)
        return _tiles_transposed(winograd.inputs_transposed(products, axes), geometry)
    if _is_batched(geometry, g.shape[3], kernel.shape[2] * geometry.groups):
        return batched.input_gradient(g, kernel, geometry)
    if _is_pointwise(geometry):
        return _at_pixels(g, kernel[0, 0].T)
    if _is_tiled(geometry):
        matrix = _tile_kernel(kernel, geometry).reshape(-1, kernel.shape[3])
        return _windows_transposed(g @ matrix.T, geometry)
    return conv_native.input_gradient(g, kernel, geometry)


@_at_least_single
def kernel_gradient(x: Array, g: Array, geometry: Geometry) -> Array:
    """Returns the same as `conv_native.kernel_gradient`, up to rounding."""
    if _is_nearly_winograd(geometry, x.shape[3], g.shape[3]):
        return kernel_gradient(materialised(x), materialised(g), _whole(geometry))[:3, :3]

    # XLA computes g.T @ x twice as fast as x.T @ g.
    def product(x: Array, g: Array) -> Array:
        return g.reshape(-1, g.shape[-1]).T @ x.reshape(-1, x.shape[-1])

    if _is_winograd(geometry, x.shape[3], g.shape[3]):
        axes = _axes(x, geometry)
        factors = winograd.inputs(_pixels(x, geometry), axes)
        products = _each(product, factors, winograd.outputs_transposed(g, axes))
        # The sums are transposed here, because transposing each product would take longer.
        tiles = winograd.taps_transposed(products, axes).swapaxes(2, 3)
        return _kernel_of_tiles(tiles, geometry)
    if _is_batched(geometry, x.shape[3], g.shape[3]):
        return batched.kernel_gradient(x, g, geometry)
    if _is_pointwise(geometry):
        return product(x, g).T[None, None]
    if _is_tiled(geometry):
        return _kernel_of_tiles(product(_windows(x, geometry), g).T, geometry)
    if geometry.groups > 1:
        return conv_native.kernel_gradient(x, g, geometry)
    return conv_native.canonical_kernel_gradient(x, g, geometry)


def _is_pointwise(geometry: Geometry) -> bool:
    """Returns whether the convolution multiplies every pixel by one matrix."""
    return geometry[1:] == ((1, 1), (1, 1), (0, 0), 1)


def _at_pixels(x: Array, matrix: Array) -> Array:
    """Returns the product of each pixel's features and the matrix."""
    # XLA takes three times as long for the product of an array [B, H, W, I] and a matrix.
    return (x.reshape(-1, x.shape[3]) @ matrix).reshape(*x.shape[:3], matrix.shape[1])


def _is_batched(geometry: Geometry, *features: int) -> bool:
    least = _THICK if geometry.groups == 1 else _THIN * geometry.groups
    return batched.applies(geometry) and min(features) >= least


def _is_tiled(geometry: Geometry) -> bool:
    # With stride 1, a tile is one pixel, and XLA's own convolution is faster than windows.
    if geometry.groups > 1 or geometry.strides == (1, 1):
        return False
    return all(k % s == 0 for k, s in zip(geometry.window, geometry.strides, strict=True))


def _is_winograd(geometry: Geometry, *features: int) -> bool:
    return _is_tiled(geometry) and _tiling(geometry) == (2, 2) and min(features) >= _THICK


def _is_nearly_winograd(geometry: Geometry, *features: int) -> bool:
    """Returns whether zeros make the window one of 2x2 tiles, and Winograd's method is used.

    Callers materialise x and g, because XLA would repeat the operations before the convolution,
    such as a blur, for each product.
    """
    nearly = (geometry.window, geometry.strides) == ((3, 3), (2, 2))
    return nearly and _is_winograd(_whole(geometry), *features)


def _whole(geometry: Geometry) -> Geometry:
    """Returns the geometry with 4x4 windows. Their last row and column meet zeros of the kernel."""
    height, width = (
        2 * n + 2 - 2 * p for n, p in zip(geometry.output, geometry.padding, strict=True)
    )
    return geometry._replace(size=(height, width), window=(4, 4))


def _whole_kernel(kernel: Array) -> Array:
    """Returns a kernel [3, 3, I, O] as [4, 4, I, O]."""
    return place(place(kernel, 0, 0, 4), 1, 0, 4)


def _axes(x: Array, geometry: Geometry) -> winograd.Axes:
    return winograd.axes_of(x.shape[0], *geometry.output)


def _each(
    function: Callable[[Array, Array], Array], left: winograd.Factors, right: winograd.Factors
) -> winograd.Factors:
    return [
        [function(a, b) for a, b in zip(*rows, strict=True)]
        for rows in zip(left, right, strict=True)
    ]


# Tiles


def _tiling(geometry: Geometry) -> Pair:
    """Returns the number of tiles in a window, along height and width."""
    (kh, kw), (sh, sw) = geometry.window, geometry.strides
    return kh // sh, kw // sw


def _tile_counts(geometry: Geometry) -> Pair:
    """Returns the number of rows and columns of tiles that the windows cover."""
    (h, w), (mh, mw) = geometry.output, _tiling(geometry)
    return h + mh - 1, w + mw - 1


def _pixels(x: Array, geometry: Geometry) -> Array:
    """Returns an image [B, H, W, I] cut into tiles: [B, rows, stride, columns, stride, I]."""
    (sh, sw), (rows, columns) = geometry.strides, _tile_counts(geometry)
    for axis, p, n in zip((1, 2), geometry.padding, (rows * sh, columns * sw), strict=True):
        x = place(x, axis, p, n)
    return x.reshape(-1, rows, sh, columns, sw, x.shape[3])


def _tiles(x: Array, geometry: Geometry) -> Array:
    """Returns the tiles [B, rows, columns, stride * stride * I] of an image [B, H, W, I]."""
    return together(_pixels(x, geometry))


def _tiles_transposed(tiles: Array, geometry: Geometry) -> Array:
    """Returns the image [B, H, W, I] made of tiles [B, rows, columns, stride * stride * I]."""
    (sh, sw), (rows, columns) = geometry.strides, _tile_counts(geometry)
    x = tiles.reshape(-1, rows, columns, sh, sw, tiles.shape[3] // (sh * sw))
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows * sh, columns * sw, x.shape[5])
    for axis, p, n in zip((1, 2), geometry.padding, geometry.size, strict=True):
        x = place(x, axis, -p, n)
    return materialised(x)


def _tile_kernel(kernel: Array, geometry: Geometry) -> Array:
    """Returns a kernel [kh, kw, I, O] as [tiles down, tiles across, stride * stride * I, O]."""
    (sh, sw), (mh, mw) = geometry.strides, _tiling(geometry)
    split = kernel.reshape(mh, sh, mw, sw, *kernel.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
    return split.reshape(mh, mw, -1, kernel.shape[3])


def _kernel_of_tiles(tiles: Array, geometry: Geometry) -> Array:
    """Returns the kernel [kh, kw, I, O] whose `_tile_kernel` is `tiles` [..., O]."""
    split = tiles.reshape(*_tiling(geometry), *geometry.strides, -1, tiles.shape[-1])
    return split.transpose(0, 2, 1, 3, 4, 5).reshape(*geometry.window, -1, tiles.shape[-1])


# By windows


def _windows(x: Array, geometry: Geometry) -> Array:
    """Returns the windows [B, h, w, tiles * stride * stride * I] of an image [B, H, W, I]."""
    tiles, (h, w) = _tiles(x, geometry), geometry.output
    return jnp.concatenate([tiles[:, i : i + h, j : j + w] for i, j in _corners(geometry)], axis=3)


def _windows_transposed(windows: Array, geometry: Geometry) -> Array:
    """Returns the transpose of `_windows` applied to windows: a sum [B, H, W, I] over windows."""
    rows, columns = _tile_counts(geometry)
    parts = jnp.split(windows, len(_corners(geometry)), axis=3)
    tiles = reduce(
        jnp.add,
        (
            place(place(part, 1, i, rows), 2, j, columns)
            for part, (i, j) in zip(parts, _corners(geometry), strict=True)
        ),
    )
    return _tiles_transposed(tiles, geometry)


def _corners(geometry: Geometry) -> list[Pair]:
    """Returns the row and column of each tile within a window."""
    mh, mw = _tiling(geometry)
    return list(itertools.product(range(mh), range(mw)))

"""The three maps of a strided convolution as matrix products: what a CPU is fast at.

Where the strides divide the window, as 2x2 divides 4x4, a window is made of whole *tiles* of
stride x stride pixels, and the maps are those of an ordinary convolution over tiles: windows
share tiles, not pixels. Two ways to write that one, chosen by shape:

*By windows.* Every window of tiles side by side in a matrix, times the kernel.

*By Winograd's minimal filtering* (Winograd 1980; Lavin and Gray 2016), where a window is 2x2
tiles. Along one axis an output is y_p = x_p w_0 + x_{p+1} w_1, and two neighbours share x_{p+1},
so three products give them both instead of four:

    m_0 = (x_0 - x_1) w_0    m_1 = x_1 (w_0 + w_1)    m_2 = (x_2 - x_1) w_1
    y_0 = m_0 + m_1          y_1 = m_1 + m_2

over both axes nine for sixteen, where x, w and m are matrices: it is the multiplications that are
saved, 1.6 to 1.8 times. Sums and differences are its only constants, so that its rounding error
is that of the plain way. The maps are each other's transposes, and so are the lines of this file.
"""

import itertools
from collections.abc import Callable
from functools import reduce, wraps
from typing import Any

import jax
import jax.numpy as jnp

from gan_jax.models import conv_native
from gan_jax.models.conv_native import Geometry, Pair
from gan_jax.types import Array

_THICK = 32
"""Features on either side from which the products are worth Winograd's additions."""


def _at_least_single(function: Callable[..., Array]) -> Callable[[Array, Array, Geometry], Array]:
    """Half-precision arrays go through float32: a CPU has no faster way to multiply them."""

    @wraps(function)
    def widened(x: Array, y: Array, geometry: Geometry) -> Array:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return function(x.astype(wide), y.astype(wide), geometry).astype(x.dtype)

    return widened


@_at_least_single
def forward(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """As `conv_native.forward`."""
    if _is_winograd(geometry, *kernel.shape[2:]):
        products = _each(jnp.matmul, _inputs(x, geometry), _taps(_tile_kernel(kernel, geometry)))
        return _outputs(products)
    if _is_tiled(geometry):
        windows, matrix = _windows(x, geometry), _tile_kernel(kernel, geometry)
        return windows @ matrix.reshape(-1, kernel.shape[3])
    return conv_native.forward(x, kernel, geometry)


@_at_least_single
def input_gradient(g: Array, kernel: Array, geometry: Geometry) -> Array:
    """As `conv_native.input_gradient`."""
    if _is_winograd(geometry, *kernel.shape[2:]):
        taps = _taps(_tile_kernel(kernel, geometry))
        products = _each(lambda m, w: m @ w.T, _outputs_transposed(g), taps)
        return _inputs_transposed(products, geometry)
    if _is_tiled(geometry):
        matrix = _tile_kernel(kernel, geometry).reshape(-1, kernel.shape[3])
        return _windows_transposed(g @ matrix.T, geometry)
    return conv_native.input_gradient(g, kernel, geometry)


@_at_least_single
def kernel_gradient(x: Array, g: Array, geometry: Geometry) -> Array:
    """As `conv_native.kernel_gradient`.

    With g on the left, transposed: XLA multiplies by a tall transposed x at half the speed.
    """

    def product(x: Array, g: Array) -> Array:
        return (g.reshape(-1, g.shape[-1]).T @ x.reshape(-1, x.shape[-1])).T

    if _is_winograd(geometry, x.shape[3], g.shape[3]):
        products = _each(product, _inputs(x, geometry), _outputs_transposed(g))
        return _kernel_of_tiles(_taps_transposed(products), geometry)
    if _is_tiled(geometry):
        return _kernel_of_tiles(product(_windows(x, geometry), g), geometry)
    return conv_native.canonical_kernel_gradient(x, g, geometry)


def _is_tiled(geometry: Geometry) -> bool:
    return all(k % s == 0 for k, s in zip(geometry.window, geometry.strides, strict=True))


def _is_winograd(geometry: Geometry, *features: int) -> bool:
    return _is_tiled(geometry) and _tiling(geometry) == (2, 2) and min(features) >= _THICK


# Tiles


def _tiling(geometry: Geometry) -> Pair:
    """Tiles in a window."""
    (kh, kw), (sh, sw) = geometry.window, geometry.strides
    return kh // sh, kw // sw


def _tile_counts(geometry: Geometry) -> Pair:
    """Rows and columns of the tiles that windows reach."""
    (h, w), (mh, mw) = geometry.output, _tiling(geometry)
    return h + mh - 1, w + mw - 1


def _tiles(x: Array, geometry: Geometry) -> Array:
    """[B, H, W, I] -> [B, rows, columns, stride * stride * I]."""
    (sh, sw), (rows, columns) = geometry.strides, _tile_counts(geometry)
    for axis, p, n in zip((1, 2), geometry.padding, (rows * sh, columns * sw), strict=True):
        x = _place(x, axis, p, n)
    x = x.reshape(-1, rows, sh, columns, sw, x.shape[3]).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(*x.shape[:3], -1)


def _tiles_transposed(tiles: Array, geometry: Geometry) -> Array:
    """Back to pixels: [B, rows, columns, stride * stride * I] -> [B, H, W, I]."""
    (sh, sw), (rows, columns) = geometry.strides, _tile_counts(geometry)
    x = tiles.reshape(-1, rows, columns, sh, sw, tiles.shape[3] // (sh * sw))
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows * sh, columns * sw, x.shape[5])
    for axis, p, n in zip((1, 2), geometry.padding, geometry.size, strict=True):
        x = _place(x, axis, -p, n)
    return x


def _tile_kernel(kernel: Array, geometry: Geometry) -> Array:
    """[kh, kw, I, O] -> [tiles down, tiles across, stride * stride * I, O]."""
    (sh, sw), (mh, mw) = geometry.strides, _tiling(geometry)
    split = kernel.reshape(mh, sh, mw, sw, *kernel.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
    return split.reshape(mh, mw, -1, kernel.shape[3])


def _kernel_of_tiles(tiles: Array, geometry: Geometry) -> Array:
    """[..., O], in the order of `_tile_kernel` -> [kh, kw, I, O]."""
    split = tiles.reshape(*_tiling(geometry), *geometry.strides, -1, tiles.shape[-1])
    return split.transpose(0, 2, 1, 3, 4, 5).reshape(*geometry.window, -1, tiles.shape[-1])


# By windows


def _windows(x: Array, geometry: Geometry) -> Array:
    """[B, H, W, I] -> [B, h, w, tiles * stride * stride * I]."""
    tiles, (h, w) = _tiles(x, geometry), geometry.output
    return jnp.concatenate([tiles[:, i : i + h, j : j + w] for i, j in _corners(geometry)], axis=3)


def _windows_transposed(windows: Array, geometry: Geometry) -> Array:
    """Adds up the tiles that windows share: [B, h, w, tiles * s * s * I] -> [B, H, W, I]."""
    rows, columns = _tile_counts(geometry)
    parts = jnp.split(windows, len(_corners(geometry)), axis=3)
    tiles = reduce(
        jnp.add,
        (
            _place(_place(part, 1, i, rows), 2, j, columns)
            for part, (i, j) in zip(parts, _corners(geometry), strict=True)
        ),
    )
    return _tiles_transposed(tiles, geometry)


def _corners(geometry: Geometry) -> list[Pair]:
    """Where each tile of a window lies in it."""
    mh, mw = _tiling(geometry)
    return list(itertools.product(range(mh), range(mw)))


# By Winograd's minimal filtering. Arrays for m_0, m_1, m_2 down and across: three lists of three.

Nine = list[list[Array]]


def _each(function: Callable[[Array, Array], Array], left: Nine, right: Nine) -> Nine:
    return [
        [function(a, b) for a, b in zip(*rows, strict=True)]
        for rows in zip(left, right, strict=True)
    ]


def _inputs(x: Array, geometry: Geometry) -> Nine:
    """The factors made of x. Of an odd number of outputs the last has no partner, and no m_2."""

    def along(x: Array, axis: int) -> list[Array]:
        even, odd = _split(x, axis)
        pairs, whole_pairs = odd.shape[axis], even.shape[axis] - 1
        last = _place(even, axis, -1, whole_pairs) - _place(odd, axis, 0, whole_pairs)
        return [_place(even, axis, 0, pairs) - odd, odd, last]

    return [along(rows, 2) for rows in along(_tiles(x, geometry), 1)]


def _inputs_transposed(factors: Nine, geometry: Geometry) -> Array:
    def along(factors: list[Array], axis: int) -> Array:
        first, middle, last = factors
        pairs, whole_pairs = first.shape[axis], last.shape[axis]
        even = _place(first, axis, 0, whole_pairs + 1) + _place(last, axis, 1, whole_pairs + 1)
        return _weave(even, middle - first - _place(last, axis, 0, pairs), axis)

    return _tiles_transposed(along([along(row, 2) for row in factors], 1), geometry)


def _taps(kernel: Array) -> Nine:
    """The factors made of a kernel of 2x2 tiles."""

    def along(taps: Any) -> list[Array]:
        return [taps[0], taps[0] + taps[1], taps[1]]

    return [along(rows) for rows in along(kernel)]


def _taps_transposed(factors: Nine) -> Array:
    def along(factors: list[Array]) -> Array:
        first, middle, last = factors
        return jnp.stack([first + middle, middle + last])

    return along([along(row) for row in factors])


def _outputs(products: Nine) -> Array:
    """y [B, h, w, O] of m."""

    def along(products: list[Array], axis: int) -> Array:
        first, middle, last = products
        return _weave(first + middle, _place(middle, axis, 0, last.shape[axis]) + last, axis)

    return along([along(row, 2) for row in products], 1)


def _outputs_transposed(g: Array) -> Nine:
    def along(g: Array, axis: int) -> list[Array]:
        even, odd = _split(g, axis)
        return [even, even + _place(odd, axis, 0, even.shape[axis]), odd]

    return [along(rows, 2) for rows in along(g, 1)]


def _split(x: Array, axis: int) -> tuple[Array, Array]:
    """Every other slice: those at even and those at odd places."""
    even, odd = (jax.lax.slice_in_dim(x, first, x.shape[axis], 2, axis=axis) for first in (0, 1))
    return even, odd


def _weave(even: Array, odd: Array, axis: int) -> Array:
    """The inverse of `_split`."""
    n, pairs = even.shape[axis] + odd.shape[axis], even.shape[axis]
    both = jnp.stack([even, _place(odd, axis, 0, pairs)], axis + 1)
    shape = (*even.shape[:axis], 2 * pairs, *even.shape[axis + 1 :])
    return _place(both.reshape(shape), axis, 0, n)


def _place(x: Array, axis: int, start: int, length: int) -> Array:
    """x as a part of `length` zeros along an axis, from `start` on, cut where it does not fit."""
    margins = [(0, 0, 0)] * x.ndim
    margins[axis] = (start, length - start - x.shape[axis], 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), margins)

"""Winograd's minimal filtering for 3x3 windows with stride 1, as one batched matrix product.

The method is that of `winograd`, with three kernel elements instead of two. A tile of 4x4 outputs
comes from 6x6 inputs and needs 36 products instead of 144. In float32 the rounding error is about
3e-6 of the result.

Here the factors (the transformed tiles and kernels) are stacked in one array, and every step
handles all of them at once. The program is short, which matters because a modern network has dozens
of these convolutions. Large batches are computed in chunks of examples, so that the factors of a
chunk stay in the processor's cache.

The features may be split into groups, as in `conv_native`. Factors and products have the axes
[products across, groups, products down, rows, features of a group], with one row for each tile of
each example.
"""

import math
from collections.abc import Callable
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax._cpu import winograd
from gan_jax._cpu.arrays import materialised
from gan_jax._cpu.winograd import place
from gan_jax.nn import conv_native
from gan_jax.nn.conv_native import Geometry, Pair
from gan_jax.types import Array

_TILE, _TAPS = 4, 3
"""The numbers of outputs of a tile and of kernel elements, along each axis."""

_CHUNK = 2**22
"""Bytes of input that a chunk of examples has at most. The factors take about twice as many."""

_SUMMED = 16
"""Largest number of input features of a group for which products are written as sums."""

_COEFFICIENTS = winograd.coefficients(_TILE, _TAPS)


def applies(geometry: Geometry) -> bool:
    """Returns whether the method applies and the image fills at least one tile."""
    window, stride_1 = (_TAPS, _TAPS), (1, 1)
    fits = geometry.window == window and geometry.strides == stride_1
    return fits and min(*geometry.size, *geometry.output) >= _TILE


def forward(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the same as `conv_native.forward`, up to rounding."""
    taps = materialised(_taps(kernel, geometry.groups))

    def chunk(x: Array) -> Array:
        factors = _inputs(x, geometry.padding, geometry.output, geometry.groups)
        return _outputs(_product(factors, taps), x, geometry.output)

    y = _chunks(chunk, x)
    return y.reshape(x.shape[0], *y.shape[2:])


def input_gradient(g: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the same as `conv_native.input_gradient`, up to rounding."""
    rows, columns = (_TAPS - 1 - p for p in geometry.padding)
    transposed = geometry._replace(size=geometry.output, padding=(rows, columns))
    kernel = materialised(conv_native.transposed_kernel(kernel, geometry.groups))
    return forward(g, kernel, transposed)


def kernel_gradient(x: Array, g: Array, geometry: Geometry) -> Array:
    """Returns the same as `conv_native.kernel_gradient`, up to rounding."""

    def chunk(x: Array, g: Array) -> Array:
        factors = _inputs(x, geometry.padding, geometry.output, geometry.groups)
        return jnp.einsum("...ni,...no->...io", factors, _outputs_transposed(g, geometry.groups))

    return _taps_transposed(_chunks(chunk, x, g).sum(axis=0))


def _chunks(function: Callable[..., Array], x: Array, *others: Array) -> Array:
    """Returns the results for chunks of examples, stacked along a new first axis."""
    count, size = x.shape[0], x.nbytes
    # A batch that is split over devices is not cut again: each device would compute all chunks.
    while size > _CHUNK and count % 2 == 0 and jax.device_count() == 1:
        count, size = count // 2, size // 2
    if count == x.shape[0]:
        return function(x, *others)[None]
    split = [a.reshape(-1, count, *a.shape[1:]) for a in (x, *others)]
    return jax.lax.map(lambda chunk: function(*chunk), split)


def _product(factors: Array, taps: Array) -> Array:
    """Returns the matrix products factors @ taps."""
    features = factors.shape[-1]
    if features > _SUMMED:
        return factors @ taps
    # XLA fuses the sum into one loop, which is faster than a call for each small product.
    terms = (factors[..., i : i + 1] * taps[..., i : i + 1, :] for i in range(features))
    return materialised(reduce(jnp.add, terms))


def _inputs(x: Array, padding: Pair, output: Pair, groups: int) -> Array:
    down, across = (-(-n // _TILE) for n in output)
    x = place(_split(x, groups), 2, padding[0], _TILE * down + _TAPS - 1)
    x = place(x, 3, padding[1], _TILE * across + _TAPS - 1)
    return _factors(x, _COEFFICIENTS.inputs, (down, across))


def _taps(kernel: Array, groups: int) -> Array:
    weights, kernel = _COEFFICIENTS.taps, _split(kernel, groups)  # [groups, 3, 3, I, O]
    rows = materialised(_sums(weights, [kernel[:, k] for k in range(_TAPS)], 1))
    return _sums(weights, [rows[:, :, k] for k in range(_TAPS)], 0)


def _taps_transposed(products: Array) -> Array:
    weights = _COEFFICIENTS.taps.T
    rows = materialised(_sums(weights, list(products), 2))  # [groups, products, 3, I, O]
    kernel = _sums(weights, [rows[:, k] for k in range(rows.shape[1])], 0)
    return _together(kernel.swapaxes(0, 1))


def _outputs(products: Array, x: Array, output: Pair) -> Array:
    """Returns y [B, h, w, O] for the batch size of x."""
    down, across = (-(-n // _TILE) for n in output)
    shape = (*products.shape[:3], x.shape[0], down, across, products.shape[-1])
    weights, products = _COEFFICIENTS.outputs, products.reshape(shape)
    rows = materialised(_sums(weights, list(products), 5))  # [groups, products, B, d, a, 4, O]
    rows = jnp.moveaxis(rows, 0, -2)
    y = _sums(weights, list(rows), 2)  # [B, d, 4, a, 4, groups, O]
    y = y.reshape(x.shape[0], _TILE * down, _TILE * across, y.shape[-2] * y.shape[-1])
    return y[:, : output[0], : output[1]]


def _outputs_transposed(g: Array, groups: int) -> Array:
    down, across = (-(-n // _TILE) for n in g.shape[1:3])
    g = place(place(_split(g, groups), 2, 0, _TILE * down), 3, 0, _TILE * across)
    return _factors(g, _COEFFICIENTS.outputs.T, (down, across))


def _factors(x: Array, weights: np.ndarray, tiles: Pair) -> Array:
    """Returns the sums of pixels of all tiles, given images [groups, B, H, W, features]."""
    # Groups are made contiguous first, because the sums read every pixel several times.
    x, count = materialised(x), weights.shape[1]
    rows = materialised(_sums(weights, [_every(x, 2, k, tiles[0]) for k in range(count)], 1))
    factors = _sums(weights, [_every(rows, 4, k, tiles[1]) for k in range(count)], 0)
    return factors.reshape(*factors.shape[:3], math.prod(factors.shape[3:-1]), factors.shape[-1])


def _sums(weights: np.ndarray, arrays: list[Array], axis: int) -> Array:
    """Returns one weighted sum of the arrays for each row of weights, stacked along the axis."""
    shape = [1] * (arrays[0].ndim + 1)
    shape[axis] = len(weights)
    columns = jnp.asarray(weights.T, arrays[0].dtype).reshape(-1, *shape)
    terms = [w * jnp.expand_dims(a, axis) for w, a in zip(columns, arrays, strict=True)]
    return sum(terms[1:], terms[0])


def _every(x: Array, axis: int, start: int, count: int) -> Array:
    """Returns the slices `start`, `start` + 4, ... along the axis."""
    stop = start + _TILE * (count - 1) + 1
    return jax.lax.slice_in_dim(x, start, stop, _TILE, axis)


def _split(x: Array, groups: int) -> Array:
    """Returns an array [..., F] as [groups, ..., F / groups]."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups), -2, 0)


def _together(x: Array) -> Array:
    """Returns the inverse of `_split`."""
    x = jnp.moveaxis(x, 0, -2)
    return x.reshape(*x.shape[:-2], -1)

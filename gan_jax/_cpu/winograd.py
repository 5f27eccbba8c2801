"""Winograd's minimal filtering for convolutions with 2x2 windows and stride 1.

The method trades multiplications for additions (Winograd 1980; Lavin and Gray 2016). Along one axis
the convolution is

    y_p = x_p w_0 + x_{p+1} w_1

The outputs are cut into tiles of m outputs, and all tiles are computed at once. Therefore x_k and
y_k are matrices with one row for each tile of each example, and w_k is a matrix [I, O]. Each
multiplication is a matrix product, which costs far more than an addition.

For a tile, the direct formula needs 2 m products and Winograd's formula needs m + 1. For m = 2 the
three products q and the two outputs are

    q_0 = (x_0 - x_1) w_0    q_1 = x_1 (w_0 + w_1)    q_inf = (x_2 - x_1) w_1
    y_0 = q_0 + q_1          y_1 = q_1 + q_inf

Every such scheme has three linear maps. `inputs` computes the left factors from x. `taps` computes
the right factors from w. `outputs` computes y from the products q.

The scheme for any m takes m distinct numbers a_j, listed in `_POINTS`. L_j is the polynomial of
degree m - 1 that is 1 at a_j and 0 at the other points. P is the monic polynomial of degree m that
is 0 at all points. L_j(x) and P(x) are these polynomials with the input x_k in place of each power
t^k.

    q_j = L_j(x) (w_0 + a_j w_1)    q_inf = P(x) w_1
    y_p = sum_j a_j^p q_j, plus q_inf if p = m - 1

A convolution over height and width applies the scheme along both axes. With m = 4, a tile of 4x4
outputs then needs 25 products instead of 64. The rounding error is three to six times that of the
direct formula. In float32 it is about 1e-6 of the result. The gradients use the transposes of the
three maps.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import polynomial

from gan_jax._cpu.arrays import materialised
from gan_jax.types import Array

Factors = list[list[Array]]
"""A grid of factors or products. The first index is along the height, the second along the
width."""

_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)

_SIZES = range(2, 5)
"""The tile sizes m to choose from."""

_ROWS = 256
"""Minimum number of rows per factor for m above 2. With fewer rows, larger tiles are slower."""


class Coefficients(NamedTuple):
    """The coefficients of the three linear maps for one tile of m outputs.

    Attributes:
      inputs: [products, products], with one row per product and one column per input.
      taps: [products, window], with one row per product and one column per kernel element.
      outputs: [m, products], with one row per output and one column per product.
    """

    inputs: np.ndarray
    taps: np.ndarray
    outputs: np.ndarray


@functools.cache
def coefficients(m: int, window: int = 2) -> Coefficients:
    """Returns the coefficients for tiles of m outputs, each of which has `window` inputs.

    A window of more than two inputs needs more points: m + window - 2.
    """
    n = m + window - 2
    points = _POINTS[:n]
    inputs = np.zeros((n + 1, n + 1))
    for j, a in enumerate(points):
        others = [b for b in points if b != a]
        inputs[j, :n] = polynomial.polyfromroots(others) / math.prod(a - b for b in others)
    inputs[n] = polynomial.polyfromroots(points)
    taps = np.vstack([np.vander(points, window, increasing=True), np.eye(window)[-1]])
    outputs = np.vstack([np.vander(points, m, increasing=True), np.eye(m)[-1]]).T
    return Coefficients(inputs, taps, outputs)


class Axis(NamedTuple):
    """Tiles of m outputs that cover the n outputs along one axis.

    If m does not divide n, the last tile is incomplete. An incomplete tile lacks its last output.
    It therefore needs no product q_inf, which only the last output of a tile uses.
    """

    n: int
    m: int

    @property
    def tiles(self) -> int:
        """The number of tiles."""
        return -(-self.n // self.m)

    @property
    def whole(self) -> int:
        """The number of complete tiles."""
        return self.n // self.m

    @property
    def products(self) -> int:
        """The number of products of all tiles."""
        return self.m * self.tiles + self.whole


Axes = tuple[Axis, Axis]


def axes_of(batch: int, rows: int, columns: int) -> Axes:
    """Returns the tiles along height and width that need the fewest products.

    Sizes above 2 are considered only if each factor has at least `_ROWS` rows. Larger tiles also
    make a longer program, which takes more compile time and more memory.
    """

    def is_worth_it(m: int) -> bool:
        return batch * Axis(rows, m).tiles * Axis(columns, m).tiles >= _ROWS

    sizes = [m for m in _SIZES if m == min(_SIZES) or is_worth_it(m)]
    down, across = (
        min((Axis(n, m) for m in sizes), key=lambda axis: axis.products) for n in (rows, columns)
    )
    return down, across


def inputs(pixels: Array, axes: Axes) -> Factors:
    """Returns the left factors, each [B, tiles down, tiles across, I].

    `pixels[:, i, :, j]` is the input at position (i, j). The I numbers of this input are not
    contiguous in memory.

    Args:
      pixels: [B, h + 1, r, w + 1, s, J], where r s J = I.
      axes: the tiles along height and width.
    """
    # `together` materialises the result along the height. Otherwise XLA would compute this result
    # and the transposition again for every factor.
    return [_inputs(together(rows), 2, axes[1]) for rows in _inputs(pixels, 1, axes[0])]


def inputs_transposed(factors: Factors, axes: Axes) -> Array:
    """Returns the transpose of `inputs` applied to factors: a contiguous [B, h + 1, w + 1, I]."""
    return _inputs_transposed([_inputs_transposed(row, 2, axes[1]) for row in factors], 1, axes[0])


def taps(kernel: Array, axes: Axes) -> Factors:
    """Returns the right factors of a kernel [2, 2, ...], each [...]."""
    return [_taps(row, axes[1]) for row in _taps(kernel, axes[0])]


def taps_transposed(factors: Factors, axes: Axes) -> Array:
    """Returns the transpose of `taps` applied to factors: [2, 2, ...]."""
    return _taps_transposed([_taps_transposed(row, axes[1]) for row in factors], axes[0])


def outputs(products: Factors, axes: Axes) -> Array:
    """Returns y [B, h, w, O], given products of shape [B, tiles down, tiles across, O]."""
    return _outputs([_outputs(row, 2, axes[1]) for row in products], 1, axes[0])


def outputs_transposed(g: Array, axes: Axes) -> Factors:
    """Returns the transpose of `outputs` applied to g: [B, tiles down, tiles across, O] each."""
    return [_outputs_transposed(rows, 2, axes[1]) for rows in _outputs_transposed(g, 1, axes[0])]


# Along one axis


def _inputs(x: Array, axis: int, along: Axis) -> list[Array]:
    weights, m, whole = coefficients(along.m).inputs, along.m, along.whole
    touched = -(-x.shape[axis] // m)
    parts = _split(place(x, axis, 0, m * touched), axis, m)
    last = [*(place(part, axis, 0, whole) for part in parts), place(parts[0], axis, -1, whole)]
    parts = [place(part, axis, 0, along.tiles) for part in parts]
    return [*(_sum(row, parts) for row in weights[:m, :m]), _sum(weights[m], last)]


def _inputs_transposed(factors: list[Array], axis: int, along: Axis) -> Array:
    weights, m, size = coefficients(along.m).inputs, along.m, along.n + 1
    touched = -(-size // m)
    filled = [*factors[:m], place(factors[m], axis, 0, along.tiles)]
    parts = [place(_sum(weights[:, k], filled), axis, 0, touched) for k in range(m)]
    parts[0] = parts[0] + place(factors[m], axis, 1, touched)
    return place(_weave(parts, axis), axis, 0, size)


def _taps(kernel: Any, along: Axis) -> list[Array]:
    return [_sum(row, [kernel[0], kernel[1]]) for row in coefficients(along.m).taps]


def _taps_transposed(factors: list[Array], along: Axis) -> Array:
    return jnp.stack([_sum(column, factors) for column in coefficients(along.m).taps.T])


def _outputs(products: list[Array], axis: int, along: Axis) -> Array:
    weights, m = coefficients(along.m).outputs, along.m
    filled = [*products[:m], place(products[m], axis, 0, along.tiles)]
    return place(_weave([_sum(row, filled) for row in weights], axis), axis, 0, along.n)


def _outputs_transposed(g: Array, axis: int, along: Axis) -> list[Array]:
    weights, m = coefficients(along.m).outputs, along.m
    parts = _split(place(g, axis, 0, m * along.tiles), axis, m)
    factors = [_sum(column, parts) for column in weights.T]
    return [*factors[:m], place(factors[m], axis, 0, along.whole)]


# Arrays


def _sum(weights: np.ndarray, arrays: list[Array]) -> Array:
    """Returns the weighted sum, without multiplications by 0, 1 or -1."""
    total = None
    for weight, array in zip(weights.tolist(), arrays, strict=True):
        if weight:
            term = array if abs(weight) == 1 else abs(weight) * array
            if total is None:
                total = term if weight > 0 else -term
            else:
                total = total + term if weight > 0 else total - term
    assert total is not None
    return total


def _split(x: Array, axis: int, m: int) -> list[Array]:
    """Returns m arrays: array k holds the slices k, k + m, k + 2 m, ... along the axis."""
    return [jax.lax.slice_in_dim(x, k, x.shape[axis], m, axis=axis) for k in range(m)]


def _weave(parts: list[Array], axis: int) -> Array:
    """Returns the inverse of `_split`: one array with the slices in their original order."""
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return jnp.stack(parts, axis + 1).reshape(shape)


def place(x: Array, axis: int, start: int, length: int) -> Array:
    """Returns x shifted by `start` along the axis, zero-padded and cropped to `length`."""
    margins = [(0, 0, 0)] * x.ndim
    margins[axis] = (start, length - start - x.shape[axis], 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), margins)


def together(pixels: Array) -> Array:
    """Returns `pixels` [B, n, r, m, s, J] as an array [B, n, m, r s J] written to memory."""
    x = materialised(pixels.transpose(0, 1, 3, 2, 4, 5))
    return x.reshape(*x.shape[:3], math.prod(x.shape[3:]))

"""Convolutions with 2x2 windows by fewer multiplications (Winograd 1980; Lavin and Gray 2016).

Along one axis an output is y_p = x_p w_0 + x_{p+1} w_1, where x, w and y are matrices, so that it
is the multiplications that cost. m outputs are taken together, from m + 1 inputs. With m
numbers a_j, with L_j the polynomial that is 1 at a_j and 0 at the others, P that of degree m that
is 0 at all, and x_k in the place of the k-th power,

    m_j = L_j(x) (w_0 + a_j w_1)           m_inf = P(x) w_1
    y_p = sum_j a_j^p m_j, and for the last one m_inf besides

which are m + 1 products for 2 m. For m = 2 and a = 0, 1 they are

    m_0 = (x_0 - x_1) w_0    m_1 = x_1 (w_0 + w_1)    m_inf = (x_2 - x_1) w_1
    y_0 = m_0 + m_1          y_1 = m_1 + m_inf

Over both axes 25 products are left of 64 with m = 4, for three to six times the rounding error of
the plain way: some 1e-6 of the result in single precision. The maps come with their transposes,
which make the gradients.
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
"""One side of the products, or these themselves: by that along the height, then the width."""

_POINTS = (0.0, 1.0, -1.0, 2.0)

_SIZES = range(2, len(_POINTS) + 1)

_ROWS = 256
"""Of a matrix of inputs, from which on larger tiles are worth their smaller products."""


class _Coefficients(NamedTuple):
    """What belongs to the products of m outputs.

    Attributes:
      inputs: [m + 1, m + 1], a row for each product, a column for each input.
      taps: [m + 1, 2].
      outputs: [m, m + 1].
    """

    inputs: np.ndarray
    taps: np.ndarray
    outputs: np.ndarray


@functools.cache
def _coefficients(m: int) -> _Coefficients:
    points = _POINTS[:m]
    inputs = np.zeros((m + 1, m + 1))
    for j, a in enumerate(points):
        others = [b for b in points if b != a]
        inputs[j, :m] = polynomial.polyfromroots(others) / math.prod(a - b for b in others)
    inputs[m] = polynomial.polyfromroots(points)
    taps = np.vstack([np.vander(points, 2, increasing=True), [0.0, 1.0]])
    outputs = np.vstack([np.vander(points, m, increasing=True), np.eye(m)[-1]]).T
    return _Coefficients(inputs, taps, outputs)


class Axis(NamedTuple):
    """How n outputs along an axis are cut into tiles of m, of which the last may be longer than
    what is left. Only whole ones have a last product."""

    n: int
    m: int

    @property
    def tiles(self) -> int:
        """How many."""
        return -(-self.n // self.m)

    @property
    def whole(self) -> int:
        """How many of them are whole."""
        return self.n // self.m

    @property
    def products(self) -> int:
        """Of all tiles."""
        return self.m * self.tiles + self.whole


Axes = tuple[Axis, Axis]


def axes_of(batch: int, rows: int, columns: int) -> Axes:
    """The tiles with which the outputs take the fewest products, if these are not too small.

    More and smaller products are a longer program too, to compile, to load and to keep.
    """

    def is_worth_it(m: int) -> bool:
        return batch * Axis(rows, m).tiles * Axis(columns, m).tiles >= _ROWS

    sizes = [m for m in _SIZES if m == min(_SIZES) or is_worth_it(m)]
    down, across = (
        min((Axis(n, m) for m in sizes), key=lambda axis: axis.products) for n in (rows, columns)
    )
    return down, across


def inputs(pixels: Array, axes: Axes) -> Factors:
    """The factors made of x, each [B, tiles down, tiles across, I].

    An x[b, i, j] is a matrix, and has lain apart: `pixels` is [B, h + 1, r, w + 1, s, J], with
    r s J = I. Its parts are brought together once half of the work is done, and written down, so
    that neither that half nor the moving is done anew for each factor.
    """
    return [_inputs(together(rows), 2, axes[1]) for rows in _inputs(pixels, 1, axes[0])]


def inputs_transposed(factors: Factors, axes: Axes) -> Array:
    """The transpose of `inputs`, but that x [B, h + 1, w + 1, I] stays together."""
    return _inputs_transposed([_inputs_transposed(row, 2, axes[1]) for row in factors], 1, axes[0])


def taps(kernel: Array, axes: Axes) -> Factors:
    """The factors made of a kernel [2, 2, ...], each [...]."""
    return [_taps(row, axes[1]) for row in _taps(kernel, axes[0])]


def taps_transposed(factors: Factors, axes: Axes) -> Array:
    """The transpose of `taps`."""
    return _taps_transposed([_taps_transposed(row, axes[1]) for row in factors], axes[0])


def outputs(products: Factors, axes: Axes) -> Array:
    """y [B, h, w, O] of the products, each [B, tiles down, tiles across, O]."""
    return _outputs([_outputs(row, 2, axes[1]) for row in products], 1, axes[0])


def outputs_transposed(g: Array, axes: Axes) -> Factors:
    """The transpose of `outputs`."""
    return [_outputs_transposed(rows, 2, axes[1]) for rows in _outputs_transposed(g, 1, axes[0])]


# Along one axis


def _inputs(x: Array, axis: int, along: Axis) -> list[Array]:
    weights, m, whole = _coefficients(along.m).inputs, along.m, along.whole
    touched = -(-x.shape[axis] // m)
    parts = _split(place(x, axis, 0, m * touched), axis, m)
    last = [*(place(part, axis, 0, whole) for part in parts), place(parts[0], axis, -1, whole)]
    parts = [place(part, axis, 0, along.tiles) for part in parts]
    return [*(_sum(row, parts) for row in weights[:m, :m]), _sum(weights[m], last)]


def _inputs_transposed(factors: list[Array], axis: int, along: Axis) -> Array:
    weights, m, size = _coefficients(along.m).inputs, along.m, along.n + 1
    touched = -(-size // m)
    filled = [*factors[:m], place(factors[m], axis, 0, along.tiles)]
    parts = [place(_sum(weights[:, k], filled), axis, 0, touched) for k in range(m)]
    parts[0] = parts[0] + place(factors[m], axis, 1, touched)
    return place(_weave(parts, axis), axis, 0, size)


def _taps(kernel: Any, along: Axis) -> list[Array]:
    return [_sum(row, [kernel[0], kernel[1]]) for row in _coefficients(along.m).taps]


def _taps_transposed(factors: list[Array], along: Axis) -> Array:
    return jnp.stack([_sum(column, factors) for column in _coefficients(along.m).taps.T])


def _outputs(products: list[Array], axis: int, along: Axis) -> Array:
    weights, m = _coefficients(along.m).outputs, along.m
    filled = [*products[:m], place(products[m], axis, 0, along.tiles)]
    return place(_weave([_sum(row, filled) for row in weights], axis), axis, 0, along.n)


def _outputs_transposed(g: Array, axis: int, along: Axis) -> list[Array]:
    weights, m = _coefficients(along.m).outputs, along.m
    parts = _split(place(g, axis, 0, m * along.tiles), axis, m)
    factors = [_sum(column, parts) for column in weights.T]
    return [*factors[:m], place(factors[m], axis, 0, along.whole)]


# Arrays


def _sum(weights: np.ndarray, arrays: list[Array]) -> Array:
    """The weighted sum, with no more operations than it needs."""
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
    """Every m-th slice from the first on, from the second on, and so forth."""
    return [jax.lax.slice_in_dim(x, k, x.shape[axis], m, axis=axis) for k in range(m)]


def _weave(parts: list[Array], axis: int) -> Array:
    """The inverse of `_split`."""
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return jnp.stack(parts, axis + 1).reshape(shape)


def place(x: Array, axis: int, start: int, length: int) -> Array:
    """x as a part of `length` zeros along an axis, from `start` on, cut where it does not fit."""
    margins = [(0, 0, 0)] * x.ndim
    margins[axis] = (start, length - start - x.shape[axis], 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), margins)


def together(pixels: Array) -> Array:
    """[B, n, r, m, s, J] -> [B, n, m, r s J], written down."""
    x = materialised(pixels.transpose(0, 1, 3, 2, 4, 5))
    return x.reshape(*x.shape[:3], math.prod(x.shape[3:]))

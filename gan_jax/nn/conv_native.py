"""The three maps of a strided convolution, as the convolutions that XLA's compilers know."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gan_jax.types import Array

Pair = tuple[int, int]
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Geometry(NamedTuple):
    """Of a convolution x [B, H, W, I] -> [B, h, w, O]; all along height and width."""

    size: Pair  # H, W
    window: Pair
    strides: Pair
    padding: Pair  # zeros on both sides

    @property
    def output(self) -> Pair:
        """h, w."""
        h, w = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip(*self, strict=True))
        return h, w

    @property
    def unreached(self) -> Pair:
        """The rows and columns at the end that no window reaches."""
        rows, columns = ((n + 2 * p - k) % s for n, k, s, p in zip(*self, strict=True))
        return rows, columns


def forward(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """x [B, H, W, I], kernel [kh, kw, I, O] -> [B, h, w, O]."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        [(p, p) for p in geometry.padding],
        dimension_numbers=_DIMENSIONS,
    )


def input_gradient(g: Array, kernel: Array, geometry: Geometry) -> Array:
    """g [B, h, w, O], kernel [kh, kw, I, O] -> [B, H, W, I]: the transposed convolution."""
    edges = zip(geometry.window, geometry.padding, geometry.unreached, strict=True)
    return jax.lax.conv_general_dilated(
        g,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        [(k - 1 - p, k - 1 - p + r) for k, p, r in edges],
        lhs_dilation=geometry.strides,
        dimension_numbers=_DIMENSIONS,
    )


def kernel_gradient(x: Array, g: Array, geometry: Geometry) -> Array:
    """x [B, H, W, I], g [B, h, w, O] -> [kh, kw, I, O].

    As autodiff writes it, the form that GPU and TPU compilers look for.
    """
    return jax.lax.conv_general_dilated(
        x,
        g,
        (1, 1),
        _margins(geometry),
        rhs_dilation=geometry.strides,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
    )


def canonical_kernel_gradient(x: Array, g: Array, geometry: Geometry) -> Array:
    """The same in canonical layout, batch and features exchanged by hand.

    XLA's CPU backend makes this rewrite itself, but not inside a loop.
    """
    kernel = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        (1, 1),
        _margins(geometry),
        rhs_dilation=geometry.strides,
        dimension_numbers=_DIMENSIONS,
    )
    return kernel.transpose(1, 2, 0, 3)


def _margins(geometry: Geometry) -> list[Pair]:
    return [(p, p - r) for p, r in zip(geometry.padding, geometry.unreached, strict=True)]

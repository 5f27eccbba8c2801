"""The three maps of a strided convolution, written as XLA convolutions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gan_jax.types import Array

Pair = tuple[int, int]
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Geometry(NamedTuple):
    """Sizes of a convolution x [B, H, W, I] -> [B, h, w, O], each along height and width.

    With groups, the features are split into runs of I / groups and O / groups neighbours. An output
    reads its own group only, so the kernel is [kh, kw, I / groups, O].
    """

    size: Pair  # H, W
    window: Pair
    strides: Pair
    padding: Pair  # zeros on each side
    groups: int = 1

    @property
    def output(self) -> Pair:
        """The height and width of the result."""
        h, w = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip(*self[:4], strict=True))
        return h, w

    @property
    def unreached(self) -> Pair:
        """The number of rows and columns at the end of the image that no window covers."""
        rows, columns = ((n + 2 * p - k) % s for n, k, s, p in zip(*self[:4], strict=True))
        return rows, columns


def forward(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the convolution [B, h, w, O] of x [B, H, W, I] with a kernel [kh, kw, I, O]."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        [(p, p) for p in geometry.padding],
        feature_group_count=geometry.groups,
        dimension_numbers=_DIMENSIONS,
    )


def input_gradient(g: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the transposed convolution [B, H, W, I] of g [B, h, w, O].

    The kernel is [kh, kw, I, O].
    """
    edges = zip(geometry.window, geometry.padding, geometry.unreached, strict=True)
    return jax.lax.conv_general_dilated(
        g,
        transposed_kernel(kernel, geometry.groups),
        (1, 1),
        [(k - 1 - p, k - 1 - p + r) for k, p, r in edges],
        lhs_dilation=geometry.strides,
        feature_group_count=geometry.groups,
        dimension_numbers=_DIMENSIONS,
    )


def transposed_kernel(kernel: Array, groups: int) -> Array:
    """Returns the kernel [kh, kw, O / groups, I] that the input gradient applies to g."""
    turned = jnp.flip(kernel, (0, 1)).reshape(*kernel.shape[:3], groups, -1).swapaxes(2, 4)
    return turned.reshape(*turned.shape[:3], -1)


def kernel_gradient(x: Array, g: Array, geometry: Geometry) -> Array:
    """Returns the gradient [kh, kw, I / groups, O] of the kernel.

    The arguments are x [B, H, W, I] and g [B, h, w, O].

    The operation is written as autodiff writes it, because the compilers for GPUs and TPUs
    recognise that form.
    """
    return jax.lax.conv_general_dilated(
        x,
        g,
        (1, 1),
        _margins(geometry),
        rhs_dilation=geometry.strides,
        batch_group_count=geometry.groups,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
    )


def canonical_kernel_gradient(x: Array, g: Array, geometry: Geometry) -> Array:
    """Returns the same as `kernel_gradient`, with batch and features swapped explicitly.

    XLA's CPU compiler makes this swap itself, but not inside a loop. This form has no groups.
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

"""Strided 2-D convolutions whose every derivative is a fast convolution.

A convolution is bilinear, and three maps are each other's derivatives:

    forward(x, w)            x [B, H, W, I], w [kh, kw, I, O] -> [B, h, w, O]
    input_gradient(g, w)     g [B, h, w, O], w                -> [B, H, W, I]
    kernel_gradient(x, g)    x, g                             -> [kh, kw, I, O]

The second is the transposed convolution. Left to itself, autodiff writes the kernel gradient of a
transposed convolution as a convolution that XLA runs fifty times slower on a CPU than the third
map, and inside a loop it keeps a slow layout for the third map too. Here the three are primitives
with each other as derivatives, so that both modes of differentiation, at any order, meet nothing
but these three; GPU and TPU compilers are given them as convolutions, a CPU as matrix products.
"""

import itertools
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from gan_jax.types import Array

Pair = tuple[int, int]
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv(x: Array, kernel: Array, *, strides: Pair, padding: Pair) -> Array:
    """The convolution [B, H, W, I] -> [B, h, w, O], h = (H + 2 padding - kh) // stride + 1.

    Args:
      x: [B, H, W, I].
      kernel: [kh, kw, I, O].
      strides, padding: along height and width; zeros are added on both sides.
    """
    return _forward.bind(
        x, kernel, strides=strides, padding=padding, size=x.shape[1:3], window=kernel.shape[:2]
    )


def conv_transpose(x: Array, kernel: Array, *, strides: Pair, padding: Pair) -> Array:
    """The transposed convolution [B, h, w, I] -> [B, H, W, O], H = (h - 1) stride + kh - 2 padding.

    It is the gradient of `conv` in its input, as in PyTorch's `ConvTranspose2d`.

    Args:
      x: [B, h, w, I].
      kernel: [kh, kw, O, I], note the order: the kernel of the convolution it transposes.
      strides, padding: those of that convolution.
    """
    window = kernel.shape[:2]
    size = tuple(
        (n - 1) * s + k - 2 * p
        for n, s, k, p in zip(x.shape[1:3], strides, window, padding, strict=True)
    )
    return _input_gradient.bind(
        x, kernel, strides=strides, padding=padding, size=size, window=window
    )


def _convolve(x: Array, w: Array, *, strides: Pair, padding: Pair, **_: Any) -> Array:
    return jax.lax.conv_general_dilated(
        x, w, strides, [(p, p) for p in padding], dimension_numbers=_DIMENSIONS
    )


def _remainders(strides: Pair, padding: Pair, size: Pair, window: Pair) -> list[int]:
    """The rows and columns at the end that the stride never reaches."""
    return [(n + 2 * p - k) % s for n, p, k, s in zip(size, padding, window, strides, strict=True)]


def _transpose(
    g: Array, w: Array, *, strides: Pair, padding: Pair, size: Pair, window: Pair
) -> Array:
    unreached = _remainders(strides, padding, size, window)
    return jax.lax.conv_general_dilated(
        g,
        jnp.flip(w, (0, 1)).swapaxes(2, 3),
        (1, 1),
        [(k - 1 - p, k - 1 - p + r) for k, p, r in zip(window, padding, unreached, strict=True)],
        lhs_dilation=strides,
        dimension_numbers=_DIMENSIONS,
    )


def _correlate(
    x: Array, g: Array, *, strides: Pair, padding: Pair, size: Pair, window: Pair
) -> Array:
    """The kernel gradient as autodiff writes it, the form GPU and TPU compilers look for."""
    unreached = _remainders(strides, padding, size, window)
    return jax.lax.conv_general_dilated(
        x,
        g,
        (1, 1),
        [(p, p - r) for p, r in zip(padding, unreached, strict=True)],
        rhs_dilation=strides,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
    )


def _correlate_canonically(
    x: Array, g: Array, *, strides: Pair, padding: Pair, size: Pair, window: Pair
) -> Array:
    """The same in canonical layout, batch and features exchanged by hand.

    XLA's CPU backend makes this rewrite itself, but not inside a loop.
    """
    unreached = _remainders(strides, padding, size, window)
    kernel = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        (1, 1),
        [(p, p - r) for p, r in zip(padding, unreached, strict=True)],
        rhs_dilation=strides,
        dimension_numbers=_DIMENSIONS,
    )
    return kernel.transpose(1, 2, 0, 3)


# On a CPU each of the three maps is one matrix product, faster than XLA's own convolutions there.
# They are written for windows that the strides divide, as 4x4 by 2x2: a window is then made of
# whole tiles of stride x stride pixels, and windows share or add up tiles, not pixels. XLA makes
# the windows of an array once for all the products of a step that they are in.


def _tiling(strides: Pair, window: Pair) -> Pair:
    """Tiles in a window."""
    return window[0] // strides[0], window[1] // strides[1]


def _windows(x: Array, *, strides: Pair, padding: Pair, size: Pair, window: Pair) -> Array:
    """The windows of x, tile by tile: [B, H, W, I] -> [B, h, w, tiles * stride * stride * I]."""
    (sh, sw), (mh, mw) = strides, _tiling(strides, window)
    h, w = _output_size(strides, padding, size, window)
    rows, columns = h + mh - 1, w + mw - 1
    ends = (rows * sh - size[0] - padding[0], columns * sw - size[1] - padding[1])
    margins = [(0, 0, 0), *((p, e, 0) for p, e in zip(padding, ends, strict=True)), (0, 0, 0)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), margins)
    x = x.reshape(-1, rows, sh, columns, sw, x.shape[3]).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(*x.shape[:3], -1)
    corners = itertools.product(range(mh), range(mw))
    return jnp.concatenate([x[:, i : i + h, j : j + w] for i, j in corners], axis=3)


def _output_size(strides: Pair, padding: Pair, size: Pair, window: Pair) -> Pair:
    h, w = (
        (n + 2 * p - k) // s + 1 for n, p, k, s in zip(size, padding, window, strides, strict=True)
    )
    return h, w


def _matrix(kernel: Array, strides: Pair) -> Array:
    """The kernel in the order of `_windows`: [kh, kw, I, O] -> [tiles * stride * stride * I, O]."""
    (sh, sw), (mh, mw) = strides, _tiling(strides, (kernel.shape[0], kernel.shape[1]))
    split = kernel.reshape(mh, sh, mw, sw, *kernel.shape[2:])
    return split.transpose(0, 2, 1, 3, 4, 5).reshape(-1, kernel.shape[3])


def _convolve_by_product(x: Array, w: Array, **geometry: Any) -> Array:
    return _windows(x, **geometry) @ _matrix(w, geometry["strides"])


def _transpose_by_product(
    g: Array, w: Array, *, strides: Pair, padding: Pair, size: Pair, window: Pair
) -> Array:
    (sh, sw), (mh, mw) = strides, _tiling(strides, window)
    height, width, features = g.shape[1], g.shape[2], w.shape[2]
    parts = (g @ _matrix(w, strides).T).reshape(*g.shape[:3], mh * mw, sh * sw * features)
    whole = reduce(
        jnp.add,
        (
            jnp.pad(parts[:, :, :, tile], ((0, 0), (i, mh - 1 - i), (j, mw - 1 - j), (0, 0)))
            for tile, (i, j) in enumerate(itertools.product(range(mh), range(mw)))
        ),
    )
    rows, columns = height + mh - 1, width + mw - 1
    whole = whole.reshape(-1, rows, columns, sh, sw, features).transpose(0, 1, 3, 2, 4, 5)
    whole = whole.reshape(-1, rows * sh, columns * sw, features)
    ends = (size[0] + padding[0] - rows * sh, size[1] + padding[1] - columns * sw)
    margins = [(0, 0, 0), *((-p, e, 0) for p, e in zip(padding, ends, strict=True)), (0, 0, 0)]
    return jax.lax.pad(whole, jnp.zeros((), g.dtype), margins)


def _correlate_by_product(x: Array, g: Array, **geometry: Any) -> Array:
    """With g on the left, transposed: XLA multiplies by a tall transposed x at half the speed."""
    strides, window = geometry["strides"], geometry["window"]
    windows = _windows(x, **geometry)
    product = g.reshape(-1, g.shape[3]).T @ windows.reshape(-1, windows.shape[3])
    split = product.reshape(g.shape[3], *_tiling(strides, window), *strides, x.shape[3])
    return split.transpose(1, 3, 2, 4, 5, 0).reshape(*window, x.shape[3], g.shape[3])


def _bilinear(name: str, implementation: Callable[..., Array]) -> Primitive:
    """A primitive for a bilinear map of two arrays; its derivatives are set below."""
    primitive = Primitive(name)

    @partial(jax.jit, static_argnames=("strides", "padding", "size", "window"))
    def evaluate(x: Array, y: Array, **geometry: Any) -> Array:
        return primitive.bind(x, y, **geometry)

    def abstract_eval(x: Any, y: Any, **geometry: Any) -> Any:
        shapes = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, y))
        made = jax.eval_shape(partial(implementation, **geometry), *shapes)
        return x.update(shape=made.shape, dtype=made.dtype)

    def batch(arguments: Any, axes: Any, **geometry: Any) -> tuple[Array, int]:
        return jax.vmap(partial(implementation, **geometry), in_axes=axes)(*arguments), 0

    primitive.def_impl(evaluate)
    primitive.def_abstract_eval(abstract_eval)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(implementation, multiple_results=False))
    return primitive


_forward = _bilinear("gan_conv", _convolve)
_input_gradient = _bilinear("gan_conv_input_gradient", _transpose)
_kernel_gradient = _bilinear("gan_conv_kernel_gradient", _correlate)


def _on_cpu(
    primitive: Primitive, by_product: Callable[..., Array], native: Callable[..., Array]
) -> None:
    """Lowers to a matrix product where the strides divide the window, else to a convolution."""

    def implementation(x: Array, y: Array, **geometry: Any) -> Array:
        divided = all(
            k % s == 0 for k, s in zip(geometry["window"], geometry["strides"], strict=True)
        )
        return (by_product if divided else native)(x, y, **geometry)

    rule = mlir.lower_fun(implementation, multiple_results=False)
    mlir.register_lowering(primitive, rule, platform="cpu")


_on_cpu(_forward, _convolve_by_product, _convolve)
_on_cpu(_input_gradient, _transpose_by_product, _transpose)
_on_cpu(_kernel_gradient, _correlate_by_product, _correlate_canonically)

ad.defbilinear(
    _forward,
    lambda ct, x, w, **geometry: _input_gradient.bind(ct, w, **geometry),
    lambda ct, x, w, **geometry: _kernel_gradient.bind(x, ct, **geometry),
)
ad.defbilinear(
    _input_gradient,
    lambda ct, g, w, **geometry: _forward.bind(ct, w, **geometry),
    lambda ct, g, w, **geometry: _kernel_gradient.bind(ct, g, **geometry),
)
ad.defbilinear(
    _kernel_gradient,
    lambda ct, x, g, **geometry: _input_gradient.bind(g, ct, **geometry),
    lambda ct, x, g, **geometry: _forward.bind(x, ct, **geometry),
)

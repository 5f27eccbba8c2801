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

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from gan_jax._cpu import convolutions as conv_cpu
from gan_jax.nn import conv_native
from gan_jax.nn.conv_native import Geometry, Pair
from gan_jax.parallel import split_alike
from gan_jax.types import Array


def conv(x: Array, kernel: Array, *, strides: Pair, padding: Pair) -> Array:
    """The convolution [B, H, W, I] -> [B, h, w, O], h = (H + 2 padding - kh) // stride + 1.

    It is computed in the type that x and the kernel promote to, as in `flax.linen.Conv`.

    Args:
      x: [B, H, W, I].
      kernel: [kh, kw, I, O].
      strides, padding: along height and width; zeros are added on both sides.
    """
    x, kernel = promote_dtype(x, kernel)
    size, window = (x.shape[1], x.shape[2]), (kernel.shape[0], kernel.shape[1])
    geometry = Geometry(size, window, strides, padding)
    return split_alike(partial(_forward.bind, geometry=geometry), x, kernel)


def conv_transpose(x: Array, kernel: Array, *, strides: Pair, padding: Pair) -> Array:
    """The transposed convolution [B, h, w, I] -> [B, H, W, O], H = (h - 1) stride + kh - 2 padding.

    It is the gradient of `conv` in its input, as in PyTorch's `ConvTranspose2d`. It is computed in
    the type that x and the kernel promote to, as in `flax.linen.ConvTranspose`.

    Args:
      x: [B, h, w, I].
      kernel: [kh, kw, O, I], note the order: the kernel of the convolution it transposes.
      strides, padding: those of that convolution.
    """
    x, kernel = promote_dtype(x, kernel)
    window = kernel.shape[0], kernel.shape[1]
    height, width = (
        (n - 1) * s + k - 2 * p
        for n, s, k, p in zip(x.shape[1:3], strides, window, padding, strict=True)
    )
    geometry = Geometry((height, width), window, strides, padding)
    return split_alike(partial(_input_gradient.bind, geometry=geometry), x, kernel)


Map = Callable[[Array, Array, Geometry], Array]


def _bilinear(name: str, native: Map, cpu: Map, *, by_example: bool) -> Primitive:
    """A primitive for a bilinear map of two arrays; its derivatives are set below.

    Args:
      name: of the primitive, in jaxprs.
      native, cpu: how it is computed elsewhere, and on a CPU.
      by_example: whether each example of the first array makes one of the result.
    """
    primitive = Primitive(name)

    @partial(jax.jit, static_argnums=2)
    def evaluate(x: Array, y: Array, geometry: Geometry) -> Array:
        return primitive.bind(x, y, geometry=geometry)

    def abstract_eval(x: Any, y: Any, *, geometry: Geometry) -> Any:
        shapes = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, y))
        made = jax.eval_shape(lambda x, y: native(x, y, geometry), *shapes)
        return x.update(shape=made.shape, dtype=made.dtype)

    def batch(arguments: Any, axes: Any, *, geometry: Geometry) -> tuple[Array, int]:
        """One larger batch if that is what it is; else in turn on a CPU, each keeps it busy."""

        def in_turn(*arguments: Array) -> Array:
            pairs = [
                jnp.broadcast_to(a, (count, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
                for a, axis in zip(arguments, axes, strict=True)
            ]
            return jax.lax.map(lambda pair: primitive.bind(*pair, geometry=geometry), pairs)

        count = next(
            a.shape[axis] for a, axis in zip(arguments, axes, strict=True) if axis is not None
        )
        if by_example and axes[1] is None:
            x = jnp.moveaxis(arguments[0], axes[0], 0)
            made = primitive.bind(x.reshape(-1, *x.shape[2:]), arguments[1], geometry=geometry)
            return made.reshape(count, -1, *made.shape[1:]), 0
        at_once = jax.vmap(lambda x, y: native(x, y, geometry), in_axes=axes)
        return jax.lax.platform_dependent(*arguments, cpu=in_turn, default=at_once), 0

    primitive.def_impl(lambda x, y, *, geometry: evaluate(x, y, geometry))
    primitive.def_abstract_eval(abstract_eval)
    batching.primitive_batchers[primitive] = batch
    for implementation, platform in ((native, None), (cpu, "cpu")):
        rule = mlir.lower_fun(implementation, multiple_results=False)
        mlir.register_lowering(primitive, rule, platform=platform)
    return primitive


_forward = _bilinear("gan_conv", conv_native.forward, conv_cpu.forward, by_example=True)
_input_gradient = _bilinear(
    "gan_conv_input_gradient",
    conv_native.input_gradient,
    conv_cpu.input_gradient,
    by_example=True,
)
_kernel_gradient = _bilinear(
    "gan_conv_kernel_gradient",
    conv_native.kernel_gradient,
    conv_cpu.kernel_gradient,
    by_example=False,
)

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

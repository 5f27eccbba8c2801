"""Strided 2-D convolutions with fast derivatives of every order.

A convolution is one of three bilinear maps. The derivatives of each map are the other two maps:

    forward(x, w)            x [B, H, W, I], w [kh, kw, I, O] -> [B, h, w, O]
    input_gradient(g, w)     g [B, h, w, O], w                -> [B, H, W, I]
    kernel_gradient(x, g)    x, g                             -> [kh, kw, I, O]

The second map is the transposed convolution. This module makes each map a JAX primitive. A
derivative of any order, in forward or reverse mode, therefore consists of these three primitives.
JAX compiles them to convolutions on GPUs and TPUs, and mostly to matrix products on a CPU. With
groups, w is [kh, kw, I / groups, O] (see `conv_native.Geometry`).

Plain autodiff is slow on a CPU. Autodiff writes the kernel gradient of a transposed convolution as
a convolution that XLA runs fifty times slower than the third map. In addition, XLA uses a slow
memory layout for the third map inside a loop.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from gan_jax import _cpu
from gan_jax._cpu import convolutions as conv_cpu
from gan_jax.nn import conv_native
from gan_jax.nn.conv_native import Geometry, Pair
from gan_jax.parallel import split_alike
from gan_jax.types import Array


def conv(x: Array, kernel: Array, *, strides: Pair, padding: Pair, groups: int = 1) -> Array:
    """Returns the convolution [B, h, w, O] of x, where h = (H + 2 padding - kh) // stride + 1.

    The result has the type that x and the kernel promote to, as in `flax.linen.Conv`.

    Args:
      x: [B, H, W, I].
      kernel: [kh, kw, I / groups, O].
      strides: steps in pixels, along height and width.
      padding: zeros added on each side, along height and width.
      groups: number of groups into which the features I and O are split.
    """
    x, kernel = promote_dtype(x, kernel)
    size, window = (x.shape[1], x.shape[2]), (kernel.shape[0], kernel.shape[1])
    geometry = Geometry(size, window, strides, padding, groups)
    return split_alike(partial(_forward.bind, **_parameters(geometry)), x, kernel)


def conv_transpose(x: Array, kernel: Array, *, strides: Pair, padding: Pair) -> Array:
    """Returns the transposed convolution [B, H, W, O], where H = (h - 1) stride + kh - 2 padding.

    The transposed convolution is the gradient of `conv` with respect to x, as in PyTorch's
    `ConvTranspose2d`. The result has the type that x and the kernel promote to, as in
    `flax.linen.ConvTranspose`.

    Args:
      x: [B, h, w, I].
      kernel: [kh, kw, O, I], the kernel of the corresponding `conv`. Its last axis belongs to the
        features of x.
      strides: strides of the corresponding `conv`.
      padding: padding of the corresponding `conv`.
    """
    x, kernel = promote_dtype(x, kernel)
    window = kernel.shape[0], kernel.shape[1]
    height, width = (
        (n - 1) * s + k - 2 * p
        for n, s, k, p in zip(x.shape[1:3], strides, window, padding, strict=True)
    )
    geometry = Geometry((height, width), window, strides, padding)
    return split_alike(partial(_input_gradient.bind, **_parameters(geometry)), x, kernel)


def _parameters(geometry: Geometry) -> dict[str, Any]:
    return {"geometry": geometry, "tuned": _cpu.uses("convolutions")}


Map = Callable[[Array, Array, Geometry], Array]


def _bilinear(name: str, native: Map, cpu: Map, *, by_example: bool) -> Primitive:
    """Returns a primitive for a bilinear map of two arrays, without derivative rules.

    The primitive has two parameters, `geometry` and the flag `tuned`. If `tuned` is True, a CPU
    computes `cpu` instead of `native`.

    Args:
      name: name of the primitive in jaxprs.
      native: the map as an XLA convolution.
      cpu: the map in a form that is faster on a CPU.
      by_example: whether the map handles each example of the first array separately.
    """
    primitive = Primitive(name)

    @partial(jax.jit, static_argnames=("geometry", "tuned"))
    def evaluate(x: Array, y: Array, **parameters: Any) -> Array:
        return primitive.bind(x, y, **parameters)

    def natively(x: Array, y: Array, *, geometry: Geometry, tuned: bool) -> Array:
        del tuned
        return native(x, y, geometry)

    def on_cpu(x: Array, y: Array, *, geometry: Geometry, tuned: bool) -> Array:
        return (cpu if tuned else native)(x, y, geometry)

    def abstract_eval(x: Any, y: Any, **parameters: Any) -> Any:
        shapes = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, y))
        made = jax.eval_shape(partial(natively, **parameters), *shapes)
        return x.update(shape=made.shape, dtype=made.dtype)

    def batch(arguments: Any, axes: Any, **parameters: Any) -> tuple[Array, int]:
        """Returns the results of `jax.vmap`.

        If possible, one call on a larger batch computes all results. Otherwise a CPU computes the
        elements of the mapped axis one after another, because each computation uses all cores.
        """

        def in_turn(*arguments: Array) -> Array:
            pairs = [
                jnp.broadcast_to(a, (count, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
                for a, axis in zip(arguments, axes, strict=True)
            ]
            return jax.lax.map(lambda pair: primitive.bind(*pair, **parameters), pairs)

        count = next(
            a.shape[axis] for a, axis in zip(arguments, axes, strict=True) if axis is not None
        )
        if by_example and axes[1] is None:
            x = jnp.moveaxis(arguments[0], axes[0], 0)
            made = primitive.bind(x.reshape(-1, *x.shape[2:]), arguments[1], **parameters)
            return made.reshape(count, -1, *made.shape[1:]), 0
        at_once = jax.vmap(partial(natively, **parameters), in_axes=axes)
        if not parameters["tuned"]:
            return at_once(*arguments), 0
        return jax.lax.platform_dependent(*arguments, cpu=in_turn, default=at_once), 0

    primitive.def_impl(evaluate)
    primitive.def_abstract_eval(abstract_eval)
    batching.primitive_batchers[primitive] = batch
    for implementation, platform in ((natively, None), (on_cpu, "cpu")):
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
    lambda ct, x, w, **parameters: _input_gradient.bind(ct, w, **parameters),
    lambda ct, x, w, **parameters: _kernel_gradient.bind(x, ct, **parameters),
)
ad.defbilinear(
    _input_gradient,
    lambda ct, g, w, **parameters: _forward.bind(ct, w, **parameters),
    lambda ct, g, w, **parameters: _kernel_gradient.bind(ct, g, **parameters),
)
ad.defbilinear(
    _kernel_gradient,
    lambda ct, x, g, **parameters: _input_gradient.bind(g, ct, **parameters),
    lambda ct, x, g, **parameters: _forward.bind(x, ct, **parameters),
)

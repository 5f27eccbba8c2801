"""Flax Linen layers that the models share."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gan_jax.keys import per_example
from gan_jax.models import conv
from gan_jax.trees import at_least_single
from gan_jax.types import Array, AxisName

DCGAN_INIT = nn.initializers.normal(0.02)
"""N(0, .02), the initial weights of Radford et al. 2016, section 3."""

PARAM_DTYPE = jnp.float32
"""The type of initial parameters, as in Flax. Initialisers alone would follow JAX's x64 mode."""


def _dot_general(x: Array, kernel: Array, dimensions: Any, **options: Any) -> Array:
    """`jax.lax.dot_general`, by a kernel of two or three columns one after the other on a CPU.

    With two or three rows it is that product's transpose, the gradient by x, that is taken apart.
    """

    def whole(x: Array, kernel: Array) -> Array:
        return jax.lax.dot_general(x, kernel, dimensions, **options)

    def by_columns(x: Array, kernel: Array) -> Array:
        return jnp.stack([whole(x, column) for column in kernel.T], axis=-1)

    def outer(x: Array, row: Array) -> Array:
        return jax.lax.dot_general(x, row, (((), ()), ((), ())), **options)

    by_rows = jax.custom_jvp(whole)

    @by_rows.defjvp
    def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
        (x, kernel), (dx, d_kernel) = primals, tangents
        by_x = sum(outer(dx[..., i], row) for i, row in enumerate(kernel))
        return by_rows(x, kernel), by_x + whole(x, d_kernel)

    if kernel.shape[1] in (2, 3):
        return jax.lax.platform_dependent(x, kernel, cpu=by_columns, default=whole)
    if kernel.shape[0] in (2, 3):
        return jax.lax.platform_dependent(x, kernel, cpu=by_rows, default=whole)
    return whole(x, kernel)


class Dense(nn.Dense):
    """`flax.linen.Dense`, quick with two or three features or inputs too: a point in the plane.

    XLA's products on a CPU want wide matrices. One with two or three columns, and the products of
    its gradients, take two to eight times as long as with each column by itself.
    """

    dot_general: Any = _dot_general


class Conv(nn.Module):
    """A strided convolution: [B, H, W, I] -> [B, h, w, features].

    The defaults halve even sizes: a 4x4 kernel, stride 2, padding 1; and have no bias, as before
    a batch norm.
    """

    features: int
    use_bias: bool = False
    window: tuple[int, int] = (4, 4)
    strides: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param(
            "kernel", DCGAN_INIT, (*self.window, x.shape[-1], self.features), PARAM_DTYPE
        )
        y = conv.conv(x, kernel, strides=self.strides, padding=self.padding)
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (1, 1, 1, self.features), PARAM_DTYPE)


class ConvTranspose(nn.Module):
    """A strided transposed convolution without bias: [B, h, w, I] -> [B, H, W, features].

    The defaults double sizes. The kernel is stored [kh, kw, features, I].
    """

    features: int
    window: tuple[int, int] = (4, 4)
    strides: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param(
            "kernel", DCGAN_INIT, (*self.window, self.features, x.shape[-1]), PARAM_DTYPE
        )
        return conv.conv_transpose(x, kernel, strides=self.strides, padding=self.padding)


class BatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy 2015) with DCGAN's initial scale: [B, ..., C] -> the same.

    Statistics are taken over all axes but the last, and over `axis_name` too, in single precision
    or better; running ones move by a tenth. The result is that of `flax.linen.BatchNorm`, whose
    place its parameters keep, to rounding.
    """

    axis_name: AxisName | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        # Outside a mapped axis (when it is initialised) there is nothing to average over.
        axis_name = None if self.is_initializing() else self.axis_name
        return _BatchNorm(axis_name, name="BatchNorm_0")(x, train=train)


class _BatchNorm(nn.Module):
    axis_name: AxisName | None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        shape = x.shape[-1:]
        scale = self.param("scale", lambda *args: 1.0 + DCGAN_INIT(*args), shape, PARAM_DTYPE)
        bias = self.param("bias", nn.initializers.zeros, shape, PARAM_DTYPE)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        statistics = [
            self.variable("batch_stats", name, start, shape, wide)
            for name, start in (("mean", jnp.zeros), ("var", jnp.ones))
        ]
        mean, variance = (at_least_single(running.value) for running in statistics)
        if train:
            mean, variance = _moments(x, self.axis_name)
            if not self.is_initializing():
                for running, new in zip(statistics, (mean, variance), strict=True):
                    # The state keeps its types, whatever the type of the batch.
                    running.value = (0.9 * running.value + 0.1 * new).astype(running.value.dtype)
        # One product and one sum for each number: x - mean would materialise one more array, which
        # takes 4 % of a DCGAN's step on a CPU.
        factor = scale * jax.lax.rsqrt(variance + 1e-5)
        shift = bias - mean * factor
        factor, shift = (jnp.expand_dims(a, tuple(range(x.ndim - 1))) for a in (factor, shift))
        return (x * factor + shift).astype(jnp.result_type(x, scale, bias))


def _moments(x: Array, axis_name: AxisName | None) -> tuple[Array, Array]:
    """Each feature's mean and variance, [C]."""
    x = at_least_single(x)
    axes = tuple(range(x.ndim - 1))
    moments = jnp.stack([jnp.mean(x, axes), jnp.mean(jnp.square(x), axes)])
    if axis_name is not None:
        moments = jax.lax.pmean(moments, axis_name)
    mean, square = moments
    return mean, jnp.maximum(square - jnp.square(mean), 0.0)


class Dropout(nn.Module):
    """Dropout whose mask for an example depends on its index in the global batch.

    Under a mapped axis `flax.linen.Dropout` would draw every shard the same mask; this draws
    what one device would have drawn for the whole batch.
    """

    rate: float
    axis_name: AxisName | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        if not train or self.rate == 0 or self.is_initializing():
            return x
        keys = per_example(self.make_rng("dropout"), x, self.axis_name)
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1.0 - self.rate), 0.0)


class MinibatchStd(nn.Module):
    """One more feature, the same everywhere: how much a batch varies (Karras et al. 2018, 3).

    [B, ..., C] -> [B, ..., C + 1]. The standard deviation of each feature in each place over the
    examples, averaged over features and places: a G that repeats itself gives itself away. It is
    of the whole batch, over `axis_name` too, where the paper's code takes groups of four.
    """

    axis_name: AxisName | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def mean(y: Array) -> Array:
            y = jnp.mean(y, axis=0, keepdims=True)
            # Outside a mapped axis (when it is initialised) there is nothing to average over.
            everywhere = self.axis_name is None or self.is_initializing()
            return y if everywhere else jax.lax.pmean(y, self.axis_name)

        wide = at_least_single(x)
        variance = mean(jnp.square(wide - mean(wide)))
        # 1e-8, which float16 would round to 0, keeps the root's slope finite if all examples are
        # equal.
        deviation = jnp.mean(jnp.sqrt(variance + 1e-8))
        return jnp.concatenate([x, jnp.full((*x.shape[:-1], 1), deviation, x.dtype)], axis=-1)

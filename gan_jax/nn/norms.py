"""Normalisation layers."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer

from gan_jax import batches
from gan_jax.nn.conditional import labels_for
from gan_jax.nn.dense import Dense
from gan_jax.nn.initial import DCGAN_INIT, PARAM_DTYPE
from gan_jax.trees import at_least_single
from gan_jax.types import Array


class BatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy 2015) with DCGAN's initial scale: [B, ..., C] -> [B, ..., C].

    Statistics are computed over all axes except the last and over the batch of all devices, in at
    least float32. Running statistics use a momentum of 0.9. The result equals that of
    `flax.linen.BatchNorm` up to rounding, and the parameter paths are the same.

    Attributes:
      num_classes: None, or the number of classes. Each class then has its own scale and bias
        (conditional batch norm, Dumoulin et al. 2017), and the layer needs labels [B].
      scale_init: the initialiser of the scale minus 1.

    Raises:
      ValueError: raised by a call if the layer needs labels, and they are missing or not integers
        [B].
    """

    num_classes: int | None = None
    scale_init: Initializer = DCGAN_INIT

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None, *, train: bool) -> Array:
        label = labels_for(self.num_classes, label)
        inner = _BatchNorm(self.num_classes, self.scale_init, name="BatchNorm_0")
        return inner(x, label, train=train)


class _BatchNorm(nn.Module):
    num_classes: int | None
    scale_init: Initializer

    @nn.compact
    def __call__(self, x: Array, label: Array | None, *, train: bool) -> Array:
        shape = x.shape[-1:]
        learned = shape if self.num_classes is None else (self.num_classes, *shape)
        scale = self.param(
            "scale", lambda *args: 1.0 + self.scale_init(*args), learned, PARAM_DTYPE
        )
        bias = self.param("bias", nn.initializers.zeros, learned, PARAM_DTYPE)
        if label is not None:
            scale, bias = (jnp.take(table, label, axis=0) for table in (scale, bias))
        return _normalised(self, x, scale, bias, train=train)


class ModulatedBatchNorm(nn.Module):
    """Batch norm with a scale and a bias for each example: [B, ..., C] -> [B, ..., C].

    The scale is 1 plus a linear function of a condition [B, D], and the bias is another linear
    function of the condition (Brock et al. 2019). `kernel_init` initialises both functions.
    Otherwise equal to `BatchNorm`.
    """

    kernel_init: Initializer = nn.initializers.orthogonal()

    @nn.compact
    def __call__(self, x: Array, condition: Array, *, train: bool) -> Array:
        dense = partial(Dense, x.shape[-1], use_bias=False, kernel_init=self.kernel_init)
        scale, bias = (dense(name=name)(condition) for name in ("scale", "bias"))
        return _normalised(self, x, 1.0 + scale, bias, train=train)


def _normalised(module: nn.Module, x: Array, scale: Array, bias: Array, *, train: bool) -> Array:
    """Returns x [B, ..., C] normalised, times the scale plus the bias.

    The running statistics become variables of the module. Scale and bias are [C] or [B, C].
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    statistics = [
        module.variable("batch_stats", name, start, x.shape[-1:], wide)
        for name, start in (("mean", jnp.zeros), ("var", jnp.ones))
    ]
    mean, variance = (at_least_single(running.value) for running in statistics)
    if train:
        mean, variance = _moments(x)
        if not module.is_initializing():
            for running, new in zip(statistics, (mean, variance), strict=True):
                # The running statistics keep their types, whatever the type of the batch.
                running.value = (0.9 * running.value + 0.1 * new).astype(running.value.dtype)
    inverse, axes = jax.lax.rsqrt(variance + 1e-5), range(x.ndim - 1)
    if scale.ndim == 2:
        inverse, mean, axes = inverse[None], mean[None], axes[1:]
    # This form needs one multiplication and one addition per number. Computing x - mean would
    # materialise another array, which takes 4 % of a DCGAN's step on a CPU.
    factor = scale * inverse
    shift = bias - mean * factor
    factor, shift = (jnp.expand_dims(a, tuple(axes)) for a in (factor, shift))
    return (x * factor + shift).astype(jnp.result_type(x, scale, bias))


def _moments(x: Array) -> tuple[Array, Array]:
    """Returns each feature's mean and variance [C] over the batch of all devices."""
    x = at_least_single(x)
    axes = tuple(range(x.ndim - 1))
    mean, square = batches.average(jnp.stack([jnp.mean(x, axes), jnp.mean(jnp.square(x), axes)]))
    return mean, jnp.maximum(square - jnp.square(mean), 0.0)

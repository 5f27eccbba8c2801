"""The layers of StyleGAN2 (Karras et al. 2020): equalised learning rates, modulated convolutions.

With an equalised learning rate, a kernel starts at N(0, 1), and the layer multiplies its result by
1 / sqrt(number of inputs per output). Adam moves all parameters at the same rate, so all kernels
then learn at the same rate relative to their size (Karras et al. 2018, section 4.1).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from gan_jax.nn import conv
from gan_jax.nn.dense import Dense
from gan_jax.nn.initial import PARAM_DTYPE, biased
from gan_jax.nn.resampling import blurred, downsample
from gan_jax.trees import at_least_single
from gan_jax.types import Array


def activated(x: Array) -> Array:
    """Returns the leaky ReLU with slope 0.2, times sqrt 2, which keeps the mean square near 1."""
    return nn.leaky_relu(x, 0.2) * math.sqrt(2.0)


def normalised(x: Array) -> Array:
    """Returns vectors [..., F] scaled to mean square 1."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-8)


class EqualDense(nn.Module):
    """A dense layer with an equalised learning rate: [..., I] -> [..., features].

    All parameters learn `rate` times as fast as those of other layers (Karras et al. 2018, section
    4.1). `bias` is the initial bias.
    """

    features: int
    rate: float = 1.0
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel_init = nn.initializers.normal(1.0 / self.rate)
        layer = Dense(self.features, use_bias=False, kernel_init=kernel_init, name="dense")
        y = layer(x * (self.rate / math.sqrt(x.shape[-1])))
        init = nn.initializers.constant(self.bias / self.rate)
        bias = self.param("bias", init, (self.features,), PARAM_DTYPE)
        return y + self.rate * bias.reshape(*[1] * (y.ndim - 1), -1)


class EqualConv(nn.Module):
    """A convolution with an equalised learning rate: [B, H, W, I] -> [B, H, W, features].

    The kernel has `window` x `window` pixels. With `down` the result is [B, H / 2, W / 2,
    features], filtered by [1, 3, 3, 1]. `use_bias` says whether to add a bias.

    Raises:
      ValueError: raised by a call with `down` and `window=1` if H or W is odd.
    """

    features: int
    window: int = 3
    down: bool = False
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.window, self.window, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape, PARAM_DTYPE)
        edge = self.window // 2
        if self.down and self.window == 1:
            y = conv.conv(downsample(x), kernel, strides=(1, 1), padding=(0, 0))
        elif self.down:
            y = conv.conv(blurred(x, 1 + edge), kernel, strides=(2, 2), padding=(0, 0))
        else:
            y = conv.conv(x, kernel, strides=(1, 1), padding=(edge, edge))
        y *= 1.0 / math.sqrt(math.prod(shape[:3]))
        return biased(self, y) if self.use_bias else y


class ModulatedConv(nn.Module):
    """A convolution whose kernel depends on the example (Karras et al. 2020, equations 1 and 3).

    The inputs are x [B, H, W, I] and w [B, L]. The result is [B, H, W, features]. Each input
    feature is multiplied by a style, which is an affine function of w.

    Attributes:
      features: number of output features.
      window: height and width of the kernel.
      up: whether the result is [B, 2 H, 2 W, features], filtered by [1, 3, 3, 1].
      demodulate: whether to divide each output feature by the norm of its scaled kernel.
    """

    features: int
    window: int = 3
    up: bool = False
    demodulate: bool = True

    @nn.compact
    def __call__(self, x: Array, w: Array) -> Array:
        shape = (self.window, self.window, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape, PARAM_DTYPE)
        style = EqualDense(x.shape[-1], bias=1.0, name="style")(w)
        style *= 1.0 / math.sqrt(math.prod(shape[:3]))
        return modulated_conv(x, kernel, style, up=self.up, demodulate=self.demodulate)


def modulated_conv(
    x: Array, kernel: Array, style: Array, *, up: bool = False, demodulate: bool = True
) -> Array:
    """Returns a convolution whose kernel is scaled for each example (Karras et al. 2020, eq. 1, 3).

    Each input feature is multiplied by its style. With `demodulate`, each output feature is divided
    by the norm of its scaled kernel, so that its variance is 1 if the inputs are independent with
    variance 1. All examples share one convolution: the input is scaled instead of the kernel.

    Args:
      x: [B, H, W, I], or [1, H, W, I] for all examples.
      kernel: [k, k, I, O] with odd k.
      style: [B, I].
      up: whether the result is [B, 2 H, 2 W, O], filtered by [1, 3, 3, 1], instead of [B, H, W, O].
        The kernel must then be 3x3.
      demodulate: whether to divide by the norm.
    """
    edge = kernel.shape[0] // 2
    x = x * style[:, None, None].astype(x.dtype)
    if up:
        y = conv.conv_transpose(x, kernel.swapaxes(2, 3), strides=(2, 2), padding=(0, 0))
        y = 4.0 * blurred(y, 1)
    else:
        y = conv.conv(x, kernel, strides=(1, 1), padding=(edge, edge))
    if not demodulate:
        return y
    style, kernel = at_least_single(style), at_least_single(kernel)
    squares = jnp.square(style) @ jnp.sum(jnp.square(kernel), axis=(0, 1))
    return y * jax.lax.rsqrt(squares + 1e-8)[:, None, None].astype(y.dtype)

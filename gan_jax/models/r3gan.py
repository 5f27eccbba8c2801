"""R3GAN (Huang et al. 2024): residual networks without normalisation."""

import math

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.initializers import Initializer

from gan_jax import priors
from gan_jax.networks.linen import from_linen
from gan_jax.nn import PARAM_DTYPE, Conditional, Conv, Dense, judged, with_class_channel
from gan_jax.nn.conditional import labels_for
from gan_jax.nn.resampling import downsample, upsample
from gan_jax.types import GAN, Array, Output

_GROUP = 16
"""Number of features in each group of a 3x3 convolution."""

_SLOPE = 0.2


def r3gan(
    shape: tuple[int, int, int],
    *,
    latent: int = 64,
    width: int = 768,
    num_classes: int | None = None,
    conditional: Conditional = "projection",
    blocks: int = 2,
    wide_up_to: int = 32,
) -> GAN:
    """Returns the residual networks of R3GAN. The defaults are the paper's for CIFAR-10.

    The prior is z ~ N(0, I). Both networks have one stage of residual blocks for each image size.
    The sizes double from the smallest, which is found by halving while both sides stay even and at
    least 4. For example, 32 pixels have stages of 4, 8, 16 and 32. Images are resampled by
    `gan_jax.nn.resampling`. There is no normalisation, so D judges each image separately.

    G's last layer is linear, so samples can leave [-1, 1]. `data.pipeline.quantize` clips them.

    The paper trains the networks with `losses.relativistic`, `penalties.r1` and `penalties.r2`, and
    Adam with b1 = 0.

    Args:
      shape: [H, W, C] of one image. H and W can differ.
      latent: number of dimensions of z.
      width: number of features of the smallest stage. It and the width of every other stage must be
        multiples of 8. Inside a block, the width is twice as large and is split into groups of 16.
      num_classes: number of classes of a conditional GAN, or None for an unconditional GAN. G
        receives an embedding of the class next to z.
      conditional: how D uses the class. See `gan_jax.nn.Conditional`. With "projection" the logit
        is <embedding of the class, features> alone, without an unconditional term.
      blocks: number of residual blocks of each stage.
      wide_up_to: the largest size, in pixels of the shorter side, whose stage has the full width.
        Each doubling beyond it halves the width.

    Raises:
      ValueError: halving does not bring the shorter side to 4 to 15 pixels, or a stage's width is
        not a multiple of 8.
    """
    height, side, channels = shape
    halvings = 0
    while height % 2 == side % 2 == 0 and min(height, side) >= 8:
        height, side, halvings = height // 2, side // 2, halvings + 1
    if not 4 <= min(height, side) < 16:
        raise ValueError(
            "r3gan halves images while both sides are even, and needs a smallest side between 4 "
            f"and 15, got {shape[0]}x{shape[1]}, which ends at {height}x{side}: resize them, for "
            "example to multiples of 16"
        )
    halved = [min(height, side) * 2**level > wide_up_to for level in range(halvings + 1)]
    unit = 8 * 2 ** sum(halved)
    if width < unit or width % unit:
        raise ValueError(
            f"r3gan takes a width that is a multiple of {unit} for images of "
            f"{shape[0]}x{shape[1]}, got {width}"
        )
    widths = tuple(width // 2 ** sum(halved[: level + 1]) for level in range(halvings + 1))
    return GAN(
        generator=from_linen(_Generator((height, side), channels, widths, blocks, num_classes)),
        discriminator=from_linen(_Discriminator(widths[::-1], blocks, num_classes, conditional)),
        prior=priors.normal(latent),
    )


def _normal(gain: float) -> Initializer:
    """Returns the initialiser N(0, gain^2 / fan-in)."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


_UNIT_GAIN = _normal(1.0)


def _linear(features: int) -> nn.Module:
    """Returns a dense layer for vectors."""
    return Dense(features, use_bias=False, kernel_init=_UNIT_GAIN, param_dtype=PARAM_DTYPE)


def _pointwise(
    features: int, *, use_bias: bool = False, init: Initializer = _UNIT_GAIN
) -> nn.Module:
    """Returns a 1x1 convolution, which is faster on a CPU than a dense layer for each pixel."""
    return Conv(features, use_bias, (1, 1), (1, 1), (0, 0), kernel_init=init)


def _embedded(label: Array, num_classes: int, features: int, *, gain: float = 1.0) -> Array:
    """Returns the embeddings [B, features] of labels. The fan-in is the number of classes."""
    init = nn.initializers.normal(gain / math.sqrt(num_classes))
    return nn.Embed(num_classes, features, embedding_init=init, param_dtype=PARAM_DTYPE)(label)


class _Block(nn.Module):
    """A residual block: [B, H, W, C] -> [B, H, W, C]. At the start it is the identity."""

    total: int
    """Number of blocks of the whole network. The initial weights shrink with it."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        features = x.shape[-1]
        init = _normal(math.sqrt(2 / (1 + _SLOPE**2)) * self.total**-0.25)
        y = _pointwise(2 * features, use_bias=True, init=init)(x)
        y = Conv(
            2 * features,
            use_bias=True,
            window=(3, 3),
            strides=(1, 1),
            groups=2 * features // _GROUP,
            kernel_init=init,
        )(nn.leaky_relu(y, _SLOPE))
        return x + _pointwise(features, init=nn.initializers.zeros)(nn.leaky_relu(y, _SLOPE))


class _Generator(nn.Module):
    size: tuple[int, int]
    channels: int
    widths: tuple[int, ...]
    blocks: int
    num_classes: int | None

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None, *, train: bool) -> Array:
        label = labels_for(self.num_classes, label)
        if self.num_classes is not None and label is not None:
            z = jnp.concatenate([z, _embedded(label, self.num_classes, z.shape[1])], axis=1)
        shape = (1, *self.size, self.widths[0])
        basis = self.param("basis", nn.initializers.normal(1.0), shape, PARAM_DTYPE)
        x = basis * _linear(self.widths[0])(z)[:, None, None]
        for level, features in enumerate(self.widths):
            if features != x.shape[-1]:
                x = _pointwise(features)(x)
            if level > 0:
                x = upsample(x)
            for _ in range(self.blocks):
                x = _Block(self.blocks * len(self.widths))(x)
        return _pointwise(self.channels)(x)


class _Discriminator(nn.Module):
    widths: tuple[int, ...]
    blocks: int
    num_classes: int | None
    conditional: Conditional

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None, *, train: bool) -> Array | Output:
        label = labels_for(self.num_classes, label)
        x = with_class_channel(x, self.num_classes, label, self.conditional)
        x = _pointwise(self.widths[0])(x)
        for level, features in enumerate(self.widths):
            if level > 0:
                x = downsample(x)
            if features != x.shape[-1]:
                x = _pointwise(features)(x)
            for _ in range(self.blocks):
                x = _Block(self.blocks * len(self.widths))(x)
        kernel = self.param("kernel", _UNIT_GAIN, (*x.shape[1:3], 1, features), PARAM_DTYPE)
        # A depthwise convolution to one pixel is a weighted sum for each feature.
        x = jnp.sum(x * jnp.moveaxis(kernel, 2, 0), axis=(1, 2))
        if self.num_classes is None or label is None:
            return _linear(1)(x)[:, 0]
        if self.conditional != "projection":
            return judged(x, self.num_classes, label, self.conditional, kernel_init=_UNIT_GAIN)
        of_class = _embedded(label, self.num_classes, features, gain=1 / math.sqrt(features))
        return jnp.sum(of_class * _linear(features)(x), axis=-1)

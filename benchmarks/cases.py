"""The GANs of the benchmark, as data that the worker of every library can read.

This module imports only numpy and the standard library, so PyTorch's workers can import it. A
player is a tuple of layers on one example. Images are [H, W, C] and are flattened in that order.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias

LEARNING_RATE, BETA_1, BETA_2 = 2e-4, 0.5, 0.999
"""Adam's settings for both players in every case. Epsilon is 1e-8."""

NUM_MODES, RADIUS, SCALE = 8, 1.0, 0.01
"""The mixture of Gaussians on a ring."""

Shape: TypeAlias = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Dense:
    """A dense layer: [I] -> [features]. Its kernel is [I, features]."""

    features: int
    bias: bool = True


@dataclasses.dataclass(frozen=True)
class Conv:
    """A 4x4 convolution with stride 2 and padding 1, which halves sizes.

    Its kernel is [4, 4, I, features].
    """

    features: int
    bias: bool = False


@dataclasses.dataclass(frozen=True)
class ConvTranspose:
    """A 4x4 transposed convolution with stride 2 and padding 1, which doubles sizes.

    Its kernel is [4, 4, features, I]. It has no bias.
    """

    features: int


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """Batch norm over batch and pixels with the statistics of the batch and epsilon 1e-5."""


@dataclasses.dataclass(frozen=True)
class LeakyReLU:
    """max(x, slope x)."""

    slope: float


@dataclasses.dataclass(frozen=True)
class Tanh:
    """tanh(scale x)."""

    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Maxout:
    """The largest of each run of `pieces` neighbours: [F] -> [F / pieces]."""

    pieces: int


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Dropout: 0 with probability `rate`, otherwise x / (1 - rate)."""

    rate: float


@dataclasses.dataclass(frozen=True)
class Reshape:
    """Reshapes one example. The shape () makes [1] a scalar."""

    shape: Shape


Layer: TypeAlias = (
    Dense | Conv | ConvTranspose | BatchNorm | LeakyReLU | Tanh | Maxout | Dropout | Reshape
)


class Placed(NamedTuple):
    """A layer with the shapes of one example before and after it."""

    layer: Layer
    before: Shape
    after: Shape


def place(layers: tuple[Layer, ...], shape: Shape) -> Iterator[Placed]:
    """Yields the layers with their shapes, for an input example of shape `shape`."""
    for layer in layers:
        before = shape
        match layer:
            case Dense(features):
                shape = (features,)
            case Conv(features):
                shape = (before[0] // 2, before[1] // 2, features)
            case ConvTranspose(features):
                shape = (before[0] * 2, before[1] * 2, features)
            case Maxout(pieces):
                shape = (before[0] // pieces,)
            case Reshape(shape):
                pass
        yield Placed(layer, before, shape)


def parameter_shapes(placed: Placed) -> dict[str, Shape]:
    """Returns the names and shapes of a layer's parameters, in the layout given to all
    libraries."""
    features, before = placed.after[-1:], placed.before
    match placed.layer:
        case Dense(_, bias):
            return {"kernel": (*before, *features)} | ({"bias": features} if bias else {})
        case Conv(_, bias):
            kernel = (4, 4, before[2], *features)
            return {"kernel": kernel} | ({"bias": features} if bias else {})
        case ConvTranspose(_):
            return {"kernel": (4, 4, *features, before[2])}
        case BatchNorm():
            return {"scale": features, "bias": features}
        case _:
            return {}


EVERY = ("gan_jax", "gan_jax_plain", "torch_eager", "torch_tuned", "torch_compile", "jax_usual")
"""The contenders of most cases. gan_jax comes first because the others are checked against it.
`gan_jax_plain` is this library without its special forms for CPUs."""

WITH_ENSEMBLE = ("gan_jax", "gan_jax_1_core", "gan_jax_16", *EVERY[1:])
"""The contenders of small networks. One of them uses one core, and one trains sixteen GANs."""

_ON_DEVICES = ("gan_jax", "gan_jax_shard", *EVERY[1:])
"""The contenders of convolutional networks. One of them splits a batch over one device per core."""

_PENALISED = ("gan_jax", "gan_jax_plain", "gan_jax_shard", "torch_tuned", "jax_usual")
"""The contenders with R1. torch.compile has no second derivatives, and the tutorial has no
penalty."""

_REPEATED = ("gan_jax", "gan_jax_shard", "torch_eager", "torch_tuned", "jax_usual")


@dataclasses.dataclass(frozen=True)
class Case:
    """A GAN and its training, by the non-saturating loss and Adam for both players.

    Attributes:
      name: name of the case.
      model: "mlp", "maxout" or "dcgan", whose networks are chains of the layers above, or the name
        of another model of `gan_jax.models`.
      shape: shape of one example, (2,) for the ring or [H, W, C].
      latent: number of dimensions of z. z is normal, or uniform with unit variance for maxout.
      widths: numbers of features of D's hidden layers, from x to the logit. G has the same numbers
        in reverse order. For maxout they are also 5 times as large. A model that is no chain has
        one number, its width.
      slope: slope of the leaky ReLUs. 0 makes them ReLUs.
      norm: whether a DCGAN's D has batch norm. Without batch norm, D's convolutions have biases.
      r1, r2: the weights gamma / 2 of the penalty E |grad D|^2 on real and on fake samples. Only
        cases that are no chains may have `r2`.
      loss: name of the loss in `gan_jax.losses`. Chains have the non-saturating loss.
      n_critic: number of updates of D for each update of G. Each uses fresh z and real samples.
      dropout: whether dropout is on. It is off when losses are compared.
      batch_sizes: the batch sizes to time.
      contenders: the contenders to time.
    """

    name: str
    model: str
    shape: Shape
    latent: int
    widths: Shape
    slope: float = 0.2
    norm: bool = True
    r1: float = 0.0
    r2: float = 0.0
    loss: str = "non_saturating"
    n_critic: int = 1
    dropout: bool = True
    batch_sizes: tuple[int, ...] = (64, 256)
    contenders: tuple[str, ...] = EVERY

    @property
    def on_ring(self) -> bool:
        """Returns True if each step draws its real samples from the ring, and False if they are
        images."""
        return self.shape == (2,)

    @property
    def is_chain(self) -> bool:
        """Returns whether both networks are chains of the layers of this module."""
        return self.model in ("mlp", "maxout", "dcgan")

    @property
    def generator(self) -> tuple[Layer, ...]:
        """Returns G's layers, z [latent] -> x."""
        size, backwards = math.prod(self.shape), self.widths[::-1]
        match self.model:
            case "mlp":
                hidden = _each(backwards, lambda w: (Dense(w), LeakyReLU(self.slope)))
                bounded = () if self.on_ring else (Tanh(), Reshape(self.shape))
                return *hidden, Dense(size), *bounded
            case "maxout":
                hidden = _each(backwards, lambda w: (Dense(5 * w), LeakyReLU(0.0)))
                return *hidden, Dense(size), Tanh(0.5), Reshape(self.shape)
            case _:
                first, *rest = backwards
                side = self.shape[0] // 2 ** len(backwards)
                start = (Dense(side * side * first, bias=False), Reshape((side, side, first)))
                levels = _each(
                    (*rest, self.shape[2]),
                    lambda w: (BatchNorm(), LeakyReLU(0.0), ConvTranspose(w)),
                )
                return *start, *levels, Tanh()

    @property
    def discriminator(self) -> tuple[Layer, ...]:
        """Returns D's layers, x -> logit."""
        flat = () if self.on_ring else (Reshape((math.prod(self.shape),)),)
        logit = (Dense(1), Reshape(()))
        match self.model:
            case "mlp":
                hidden = _each(self.widths, lambda w: (Dense(w), LeakyReLU(self.slope)))
                return *flat, *hidden, *logit
            case "maxout":
                hidden = _each(
                    self.widths, lambda w: (Dense(5 * w), Maxout(5), *self._dropout(0.5))
                )
                return *flat, *self._dropout(0.2), *hidden, *logit
            case _:
                first, *rest = self.widths
                start = (Conv(first, not self.norm), LeakyReLU(self.slope))
                norm = (BatchNorm(),) if self.norm else ()
                levels = _each(
                    rest, lambda w: (Conv(w, not self.norm), *norm, LeakyReLU(self.slope))
                )
                side = self.shape[0] // 2 ** len(self.widths)
                return *start, *levels, Reshape((side * side * self.widths[-1],)), *logit

    def _dropout(self, rate: float) -> tuple[Layer, ...]:
        return (Dropout(rate),) if self.dropout else ()

    def without_dropout(self) -> "Case":
        """Returns the case without dropout, so that its networks are deterministic."""
        return dataclasses.replace(self, dropout=False)

    def players(self) -> dict[str, list[Placed]]:
        """Returns both networks with their shapes, by name."""
        return {
            "generator": list(place(self.generator, (self.latent,))),
            "discriminator": list(place(self.discriminator, self.shape)),
        }


def _each(widths: Iterable[int], level: Callable[[int], tuple[Layer, ...]]) -> tuple[Layer, ...]:
    """Returns the layers of all levels."""
    return tuple(layer for width in widths for layer in level(width))


def from_json(fields: dict[str, Any]) -> Case:
    """Returns the case from the JSON of `dataclasses.asdict`, in which tuples became lists."""
    known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Case(**known)


_DCGAN28 = Case("dcgan28", "dcgan", (28, 28, 1), 100, (64, 128), contenders=_ON_DEVICES)

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case(
            "mixture",
            "mlp",
            (2,),
            2,
            (128, 128),
            slope=0.0,
            batch_sizes=(64, 512),
            contenders=WITH_ENSEMBLE,
        ),
        Case("mlp", "mlp", (28, 28, 1), 64, (512, 256), contenders=WITH_ENSEMBLE),
        Case("maxout", "maxout", (28, 28, 1), 100, (240, 240)),
        _DCGAN28,
        Case("dcgan64", "dcgan", (64, 64, 3), 100, (64, 128, 256, 512), batch_sizes=(64,)),
        dataclasses.replace(
            _DCGAN28, name="dcgan28_r1", norm=False, r1=0.25, contenders=_PENALISED
        ),
        dataclasses.replace(
            _DCGAN28, name="dcgan28_n5", n_critic=5, batch_sizes=(64,), contenders=_REPEATED
        ),
    )
}
"""The cases whose networks are chains of layers, by name."""

_at_32 = partial(
    Case,
    shape=(32, 32, 3),
    latent=128,
    batch_sizes=(32, 64),
    contenders=("gan_jax", "torch_tuned"),
)

MODELS: dict[str, Case] = {
    case.name: case
    for case in (
        _at_32("r3gan32", "r3gan", widths=(96,), loss="relativistic", r1=0.025, r2=0.025),
        _at_32("sngan32", "sngan", widths=(32,), loss="hinge"),
        # StyleGAN2 applies R1 in every 16th update. The other updates are timed.
        _at_32("stylegan2_32", "stylegan2", widths=(32,)),
    )
}
"""The cases whose networks are other models of the library, by name."""

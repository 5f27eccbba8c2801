"""The inputs given to all contenders of a case: weights, images, one fixed real batch and one fixed
z."""

import dataclasses
import math
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import NUM_MODES, RADIUS, SCALE, Case, Placed, Shape, parameter_shapes

Weights: TypeAlias = dict[str, NDArray[np.float32]]
"""A layer's parameters by name, with the shapes of `cases.parameter_shapes`."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """The inputs of a case.

    Attributes:
      weights: for each player, the weights of its layers in order. Layers without weights are left
        out. A model that is no chain has all its parameters in one dictionary, by path. A second
        one holds the directions of spectral norm.
      images: uint8 [N, H, W, C], the training images. On the ring the shape is [0, 2].
      real: the fixed batch, uint8 [B, H, W, C] or float32 [B, 2].
      z: the fixed noise [B, latent].
    """

    weights: dict[str, list[Weights]]
    images: NDArray[np.uint8]
    real: NDArray[Any]
    z: NDArray[np.float32]

    @property
    def batch_size(self) -> int:
        """Returns B, the size of the fixed batch and of the training batches."""
        return len(self.real)

    def save(self, path: Path) -> None:
        """Writes an npz file."""
        arrays: dict[str, Any] = {
            f"{player} {index} {name}": array
            for player, layers in self.weights.items()
            for index, layer in enumerate(layers)
            for name, array in layer.items()
        }
        np.savez(path, images=self.images, real=self.real, z=self.z, **arrays)


def load(path: Path) -> Problem:
    """Returns the problem that `Problem.save` wrote."""
    weights: dict[str, list[Weights]] = {"generator": [], "discriminator": []}
    with np.load(path) as file:
        for key in file.files:
            if " " not in key:
                continue
            player, index, name = key.split(" ")
            if int(index) == len(weights[player]):
                weights[player].append({})
            weights[player][-1][name] = file[key]
        return Problem(weights, file["images"], file["real"], file["z"])


def make(case: Case, batch_size: int, seed: int, digits: NDArray[np.uint8]) -> Problem:
    """Returns the inputs of a case.

    Args:
      case: the case.
      batch_size: B.
      seed: seed of the weights, the fixed noise and, on the ring, the fixed real samples.
      digits: uint8 [N, 28, 28, 1], N >= B, the real images. They are enlarged if the images of the
        case are larger.
    """
    rng = np.random.default_rng(seed)
    if case.is_chain:
        weights = {
            player: [_draw(placed, rng) for placed in layers if parameter_shapes(placed)]
            for player, layers in case.players().items()
        }
    else:
        from benchmarks.library import model_weights  # it needs JAX

        weights = model_weights(case, rng)
    if case.model == "maxout":
        z = rng.uniform(-math.sqrt(3), math.sqrt(3), (batch_size, case.latent))
    else:
        z = rng.normal(size=(batch_size, case.latent))
    images = np.zeros((0, 2), np.uint8) if case.on_ring else _resized(digits, case.shape)
    real = draw_ring(rng, batch_size) if case.on_ring else images[:batch_size]
    return Problem(weights, images, real, z.astype(np.float32))


def _draw(placed: Placed, rng: np.random.Generator) -> Weights:
    """Returns kernels that keep the size of a signal. Biases and scales are random, because the
    usual values 0 and 1 would hide mistakes."""
    weights = {}
    for name, shape in parameter_shapes(placed).items():
        if name == "kernel":
            fan_in = math.prod(placed.before[:1] if len(shape) == 2 else (16, placed.before[2]))
            array = rng.normal(0.0, math.sqrt(2 / fan_in), shape)
        else:
            array = rng.normal(0.0, 0.02, shape)
        if name == "scale":
            array += 1.0
        weights[name] = array.astype(np.float32)
    return weights


def _resized(digits: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    """Enlarges images by repeating pixels, adds a black margin, and copies grey to every
    channel."""
    size, channels = shape[0], shape[2]
    scale = size // digits.shape[1]
    x = digits.repeat(scale, axis=1).repeat(scale, axis=2).repeat(channels, axis=3)
    before = (size - x.shape[1]) // 2
    after = size - x.shape[1] - before
    return np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))


def draw_ring(rng: np.random.Generator, num: int) -> NDArray[np.float32]:
    """Returns x [num, 2] from the mixture of Gaussians on the ring."""
    angle = 2 * np.pi * rng.integers(NUM_MODES, size=num) / NUM_MODES
    centres = RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (centres + rng.normal(0.0, SCALE, (num, 2))).astype(np.float32)


def dequantized(x: NDArray[Any]) -> NDArray[np.float32]:
    """Converts uint8 images to [-1, 1]. Samples of the ring are unchanged."""
    if x.dtype != np.uint8:
        return x
    return x.astype(np.float32) / np.float32(127.5) - np.float32(1.0)

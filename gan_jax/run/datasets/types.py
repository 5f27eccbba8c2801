"""How a data set is asked for, and how a request fails."""

import dataclasses
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gan_jax.errors import UserError

Source: TypeAlias = Literal["auto", "tfds", "idx", "embedded", "folder"]
Channels: TypeAlias = Literal[1, 3]
Examples: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.integer] | None]


class DataError(UserError):
    """The data asked for cannot be had; the message names the flag or file and the remedy."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Which images to train on, and where they come from."""

    # The data set: mnist, fashion_mnist, kmnist, or any TFDS name ("cifar10", "emnist/letters").
    # Images of a folder go by the folder's name.
    name: str = "mnist"
    # tfds: prepared TFDS data, else a download. idx: the files train-images-idx3-ubyte[.gz] and
    # train-labels-idx1-ubyte[.gz] in `dir`. embedded: 5,000 MNIST digits, without a network.
    # folder: the PNG, JPEG, BMP, GIF and WebP files below `dir`. auto: the first available of idx,
    # tfds and, without `dir`, embedded.
    source: Source = "auto"
    # Where the IDX files, the images or the TFDS data are. None: TFDS's own default folder.
    dir: Path | None = None
    # Center-crop to a square, then resize to this many pixels: dcgan, the default model, takes 28,
    # 32 or 64. None: as the images are.
    size: int | None = None
    # 1 for grey, 3 for colour. None: as the images are (a folder: 3 if any image has colour).
    channels: Channels | None = None
    # How many images to keep out of training: a fixed random choice, whatever their class.
    held_out: int = 0

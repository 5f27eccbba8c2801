"""Reads the IDX files in which MNIST and similar data sets are published.

A file begins with four bytes: two zeros, a code for the element type, and the number of dimensions.
The dimensions follow as big-endian uint32, and then the elements. The last dimension varies
fastest.
"""

import gzip
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gan_jax.run.datasets.types import DataError, Examples

_UNSIGNED_BYTE = 0x08


def find(folder: Path, kind: str, ndim: int) -> list[Path]:
    """Returns the training files of a kind ("images" or "labels") in order of preference."""
    names = (f"train-{kind}{mark}idx{ndim}-ubyte{end}" for end in ("", ".gz") for mark in "-.")
    # A link that leads nowhere counts too, because it is an error and not a missing file.
    return [folder / name for name in names if os.path.lexists(folder / name)]


def read(folder: Path, *, announce: Callable[[str], None] = print) -> Examples:
    """Reads the training split of a folder of IDX files.

    Args:
      folder: The folder.
      announce: Called with a message if there are several files of images or of labels.
        Uncompressed files are preferred to compressed files. If this does not decide, names such as
        train-images-idx3 are preferred to names such as train-images.idx3.

    Returns:
      Images [N, H, W, 1] uint8 in [0, 255], and labels [N] int32 in [0, 255]. The labels are None
      if there is no file of labels.

    Raises:
      DataError: There are no images, or a file is damaged, or labels and images differ in number.
    """
    images_path = _one(find(folder, "images", 3), announce)
    labels_path = _one(find(folder, "labels", 1), announce)
    if images_path is None:
        raise DataError(
            f"--data.dir {folder} has no file train-images-idx3-ubyte, with or without .gz; "
            "give the folder that holds the IDX files."
        )
    x = read_file(images_path, ndim=3)[..., None]
    if x.size == 0:
        raise DataError(f"{images_path} has no pixels: its shape is {x.shape[:3]}. Get it again.")
    if labels_path is None:
        return Examples(
            x, unlabelled=f"{folder} has no file train-labels-idx1-ubyte, with or without .gz"
        )
    label = read_file(labels_path, ndim=1)
    if len(label) != len(x):
        raise DataError(
            f"{labels_path} has {len(label):,} labels, {images_path} {len(x):,} images; "
            "the two files must be of one data set."
        )
    return Examples(x, label.astype(np.int32))


def _one(paths: list[Path], announce: Callable[[str], None]) -> Path | None:
    if not paths:
        return None
    used, *others = paths
    if others:
        announce(f"data: {used} is read, not {' or '.join(path.name for path in others)} beside it")
    return used


def read_file(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Reads one IDX file of unsigned bytes. The file is compressed if its name ends in .gz.

    Args:
      path: The file.
      ndim: The expected number of dimensions: 3 for images, 1 for labels.

    Returns:
      A read-only uint8 array of `ndim` dimensions.

    Raises:
      DataError: The file cannot be read, is not an IDX file of this kind, is truncated, or has
        extra bytes at its end.
    """
    data = _bytes_of(path)
    header = 4 + 4 * ndim
    magic = data[:4]
    if len(magic) < 4:
        raise _damaged(path, f"is truncated: {header} bytes of header expected, {len(data)} found")
    if magic[:2] != b"\0\0" or magic[3] != ndim:
        expected = bytes([0, 0, _UNSIGNED_BYTE, ndim]).hex()
        raise _damaged(path, f"has the wrong magic number: 0x{expected} expected, 0x{magic.hex()}")
    if magic[2] != _UNSIGNED_BYTE:
        raise _damaged(
            path, f"has elements of type 0x{magic[2]:02x}; only 0x08 (unsigned byte) is image data"
        )
    if len(data) < header:
        raise _damaged(path, f"is truncated: {header} bytes of header expected, {len(data)} found")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", ndim, offset=4))
    expected_size = header + math.prod(shape)
    if len(data) != expected_size:
        what = "is truncated" if len(data) < expected_size else "has trailing bytes"
        raise _damaged(
            path, f"{what}: {expected_size:,} bytes expected for shape {shape}, {len(data):,} found"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _bytes_of(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if path.suffix != ".gz":
        return data
    if data[:2] != b"\x1f\x8b":
        raise DataError(f"{path} is not gzip data, though its name says so; rename or replace it.")
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, f"is corrupt gzip data ({error})") from error


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path} {what}. Get the file again.")

"""Sets of images to compare, and a cache of their features."""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gan_jax.data.pipeline import quantize
from gan_jax.data.types import sha256
from gan_jax.errors import UserError
from gan_jax.run import cli, datasets
from gan_jax.run.datasets import idx
from gan_jax.run.datasets.types import Channels, Source
from gan_jax.run.files import whole
from gan_jax.run.progress import over

Float32Array: TypeAlias = NDArray[np.float32]

_BATCH = 1024
"""Images computed between two updates of the progress display."""


class Images(NamedTuple):
    """A set of images with its origin.

    Attributes:
      x: [N, H, W, C] uint8.
      label: [N] int32 classes, or None.
      name: the name of the data set, such as "mnist". It is "" if it is not known.
      origin: the origin of the images in words, for a table.
    """

    x: NDArray[np.uint8]
    label: NDArray[np.int32] | None
    name: str
    origin: str

    def take(self, index: NDArray[np.intp]) -> "Images":
        """Returns the images with these indices."""
        label = None if self.label is None else self.label[index]
        return self._replace(x=self.x[index], label=label)

    @property
    def sha256(self) -> str:
        """Returns the digest that a `Dataset` of these images and labels has."""
        return sha256(self.x, self.label)


def read(
    text: str, flag: str, *, size: int | None = None, channels: Channels | None = None
) -> Images:
    """Returns the images that the text of a flag names.

    Args:
      text: a folder of images or of IDX files, an npz file with `x` (and perhaps `label`), an IDX
        file of images, or the name of a data set.
      flag: the flag, for messages.
      size, channels: images of a folder or a data set are cropped to a square and resized to this
        size, and converted to grey (1) or colour (3). None: no change.

    Raises:
      UserError: there are no such images, or they cannot be read.
    """
    path = Path(os.path.expanduser(text))
    if path.is_file():
        if path.suffix == ".npz":
            return _archive(path, flag)
        if "idx3" in path.name:
            return _idx_file(path)
        raise UserError(
            f"{flag} {text} is neither an npz file nor an IDX file of images: give one, or a folder"
        )
    if path.is_dir():
        source: Source = "idx" if idx.find(path, "images", 3) else "folder"
        config = datasets.Config("unknown", source, path, size, channels)
    elif os.sep in text or path.suffix:
        raise UserError(f"{flag} {text} does not exist: give a folder, an npz file or a data set")
    else:
        config = datasets.Config(text, size=size, channels=channels)
    try:
        dataset = datasets.load(config)
    except datasets.DataError as error:
        message = str(error)
        for name, ours in (("--data.dir", flag), ("--data.name", flag), ("--data.size", "--size")):
            message = message.replace(name, ours)
        raise UserError(message) from None
    name = "" if dataset.name == "unknown" or dataset.source == "folder" else dataset.name
    origin = f"the images in {text}" if path.is_dir() else f"the training images of {text}"
    return Images(dataset.x, dataset.label, name, origin)


def _archive(path: Path, flag: str) -> Images:
    """Returns the images of an npz file, as `gan-jax sample` writes it."""
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{flag} {path} cannot be read ({error}): write it again") from None
    if "x" not in arrays:
        raise UserError(f"{flag} {path} holds {', '.join(arrays) or 'nothing'}: name its images x")
    x, label = arrays["x"], arrays.get("label")
    if x.ndim != 4 or 0 in x.shape or x.shape[3] not in (1, 3):
        raise UserError(
            f"{flag} {path}: x must be images [N, H, W, C] with C = 1 or 3, got {list(x.shape)}"
        )
    if np.issubdtype(x.dtype, np.floating):
        if not np.isfinite(x).all():
            bad = int((~np.isfinite(x)).reshape(len(x), -1).any(axis=1).sum())
            raise UserError(
                f"{flag} {path}: {bad:,} of {len(x):,} images hold NaN or infinity: leave them out"
            )
        if np.abs(x).max() > 1:
            raise UserError(
                f"{flag} {path}: pixels of floats must be in [-1, 1], got {x.min():g} to "
                f"{x.max():g}: convert them, or save uint8 in [0, 255]"
            )
        x = np.asarray(quantize(x))
    elif x.dtype != np.uint8:
        raise UserError(
            f"{flag} {path}: x must be uint8 in [0, 255] or floats in [-1, 1], got {x.dtype}"
        )
    if label is not None and (label.shape != (len(x),) or label.dtype.kind not in "iu"):
        raise UserError(
            f"{flag} {path}: label must be {len(x)} integers, got {label.dtype} {list(label.shape)}"
        )
    return Images(x, None if label is None else label.astype(np.int32), "", f"the images in {path}")


def _idx_file(path: Path) -> Images:
    """Returns the images of an IDX file, with labels if the IDX file of labels is in its folder."""
    x = idx.read_file(path, ndim=3)[..., None]
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    label = idx.read_file(beside, ndim=1).astype(np.int32) if beside.exists() else None
    if label is not None and len(label) != len(x):
        raise UserError(f"{beside} has {len(label):,} labels, {path} has {len(x):,} images")
    name = path.resolve().parent.name.lower().replace("-", "_")
    return Images(x, label, name, f"the images in {path}")


def cache_folder() -> Path | None:
    """Returns the folder of the cache, or None for a user without a home folder."""
    caches = cli.user_caches()
    return None if caches is None else caches / "gan_jax_features"


def cached(
    images: Images, extractor: str, kind: str, compute: Callable[[], Float32Array], *, use: bool
) -> Float32Array:
    """Returns `compute()`, an array [N, D], from the cache if it is there.

    The key is the digest of the images, the name of the extractor, which contains a hash of its
    weights, and the kind of the array. A damaged file is replaced by the computed array.

    Args:
      images: the images that the array belongs to.
      extractor: the name of the extractor.
      kind: "features" or "probabilities".
      compute: computes the array.
      use: whether to use the cache.
    """
    folder = cache_folder() if use else None
    if folder is None:
        return compute()
    key = hashlib.sha256(f"{sha256(images.x, None)}\n{extractor}\n{kind}".encode()).hexdigest()
    file = folder / f"{key}.npy"
    if (found := _stored(file)) is not None and len(found) == len(images.x):
        return found
    array = compute()
    content = io.BytesIO()
    np.save(content, array)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole(file) as opened:
            opened.write(hashlib.sha256(content.getvalue()).digest())
            opened.write(content.getvalue())
    except OSError as error:
        print(f"the {kind} of the reference are not kept: {error}")
    return array


def _stored(file: Path) -> Float32Array | None:
    """Returns the array in a file of the cache, or None if the file is missing or damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        return None
    return np.load(io.BytesIO(content[32:]))


def in_batches(
    function: Callable[[NDArray[np.uint8]], Float32Array], x: NDArray[np.uint8], what: str
) -> Float32Array:
    """Returns `function(x)`, computed in batches, and shows the progress.

    Args:
      function: images -> array [N, D].
      x: the images.
      what: the name of the result, for the display.
    """
    starts = over(range(0, len(x), _BATCH), what)
    return np.concatenate([function(x[start : start + _BATCH]) for start in starts])

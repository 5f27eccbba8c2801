"""The type of an image data set."""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Dataset(NamedTuple):
    """Images in memory.

    Attributes:
      x: [N, H, W, C] uint8 in [0, 255], the training images. C is 1 or 3. The array may be
        read-only.
      label: [N] int32 classes, starting at 0, or None if the source has no classes.
      name: "mnist", "fashion_mnist", the name of a folder, ...
      source: the origin of the images: "tfds", "idx", "embedded" or "folder".
      held_out: [M, H, W, C] uint8, images from the same source that are not in `x`.
      classes: the names of the classes in the order of the labels, or None.
      held_out_label: [M] int32, the classes of `held_out`, or None.
    """

    x: NDArray[np.uint8]
    label: NDArray[np.int32] | None
    name: str
    source: str
    held_out: NDArray[np.uint8]
    classes: tuple[str, ...] | None = None
    held_out_label: NDArray[np.int32] | None = None

    @property
    def sha256(self) -> str:
        """Returns a digest of `x` and `label` that identifies the training data."""
        return sha256(self.x, self.label)


def sha256(x: NDArray[np.uint8], label: NDArray[np.int32] | None) -> str:
    """Returns the SHA-256 of the shape and the bytes of images, and of the bytes of their labels.

    Args:
      x: [N, H, W, C], the images.
      label: [N] classes, or None.
    """
    digest = hashlib.sha256(repr(x.shape).encode())
    digest.update(np.ascontiguousarray(x).data)
    if label is not None:
        digest.update(np.ascontiguousarray(label).data)
    return digest.hexdigest()

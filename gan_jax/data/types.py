"""The type of a data set of images."""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Dataset(NamedTuple):
    """Images in memory.

    Attributes:
      x: [N, H, W, C] uint8 in [0, 255], C is 1 or 3. The images to train on. May be read-only.
      label: [N] int32, the classes from 0 on, or None where the source has none.
      name: "mnist", "fashion_mnist", the folder's name, ...
      source: The source the images came from: "tfds", "idx", "embedded" or "folder".
      held_out: [M, H, W, C] uint8. Images of the same source that are not in `x`.
    """

    x: NDArray[np.uint8]
    label: NDArray[np.int32] | None
    name: str
    source: str
    held_out: NDArray[np.uint8]

    @property
    def sha256(self) -> str:
        """Digest of the shape and the bytes of `x` and `label`: it identifies the training data."""
        digest = hashlib.sha256(repr(self.x.shape).encode())
        digest.update(np.ascontiguousarray(self.x).data)
        if self.label is not None:
            digest.update(np.ascontiguousarray(self.label).data)
        return digest.hexdigest()

"""A small classifier of 28x28 grey images in ten classes: features for distances between sets of
images, and class probabilities.

The features are the 64 activations before the last layer. Call a Fréchet distance between such
features a "Fréchet distance on digit-classifier features". It is not comparable with FID, which
uses Inception features. Report `Classifier.name` with every distance, because the name contains a
hash of the weights. If the weights have a different hash, the functions raise ValueError.

`benchmarks/train_classifiers.py` trained the weights in this folder.
"""

import dataclasses
import functools
import hashlib
import importlib.resources
import io
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from gan_jax.metrics.extractor import convolution, in_batches

Weights = Mapping[str, jax.Array]

SHAPE = (28, 28, 1)
"""Shape of an image."""

_BATCH = 256  # images per call


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The network with the weights in one of the package's files.

    Attributes:
      file: the name of the file in `gan_jax/metrics`.
      sha256: the SHA-256 of its content.
      kind: the kind of images, for `name`.
    """

    file: str
    sha256: str
    kind: str

    @property
    def name(self) -> str:
        """Returns the name to report with every score, such as "gan_jax digit classifier
        5380af24"."""
        return f"gan_jax {self.kind} classifier {self.sha256[:8]}"

    def features(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns the features of images: float32 [N, 64], all at least 0.

        The images are uint8 [N, 28, 28, 1], white on black.

        The features of an image do not depend on the other images in the call. Only 256 images at a
        time, as float32, are on the device. All images and features are on the host.

        Raises:
          ValueError: `x` has the wrong shape or dtype, or the weights have the wrong hash.
        """
        return self._batched(_features, x, 64)

    def class_probabilities(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns the probabilities of the ten classes for each image: float32 [N, 10].

        The images are uint8 [N, 28, 28, 1], white on black.

        Raises:
          ValueError: `x` has the wrong shape or dtype, or the weights have the wrong hash.
        """
        return self._batched(_class_probabilities, x, 10)

    def parse_weights(self, content: bytes) -> dict[str, NDArray[np.float32]]:
        """Returns the weights in the content of an npz file.

        Raises:
          ValueError: the SHA-256 of the content is not `sha256`.
        """
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise ValueError(
                f"the {self.kind} classifier's weights have SHA-256 {found}, not {self.sha256}"
            )
        with np.load(io.BytesIO(content)) as file:
            return {name: value.astype(np.float32) for name, value in file.items()}

    def _batched(
        self, function: Callable[..., jax.Array], x: NDArray[np.uint8], width: int
    ) -> NDArray[np.float32]:
        """Returns `function(weights, x)`, float32 [N, width], computed in batches of equal size."""
        x = np.asarray(x)
        if x.dtype != np.uint8 or x.ndim != 4 or x.shape[1:] != SHAPE:
            raise ValueError(
                f"x must be uint8 [N, 28, 28, 1], got {x.dtype} {list(x.shape)}: "
                "gan_jax.data.pipeline.quantize converts samples in [-1, 1]"
            )
        weights = _weights(self)
        return in_batches(
            lambda batch: function(weights, batch.astype(np.float32)), x, _BATCH, width
        )


def penultimate(weights: Weights, x: jax.Array) -> jax.Array:
    """Returns the features of images: [N, 64], all at least 0.

    They are the output of two strided convolutions and a dense layer, each followed by a ReLU.

    Args:
      weights: `conv{1,2}`, `dense{1,2}` and their `_bias`, as in the package's files.
      x: [N, 28, 28, 1], float in [0, 255].

    Raises:
      ValueError: `x` has the wrong shape.
    """
    if x.ndim != 4 or x.shape[1:] != SHAPE:
        raise ValueError(f"x must be [N, 28, 28, 1], got shape {list(x.shape)}")
    x = x / 255
    for name in ("conv1", "conv2"):
        x = convolution(x, weights[name], weights[name + "_bias"], stride=2)
    x = x.reshape(len(x), -1)
    return jax.nn.relu(_dense(weights, "dense1", x))


def logits(weights: Weights, hidden: jax.Array) -> jax.Array:
    """Returns the class logits [N, 10] of features [N, 64]."""
    return _dense(weights, "dense2", hidden)


@functools.cache
def _weights(classifier: Classifier) -> dict[str, NDArray[np.float32]]:
    file = importlib.resources.files(__package__).joinpath(classifier.file)
    return classifier.parse_weights(file.read_bytes())


def _dense(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    product = jnp.matmul(x, weights[name], precision=jax.lax.Precision.HIGHEST)
    return product + weights[name + "_bias"][None]


_features = jax.jit(penultimate)


@jax.jit
def _class_probabilities(weights: Weights, x: jax.Array) -> jax.Array:
    return jax.nn.softmax(logits(weights, penultimate(weights, x)))

"""The feature extractors of the package, by name."""

from gan_jax.metrics import digits, fashion
from gan_jax.metrics.classifier import Classifier
from gan_jax.metrics.extractor import Extractor


def _of(classifier: Classifier) -> Extractor:
    return Extractor(classifier.name, classifier.features, classifier.class_probabilities)


EXTRACTORS = {"digits": _of(digits.CLASSIFIER), "fashion": _of(fashion.CLASSIFIER)}
"""Extractors for uint8 images [N, 28, 28, 1], white on black. Weights are read at the first use."""

_OF_DATA = {"mnist": "digits", "fashion_mnist": "fashion"}
"""The name of the extractor that was trained on a data set, by the name of the data set."""


def takes(shape: tuple[int, ...]) -> bool:
    """Returns whether the extractors take images of this shape [H, W, C]."""
    return shape == (28, 28, 1)


def made_for(data: str, shape: tuple[int, ...]) -> str | None:
    """Returns the name of the extractor that was trained on a data set, or None.

    Args:
      data: the name of the data set.
      shape: [H, W, C], the shape of the images, which may have been resized.
    """
    return _OF_DATA.get(data) if takes(shape) else None

"""The feature extractors of the package, by name."""

from gan_jax.metrics import digits, fashion
from gan_jax.metrics.classifier import Classifier
from gan_jax.metrics.extractor import Extractor


def _of(classifier: Classifier) -> Extractor:
    return Extractor(classifier.name, classifier.features, classifier.class_probabilities)


EXTRACTORS = {"digits": _of(digits.CLASSIFIER), "fashion": _of(fashion.CLASSIFIER)}
"""Extractors for uint8 images [N, 28, 28, 1], white on black. Weights are read at the first use."""

OF_DATA = {"mnist": "digits", "fashion_mnist": "fashion"}
"""The name of the extractor that was trained on a data set, by the name of the data set."""

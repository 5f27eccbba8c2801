"""The contract of a feature extractor: images in, one row of features for each image out."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Extractor(NamedTuple):
    """A fixed network that turns images into features.

    Attributes:
      name: the name to report with every score. It includes a hash of the weights, such as
        "gan_jax digit classifier 5380af24".
      features: uint8 images [N, H, W, C] to float32 features [N, D]. The features of an image do
        not depend on the other images of the call.
      probabilities: uint8 images [N, H, W, C] to the probabilities [N, K] of K classes, or None if
        the network is no classifier.
    """

    name: str
    features: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    probabilities: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None = None

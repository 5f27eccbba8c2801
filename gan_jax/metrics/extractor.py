"""The contract of a feature extractor: images in, one row of features for each image out.

`in_batches` and `convolution` are the parts that the extractors of the package share.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
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


def in_batches(
    function: Callable[[NDArray[np.uint8]], jax.Array], x: NDArray[np.uint8], size: int, width: int
) -> NDArray[np.float32]:
    """Returns `function(x)`, float32 [N, width], computed for `size` of the N images at a time.

    The last batch is padded, so any N needs one compilation.
    """
    out = np.empty((len(x), width), np.float32)
    for start in range(0, len(x), size):
        batch = x[start : start + size]
        padded = np.zeros((size, *x.shape[1:]), x.dtype)
        padded[: len(batch)] = batch
        out[start : start + size] = function(padded)[: len(batch)]
    return out


def convolution(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int = 1, padding: str = "SAME"
) -> jax.Array:
    """Returns the ReLU of a convolution in full float32: [B, H, W, I] -> [B, h, w, O].

    The kernel is [kh, kw, I, O], and the bias is [O].
    """
    x = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return jax.nn.relu(x + bias[None, None, None])

"""Mode coverage: how samples spread over known modes (Srivastava et al. 2017; Lin et al. 2018)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.metrics.distances import points, squared_distances
from gan_jax.types import Array


class Modes(NamedTuple):
    """How samples spread over K modes.

    Attributes:
      captured: [] the number of modes that are the nearest of at least one high-quality sample.
      high_quality: [] the share of samples within `within` standard deviations of a mode.
      reverse_kl: [] KL(histogram of the nearest modes, uniform), in nats.
      width: [] root mean square distance of the high-quality samples from their modes along an
        axis, in standard deviations of the modes; 0 if there are none.
    """

    captured: Array
    high_quality: Array
    reverse_kl: Array
    width: Array


class Classes(NamedTuple):
    """How samples spread over K classes.

    Attributes:
      captured: [] the number of classes with at least one sample.
      reverse_kl: [] KL(histogram of the classes, uniform), in nats.
    """

    captured: Array
    reverse_kl: Array


def mode_coverage(x: Array, modes: Array, scale: float | Array, *, within: float = 3.0) -> Modes:
    """Mode coverage: each sample counts for the mode nearest to it, in deviations of that mode.

    A perfect sampler of a 2-D mixture has a high-quality share of 1 - exp(-within^2 / 2), .9889 at
    three deviations, and a width of .974, because samples further away do not count. Read both: a
    generator whose modes are narrower than the true ones has a high share and a small width.

    A sample with a value that is not finite is near no mode: it lowers the high-quality share, and
    the reverse KL is NaN. Memory: a few times N K numbers.

    Args:
      x: [N, D] samples, N at least 1: integers or floats, computed in float32 at least.
      modes: [K, D] centres, K at least 1.
      scale: [] or [K] the standard deviation of each mode, above 0.
      within: the radius of high quality, in standard deviations, above 0.

    Raises:
      TypeError: if `x`, `modes`, `scale` or `within` is not made of real numbers.
      ValueError: if a shape is wrong, or, outside `jit`, a scale or `within` is not above 0.
    """
    x, modes = points("x", x), points("modes", modes)
    num, dim = modes.shape
    if x.shape[1] != dim:
        raise ValueError(
            f"x and modes must have the same dimensions D, got shapes {list(x.shape)} and "
            f"{list(modes.shape)}"
        )
    if jnp.shape(scale) not in ((), (num,)):
        raise ValueError(
            f"scale must be one number or one for each of {num} modes, got shape "
            f"{list(jnp.shape(scale))}"
        )
    for name, positive in (("scale", scale), ("within", within)):
        if not jnp.isrealobj(positive):
            raise TypeError(f"{name} must be a real number, got {jnp.result_type(positive)}")
        if _known(positive) and not (np.asarray(positive) > 0).all():
            raise ValueError(f"{name} must be above 0, got {positive}")
    squared = squared_distances(x, modes)
    wide = jnp.result_type(squared, scale, within)  # integers and float16 squared may not fit
    squared = squared / jnp.broadcast_to(scale, (1, num)).astype(wide) ** 2
    nearest, squared = jnp.argmin(squared, axis=1), jnp.min(squared, axis=1)
    near = squared <= jnp.asarray(within).astype(wide) ** 2
    hits = jnp.bincount(jnp.where(near, nearest, num), length=num + 1)[:num]
    mean_square = jnp.sum(jnp.where(near, squared, 0)) / jnp.maximum(jnp.sum(near), 1)
    nearest = jnp.where(jnp.isfinite(squared), nearest, num)  # of no class
    return Modes(
        jnp.sum(hits > 0),
        jnp.mean(near),
        _coverage(nearest, num).reverse_kl,
        jnp.sqrt(mean_square / dim),
    )


def class_coverage(label: Array, num: int) -> Classes:
    """Class coverage of samples whose classes are equally frequent (Metz et al. 2017, 3.3).

    A perfect sampler does not reach a reverse KL of 0: see `expected_reverse_kl`.

    Args:
      label: [N] integers in 0..num - 1, the class that a classifier gives each sample. N >= 1.
      num: the number of classes, K, at least 1.

    Raises:
      TypeError: if `label` does not hold integers.
      ValueError: if a shape is wrong, `num` is below 1, or a label is outside 0..num - 1. Under
        `jit`, where labels have no values yet, the reverse KL is NaN instead, and `captured` counts
        the classes in the range.
    """
    given, label = label, jnp.asarray(label)
    if not jnp.issubdtype(label.dtype, jnp.integer):
        raise TypeError(
            f"label must hold integers, got {label.dtype}: take the argmax of class probabilities"
        )
    if label.ndim != 1 or label.shape[0] < 1:
        raise ValueError(f"label must be [N] with N >= 1, got shape {list(label.shape)}")
    if num < 1:
        raise ValueError(f"num, the number of classes, must be at least 1, got {num}")
    if _known(label):
        low, high = int(np.min(given)), int(np.max(given))  # before 64 bits become 32
        if low < 0 or high >= num:
            raise ValueError(
                f"label must be in 0..{num - 1} for num={num} classes, got {low}..{high}"
            )
    return _coverage(label, num)


def _coverage(label: Array, num: int) -> Classes:
    """Class coverage; the reverse KL is NaN if a label is outside 0..num - 1."""
    if label.dtype.itemsize < 4:  # `num` may not fit into bytes
        label = label.astype(jnp.int32)
    outside = (label < 0) | (label >= num)
    counts = jnp.bincount(jnp.where(outside, num, label), length=num + 1)[:num]
    histogram = counts / label.shape[0]
    terms = histogram * jnp.log(num * jnp.where(counts > 0, histogram, 1.0))
    return Classes(jnp.sum(counts > 0), jnp.where(jnp.any(outside), jnp.nan, jnp.sum(terms)))


def expected_reverse_kl(num: int, samples: int) -> float:
    """The mean reverse KL of a perfect sampler, approximately (K - 1) / 2N (Miller 1955).

    This is the first term of the expansion in 1 / N; the next is (K^2 - 1) / 12N^2.

    Args:
      num: the number of classes or modes, K, of equal probability, at least 1.
      samples: the number of samples counted, N, at least 1; the approximation needs several for
        every class.

    Raises:
      ValueError: if either is below 1.
    """
    if num < 1 or samples < 1:
        raise ValueError(f"num and samples must be at least 1, got {num} and {samples}")
    return (num - 1) / (2 * samples)


def _known(value: object) -> bool:
    """Whether a value is concrete, as it is not under a transformation such as `jit`."""
    return not isinstance(value, jax.core.Tracer)

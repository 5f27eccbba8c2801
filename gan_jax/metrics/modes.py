"""Mode coverage: the spread of samples over known modes.

The measures are those of Srivastava et al. 2017 and Lin et al. 2018.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.metrics.distances import check_dimensions, points, squared_distances
from gan_jax.types import Array


class Modes(NamedTuple):
    """The spread of samples over K modes.

    Attributes:
      captured: [] number of modes that are the nearest mode of at least one high-quality sample.
      high_quality: [] share of high-quality samples, which are those within `within` standard
        deviations of a mode.
      reverse_kl: [] KL(histogram of the nearest modes, uniform), in nats.
      width: [] root mean square distance, per axis, of the high-quality samples from their nearest
        modes. The unit is the mode's standard deviation. It is 0 if no sample has high quality.
      narrowest, widest: [] the smallest and the largest `width` of a single mode. `narrowest` is 0
        if a mode has no sample of high quality.
    """

    captured: Array
    high_quality: Array
    reverse_kl: Array
    width: Array
    narrowest: Array
    widest: Array


class Classes(NamedTuple):
    """The spread of samples over K classes.

    Attributes:
      captured: [] number of classes with at least one sample.
      reverse_kl: [] KL(histogram of the classes, uniform), in nats.
    """

    captured: Array
    reverse_kl: Array


def mode_coverage(x: Array, modes: Array, scale: float | Array, *, within: float = 3.0) -> Modes:
    """Returns the mode coverage. Each sample is assigned to its nearest mode.

    Distances are in standard deviations of the mode. For a 2-D mixture, a perfect sampler has a
    high-quality share of 1 - exp(-within^2 / 2), which is 0.9889 for within = 3. Its width is 0.974
    and not 1, because only high-quality samples count. Read the share and the width together: a
    generator with modes that are too narrow has a high share and a small width.

    A sample with a value that is not finite has no nearest mode. Such a sample lowers the
    high-quality share and makes the reverse KL NaN. The function needs memory for several arrays
    [N, K].

    Args:
      x: [N, D] samples, integers or floats, with N at least 1. The computation is in at least
        float32.
      modes: [K, D] centres, K at least 1.
      scale: [] or [K], the standard deviation of each mode, above 0.
      within: the radius of high quality in standard deviations, above 0.

    Raises:
      TypeError: `x`, `modes`, `scale` or `within` does not contain real numbers.
      ValueError: a shape is wrong. Outside `jit`, ValueError is also raised if a scale or `within`
        is not above 0.
    """
    x, modes = points("x", x), points("modes", modes)
    num, dim = modes.shape
    check_dimensions(x=x, modes=modes)
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
    wide = jnp.result_type(squared, scale, within)  # squares of integers and float16 could overflow
    squared = squared / jnp.broadcast_to(scale, (1, num)).astype(wide) ** 2
    nearest, squared = jnp.argmin(squared, axis=1), jnp.min(squared, axis=1)
    near = squared <= jnp.asarray(within).astype(wide) ** 2
    of_mode = jnp.where(near, nearest, num)
    hits = jnp.bincount(of_mode, length=num + 1)[:num]
    sums = jnp.bincount(of_mode, jnp.where(near, squared, 0), length=num + 1)[:num]

    def width(total: Array, count: Array) -> Array:
        return jnp.sqrt(total / jnp.maximum(count, 1) / dim)

    widths = width(sums, hits)
    nearest = jnp.where(jnp.isfinite(squared), nearest, num)  # `num` stands for no mode
    return Modes(
        jnp.sum(hits > 0),
        jnp.mean(near),
        _coverage(nearest, num).reverse_kl,
        width(jnp.sum(sums), jnp.sum(hits)),
        jnp.min(widths),
        jnp.max(widths),
    )


def class_coverage(label: Array, num: int) -> Classes:
    """Returns the class coverage of samples from equally frequent classes (Metz et al. 2017,
    section 3.3).

    Even a perfect sampler has a reverse KL above 0: see `expected_reverse_kl`.

    Args:
      label: [N] integers in 0..num - 1, the class that a classifier assigns to each sample. N is at
        least 1.
      num: number of classes, K, at least 1.

    Raises:
      TypeError: `label` does not hold integers.
      ValueError: a shape is wrong, `num` is below 1, or a label is outside 0..num - 1. Under `jit`
        the labels are not checked. If a label is then out of range, the reverse KL is NaN, and
        `captured` counts only classes in the range.
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
        low, high = int(np.min(given)), int(np.max(given))  # JAX may convert 64 bits to 32
        if low < 0 or high >= num:
            raise ValueError(
                f"label must be in 0..{num - 1} for num={num} classes, got {low}..{high}"
            )
    return _coverage(label, num)


def _coverage(label: Array, num: int) -> Classes:
    """Returns the class coverage. The reverse KL is NaN if a label is outside 0..num - 1."""
    if label.dtype.itemsize < 4:  # `num` may not fit into 8 or 16 bits
        label = label.astype(jnp.int32)
    outside = (label < 0) | (label >= num)
    counts = jnp.bincount(jnp.where(outside, num, label), length=num + 1)[:num]
    histogram = counts / label.shape[0]
    terms = histogram * jnp.log(num * jnp.where(counts > 0, histogram, 1.0))
    return Classes(jnp.sum(counts > 0), jnp.where(jnp.any(outside), jnp.nan, jnp.sum(terms)))


def expected_reverse_kl(num: int, samples: int) -> float:
    """Returns the mean reverse KL of a perfect sampler, about (K - 1) / (2 N) (Miller 1955).

    This is the first term of the expansion in 1 / N. The next term is (K^2 - 1) / (12 N^2).

    Args:
      num: number of equally likely classes or modes, K, at least 1.
      samples: number of samples, N, at least 1. The approximation needs several samples per class.

    Raises:
      ValueError: `num` or `samples` is below 1.
    """
    if num < 1 or samples < 1:
        raise ValueError(f"num and samples must be at least 1, got {num} and {samples}")
    return (num - 1) / (2 * samples)


def _known(value: object) -> bool:
    """Returns True if a value is concrete. Values inside `jit` are not."""
    return not isinstance(value, jax.core.Tracer)

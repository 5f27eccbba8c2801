"""How samples spread over modes that are known (Srivastava et al. 2017; Lin et al. 2018)."""

from typing import NamedTuple

import jax.numpy as jnp

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
      captured: [] the number of classes of at least one sample.
      reverse_kl: [] KL(histogram of the classes, uniform), in nats.
    """

    captured: Array
    reverse_kl: Array


def mode_coverage(x: Array, modes: Array, scale: float | Array, *, within: float = 3.0) -> Modes:
    """Counts samples by the mode nearest to them, in standard deviations of that mode.

    A perfect sampler of a 2-D mixture has a high-quality share of 1 - exp(-within^2 / 2), which is
    .9889, and with what lies beyond cut off a width of .974. A share may be high because modes
    are narrower than they should be: the width tells.

    Args:
      x: [N, D] samples.
      modes: [K, D] centres.
      scale: [] or [K] the standard deviation of each mode.
      within: the radius of high quality, in standard deviations.
    """
    num, dim = modes.shape
    squared = jnp.sum(jnp.square(x[:, None] - modes[None]), axis=2)
    squared /= jnp.broadcast_to(scale, (1, num)) ** 2
    nearest, squared = jnp.argmin(squared, axis=1), jnp.min(squared, axis=1)
    near = squared <= within**2
    hits = jnp.bincount(jnp.where(near, nearest, num), length=num + 1)[:num]
    mean_square = jnp.sum(jnp.where(near, squared, 0)) / jnp.maximum(jnp.sum(near), 1)
    return Modes(
        jnp.sum(hits > 0),
        jnp.mean(near),
        class_coverage(nearest, num).reverse_kl,
        jnp.sqrt(mean_square / dim),
    )


def class_coverage(label: Array, num: int) -> Classes:
    """Counts samples by their classes, equally frequent in the data (Metz et al. 2017, 3.3).

    A perfect sampler does not reach a reverse KL of 0: see `expected_reverse_kl`.

    Args:
      label: [N] integers in 0..num - 1, such as a classifier gives them.
      num: the number of classes, K.
    """
    counts = jnp.bincount(label, length=num)
    histogram = counts / label.shape[0]
    terms = histogram * jnp.log(num * jnp.where(counts > 0, histogram, 1.0))
    return Classes(jnp.sum(counts > 0), jnp.sum(terms))


def expected_reverse_kl(num: int, samples: int) -> float:
    """About the mean reverse KL of a perfect sampler: (K - 1) / 2N (Miller 1955).

    Of the expansion in 1 / N it is the first term; the next is (K^2 - 1) / 12N^2.

    Args:
      num: the number of classes or modes, K, of equal probability.
      samples: how many were counted, N, some for every class.
    """
    return (num - 1) / (2 * samples)

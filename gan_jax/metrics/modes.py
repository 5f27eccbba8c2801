"""Mode coverage on mixtures whose modes are known (Srivastava et al. 2017; Lin et al. 2018)."""

from typing import NamedTuple

import jax.numpy as jnp

from gan_jax.types import Array


class Modes(NamedTuple):
    """How samples spread over K modes.

    Attributes:
      captured: [] the number of modes nearest to at least one high-quality sample.
      high_quality: [] the share of samples within `within` standard deviations of a mode.
      reverse_kl: [] KL(histogram of the nearest modes, uniform), in nats.
    """

    captured: Array
    high_quality: Array
    reverse_kl: Array


def mode_coverage(x: Array, modes: Array, scale: float | Array, *, within: float = 3.0) -> Modes:
    """Counts samples by the mode nearest to them.

    A perfect sampler of a 2-D mixture has a high-quality share of 1 - exp(-within^2 / 2), which is
    .9889; a larger share means shrunken modes.

    Args:
      x: [N, D] samples.
      modes: [K, D] centres.
      scale: [] or [K] the standard deviation of each mode.
      within: the radius of high quality, in standard deviations.
    """
    squared = jnp.sum(jnp.square(x[:, None] - modes[None]), axis=2)
    nearest = jnp.argmin(squared, axis=1)
    num = modes.shape[0]
    near = jnp.min(squared, axis=1) <= (within * jnp.broadcast_to(scale, (num,))[nearest]) ** 2
    histogram = jnp.bincount(nearest, length=num) / x.shape[0]
    hits = jnp.bincount(jnp.where(near, nearest, num), length=num + 1)[:num]
    positive = histogram > 0
    terms = histogram * jnp.log(num * jnp.where(positive, histogram, 1.0))
    return Modes(jnp.sum(hits > 0), jnp.mean(near), jnp.sum(terms))

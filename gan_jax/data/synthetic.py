"""Distributions whose density is known: draws without end, and the exact log p."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.types import Array, Batch, Metrics, StepFn, TrainState

_REAL = 2**31 - 3
"""Folded into the state's key for the draws of real samples: no role or step is as large."""


class Distribution(NamedTuple):
    """A distribution on R^D.

    Attributes:
      sample: `(key, num) -> x [num, D]`, a prior's signature: a GAN may also start from it.
      log_prob: x [N, D] -> [N], in nats.
      modes: [K, D] the centres, if it has any.
    """

    sample: Callable[[Array, int], Array]
    log_prob: Callable[[Array], Array]
    modes: np.ndarray


def gaussian(mean: float = 0.0, scale: float = 1.0) -> Distribution:
    """N(mean, scale^2) on the line."""
    return mixture(np.array([[mean]]), scale)


def mixture(
    means: np.ndarray, scale: float | np.ndarray, weights: np.ndarray | None = None
) -> Distribution:
    """Isotropic Gaussians at `means` [K, D], with standard deviations `scale` [] or [K].

    Args:
      weights: [K] probabilities; by default equal.
    """
    num, dim = means.shape
    weights = np.full(num, 1 / num) if weights is None else np.asarray(weights)
    scales = np.broadcast_to(scale, (num,))
    log_weights = np.log(weights) - dim * np.log(scales * np.sqrt(2 * np.pi))

    def sample(key: Array, count: int) -> Array:
        key_mode, key_noise = jax.random.split(key)
        mode = jax.random.choice(key_mode, num, (count,), p=jnp.asarray(weights))
        noise = jax.random.normal(key_noise, (count, dim))
        return (
            jnp.asarray(means, noise.dtype)[mode]
            + jnp.asarray(scales, noise.dtype)[mode, None] * noise
        )

    def log_prob(x: Array) -> Array:
        squared = jnp.sum(jnp.square(x[:, None, :] - jnp.asarray(means, x.dtype)[None]), axis=2)
        exponents = -squared / jnp.asarray(2 * scales**2, x.dtype)[None]
        return jax.nn.logsumexp(exponents + jnp.asarray(log_weights, x.dtype)[None], axis=1)

    return Distribution(sample, log_prob, np.asarray(means))


def uniform(low: float, high: float) -> Distribution:
    """U(low, high) on the line; log_prob is -inf outside."""

    def log_prob(x: Array) -> Array:
        inside = (x[:, 0] >= low) & (x[:, 0] <= high)
        return jnp.where(inside, -np.log(high - low), -jnp.inf)

    def sample(key: Array, num: int) -> Array:
        return jax.random.uniform(key, (num, 1), minval=low, maxval=high)

    return Distribution(sample, log_prob, np.array([[(low + high) / 2]]))


def ring(num: int = 8, radius: float = 1.0, scale: float = 0.01) -> Distribution:
    """`num` Gaussians round a circle (VEEGAN, Srivastava et al. 2017, section 4.1)."""
    angle = 2 * np.pi * np.arange(num) / num  # no endpoint: it would count one mode twice
    return mixture(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1), scale)


def feed(
    step: StepFn, distribution: Distribution, batch_shape: tuple[int, ...]
) -> Callable[..., tuple[TrainState, Metrics]]:
    """A step that draws its own fresh real samples: `(state, _) -> (state, metrics)`.

    The body of a fused loop, as in `jax.lax.scan(feed(...), state, length=1000)`, under `vmap` for
    an ensemble. Like all draws of a step these depend on the state's key and counters alone.

    Args:
      step: on a batch of `batch_shape`, [n_critic, B] for a train step, [B] for a player's.
      distribution: of the real samples.
      batch_shape: the leading dimensions of a batch.
    """

    def fed(state: TrainState, _: None = None) -> tuple[TrainState, Metrics]:
        made = state.discriminator.step + state.generator.step
        key = jax.random.fold_in(jax.random.fold_in(state.key, _REAL), made)
        x = distribution.sample(key, math.prod(batch_shape))
        return step(state, Batch(x.reshape(*batch_shape, *x.shape[1:])))

    return fed

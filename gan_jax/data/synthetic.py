"""Distributions with a known density: unlimited samples and the exact log p."""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.parallel import spread
from gan_jax.random import Stream, for_step
from gan_jax.types import Array, Batch, Metrics, StepFn, TrainState


class Sampler(Protocol):
    """An object that draws unlimited samples."""

    @property
    def sample(self) -> Callable[[Array, int], Array]:
        """Returns the function `(key, num) -> x [num, ...]`."""


class Distribution(NamedTuple):
    """A distribution on R^D.

    Attributes:
      sample: `(key, num) -> x [num, D]`. This is the signature of a prior, so the function can also
        be the prior of a GAN.
      log_prob: x [N, D] -> [N], in nats.
      modes: [K, D], the centres of the modes. K may be 0.
      scale: [] or [K], the standard deviation of each mode, or of the noise around a curve. It is 0
        if there are no modes and no noise.
    """

    sample: Callable[[Array, int], Array]
    log_prob: Callable[[Array], Array]
    modes: np.ndarray
    scale: float | np.ndarray = 0.0


def gaussian(mean: float = 0.0, scale: float = 1.0) -> Distribution:
    """Returns the distribution N(mean, scale^2) on the line.

    Raises:
      ValueError: `scale` is not above 0.
    """
    return mixture(np.array([[mean]]), scale)


def mixture(
    means: np.ndarray, scale: float | np.ndarray, weights: np.ndarray | None = None
) -> Distribution:
    """Returns a mixture of isotropic Gaussians at `means` [K, D] with standard deviations [] or
    [K].

    Args:
      means: [K, D].
      scale: [] or [K], above 0.
      weights: [K] probabilities, all above 0. By default they are equal.

    Raises:
      ValueError: the weights are not K numbers above 0 with sum 1, or a scale is not above 0.
    """
    num, dim = means.shape
    weights = np.full(num, 1 / num) if weights is None else np.asarray(weights)
    if weights.shape != (num,) or not (weights > 0).all() or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(f"weights must be {num} numbers above 0 with sum 1, got {weights}")
    _check_scale(scale)
    scales = np.broadcast_to(scale, (num,))
    log_weights = np.log(weights) - dim * np.log(scales * np.sqrt(2 * np.pi))

    def sample(key: Array, count: int) -> Array:
        key_mode, key_noise = jax.random.split(key)
        # Inverse transform sampling by comparison. `jax.random.choice` would search by bisection, a
        # loop of small steps.
        total = jnp.cumsum(jnp.asarray(weights))
        drawn = total[-1] * (1 - jax.random.uniform(key_mode, (count,), total.dtype))
        mode = jnp.searchsorted(total, drawn, method="compare_all")
        noise = jax.random.normal(key_noise, (count, dim))
        return (
            jnp.asarray(means, noise.dtype)[mode]
            + jnp.asarray(scales, noise.dtype)[mode, None] * noise
        )

    def log_prob(x: Array) -> Array:
        squared = jnp.sum(jnp.square(x[:, None, :] - jnp.asarray(means, x.dtype)[None]), axis=2)
        exponents = -squared / jnp.asarray(2 * scales**2, x.dtype)[None]
        return jax.nn.logsumexp(exponents + jnp.asarray(log_weights, x.dtype)[None], axis=1)

    return Distribution(sample, log_prob, np.asarray(means), scale)


def _check_scale(scale: float | np.ndarray) -> None:
    if not (np.asarray(scale) > 0).all():
        raise ValueError(f"scale must be above 0, got {scale}")


def uniform(low: float, high: float) -> Distribution:
    """Returns the distribution U(low, high) on the line. Outside this interval `log_prob` is -inf.

    Raises:
      ValueError: `low` is not below `high`.
    """
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}")

    def log_prob(x: Array) -> Array:
        inside = (x[:, 0] >= low) & (x[:, 0] <= high)
        return jnp.where(inside, -np.log(high - low), -jnp.inf)

    def sample(key: Array, num: int) -> Array:
        return jax.random.uniform(key, (num, 1), minval=low, maxval=high)

    deviation = (high - low) / math.sqrt(12)
    return Distribution(sample, log_prob, np.array([[(low + high) / 2]]), deviation)


def ring(num: int = 8, radius: float = 1.0, scale: float = 0.01) -> Distribution:
    """Returns `num` Gaussians on a circle (VEEGAN, Srivastava et al. 2017, section 4.1).

    The circle has the radius `radius`. Each Gaussian has the standard deviation `scale`.

    Raises:
      ValueError: `scale` is not above 0.
    """
    return mixture(radius * _circle(num), scale)


def grid(side: int = 5, spacing: float = 2.0, scale: float = 0.05) -> Distribution:
    """Returns `side` x `side` Gaussians on a square lattice around 0 (VEEGAN, section 4.1).

    Neighbours are `spacing` apart. Each Gaussian has the standard deviation `scale`.

    Raises:
      ValueError: `scale` is not above 0.
    """
    places = spacing * (np.arange(side) - (side - 1) / 2)
    return mixture(np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2), scale)


def cascade(
    levels: int = 2, num: int = 5, ratio: float = 0.25, scale: float = 0.01
) -> Distribution:
    """Returns a ring of rings. Its modes lie at several distances from one another.

    The first level is a ring of `num` points on the unit circle. Each point of a level is the
    centre of a ring of the next level. The rings of each level are `ratio` times as large as those
    of the level before. The points of the last level are the num^levels modes, Gaussians of
    standard deviation `scale`. A generator that covers all rings may still miss modes within a
    ring.

    Raises:
      ValueError: `scale` is not above 0.
    """
    means = np.zeros((1, 2))
    for level in range(levels):
        means = (means[:, None] + ratio**level * _circle(num)[None]).reshape(-1, 2)
    return mixture(means, scale)


def _circle(num: int) -> np.ndarray:
    angle = 2 * np.pi * np.arange(num) / num  # without the endpoint, which equals the first point
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def path(points: Callable[[Array], Array], scale: float, *, pieces: int = 1) -> Distribution:
    """Returns the distribution of points drawn along a curve, with Gaussian noise added.

    The density is the integral of the noise density along the curve. It is computed by
    Gauss-Legendre quadrature with 8 nodes for every arc of length 2 `scale`. The result is exact up
    to rounding.

    Args:
      points: maps t [N], uniform in [0, 1), to points of the curve [N, D].
      scale: standard deviation of the noise.
      pieces: number of equal intervals of t. The curve may jump at their ends.

    Raises:
      ValueError: `scale` is not above 0.
    """
    _check_scale(scale)
    ends = np.asarray(points(jnp.asarray((np.arange(1000 * pieces) + 0.5) / (1000 * pieces))))
    chords = np.linalg.norm(np.diff(ends.reshape(pieces, 1000, -1), axis=1), axis=2)
    panels = pieces * math.ceil(chords.sum(axis=1).max() / (2 * scale))
    nodes, weights = np.polynomial.legendre.leggauss(8)
    t = (np.arange(panels)[:, None] + (1 + nodes[None]) / 2) / panels
    means = np.asarray(points(jnp.asarray(t.ravel())))
    noisy = mixture(means, scale, np.tile(weights / 2, panels) / panels)

    def sample(key: Array, count: int) -> Array:
        key_place, key_noise = jax.random.split(key)
        x = points(jax.random.uniform(key_place, (count,)))
        return x + scale * jax.random.normal(key_noise, x.shape)

    return Distribution(sample, noisy.log_prob, np.zeros((0, means.shape[1])), scale)


def swiss_roll(scale: float = 0.02) -> Distribution:
    """Returns the spiral of scikit-learn's Swiss roll, scaled to fit into the unit circle.

    Raises:
      ValueError: `scale` is not above 0.
    """

    def points(t: Array) -> Array:
        angle = 1.5 * np.pi * (1 + 2 * t)
        radius = angle / (4.5 * np.pi)
        return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=1)

    return path(points, scale)


def two_moons(scale: float = 0.05) -> Distribution:
    """Returns two interleaving half circles of radius 1, as in scikit-learn.

    Raises:
      ValueError: `scale` is not above 0.
    """

    def points(t: Array) -> Array:
        upper, angle = t < 0.5, 2 * np.pi * (t % 0.5)
        x = jnp.where(upper, jnp.cos(angle), 1 - jnp.cos(angle))
        y = jnp.where(upper, jnp.sin(angle), 0.5 - jnp.sin(angle))
        return jnp.stack([x, y], axis=1)

    return path(points, scale, pieces=2)


def spiral(arms: int = 2, turns: float = 1.5, scale: float = 0.02) -> Distribution:
    """Returns `arms` Archimedean spirals from the centre to the unit circle.

    Each spiral makes `turns` turns. The noise around it has the standard deviation `scale`.

    Raises:
      ValueError: `scale` is not above 0.
    """

    def points(t: Array) -> Array:
        arm, radius = jnp.floor(t * arms), t * arms % 1
        angle = 2 * np.pi * (turns * radius + arm / arms)
        return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=1)

    return path(points, scale, pieces=arms)


DISTRIBUTIONS: dict[str, Callable[[], Distribution]] = {
    "ring": ring,
    "grid": grid,
    "cascade": cascade,
    "swiss_roll": swiss_roll,
    "two_moons": two_moons,
    "spiral": spiral,
}
"""Distributions in the plane, by name."""


def standardised(distribution: Distribution) -> tuple[Distribution, float]:
    """Returns the distribution scaled to a root mean square of 1 per axis, and the scaling unit.

    The unit is estimated from 10,000 samples.

    Returns:
      A pair: the distribution of x / unit, for x from the given distribution, and the unit.
    """
    x = distribution.sample(jax.random.key(0), 10_000)
    unit = float(jnp.sqrt(jnp.mean(jnp.square(x))))

    def log_prob(x: Array) -> Array:
        return distribution.log_prob(unit * x) + x.shape[1] * math.log(unit)

    return (
        Distribution(
            lambda key, num: distribution.sample(key, num) / unit,
            log_prob,
            distribution.modes / unit,
            distribution.scale / unit,
        ),
        unit,
    )


def feed(
    step: StepFn,
    real: Sampler | Callable[[Array, int], Batch],
    batch_shape: tuple[int, ...],
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns a step that draws its own real samples: `(state, _) -> (state, metrics)`.

    Use the step as the body of a loop, as in `jax.lax.scan(feed(...), state, length=1000)`. Under
    `vmap` the step trains an ensemble of GANs. The samples depend only on the state's key and
    counters, like all random draws of a step.

    Args:
      step: a step on a batch of `batch_shape`, which is [n_critic, B] for a train step and [B] for
        the step of one player. Make this step without `axis_name`: it receives the whole batch,
        because the real samples of the whole batch are drawn at once.
      real: a sampler of x, or a function `(key, num) -> Batch` if there are labels.
      batch_shape: the leading dimensions of a batch.
    """
    draw = real if callable(real) else lambda key, num: Batch(real.sample(key, num))

    def fed(state: TrainState, _: None = None) -> tuple[TrainState, Metrics]:
        made = state.discriminator.step + state.generator.step
        key = jax.random.fold_in(jax.random.fold_in(for_step(state.key), Stream.REAL), made)
        batch = jax.tree.map(
            lambda leaf: spread(leaf.reshape(*batch_shape, *leaf.shape[1:]), len(batch_shape) - 1),
            draw(key, math.prod(batch_shape)),
        )
        return step(state, batch)

    return fed

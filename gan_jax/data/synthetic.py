"""Distributions whose density is known: draws without end, and the exact log p."""

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
    """What draws samples without end."""

    @property
    def sample(self) -> Callable[[Array, int], Array]:
        """`(key, num) -> x [num, ...]`."""


class Distribution(NamedTuple):
    """A distribution on R^D.

    Attributes:
      sample: `(key, num) -> x [num, D]`, a prior's signature: a GAN may also start from it.
      log_prob: x [N, D] -> [N], in nats.
      modes: [K, D] the centres, if it has any; K may be 0.
      scale: [] or [K] the standard deviation of each mode, or of the noise round a curve; 0 if
        there is none.
    """

    sample: Callable[[Array, int], Array]
    log_prob: Callable[[Array], Array]
    modes: np.ndarray
    scale: float | np.ndarray = 0.0


def gaussian(mean: float = 0.0, scale: float = 1.0) -> Distribution:
    """N(mean, scale^2) on the line."""
    return mixture(np.array([[mean]]), scale)


def mixture(
    means: np.ndarray, scale: float | np.ndarray, weights: np.ndarray | None = None
) -> Distribution:
    """Isotropic Gaussians at `means` [K, D], with standard deviations `scale` [] or [K].

    Args:
      weights: [K] probabilities, all above 0; by default equal.

    Raises:
      ValueError: weights of another number, not above 0 or not of sum 1; a scale not above 0.
    """
    num, dim = means.shape
    weights = np.full(num, 1 / num) if weights is None else np.asarray(weights)
    if weights.shape != (num,) or not (weights > 0).all() or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(f"weights must be {num} numbers above 0 of sum 1, got {weights}")
    if not (np.asarray(scale) > 0).all():
        raise ValueError(f"scale must be above 0, got {scale}")
    scales = np.broadcast_to(scale, (num,))
    log_weights = np.log(weights) - dim * np.log(scales * np.sqrt(2 * np.pi))

    def sample(key: Array, count: int) -> Array:
        key_mode, key_noise = jax.random.split(key)
        # As `jax.random.choice`, which looks each number up by bisection: a loop of small steps.
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


def uniform(low: float, high: float) -> Distribution:
    """U(low, high) on the line; log_prob is -inf outside.

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
    """`num` Gaussians round a circle (VEEGAN, Srivastava et al. 2017, section 4.1)."""
    return mixture(radius * _circle(num), scale)


def grid(side: int = 5, spacing: float = 2.0, scale: float = 0.05) -> Distribution:
    """`side` times `side` Gaussians on a square lattice about 0 (VEEGAN, section 4.1)."""
    places = spacing * (np.arange(side) - (side - 1) / 2)
    return mixture(np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2), scale)


def cascade(
    levels: int = 2, num: int = 5, ratio: float = 0.25, scale: float = 0.01
) -> Distribution:
    """A ring of rings: modes at several distances from one another.

    Each of `num` points round the unit circle is the centre of a ring `ratio` times as large, and
    so on for `levels`: num^levels Gaussians. Who covers the rings has not yet covered the modes.
    """
    means = np.zeros((1, 2))
    for level in range(levels):
        means = (means[:, None] + ratio**level * _circle(num)[None]).reshape(-1, 2)
    return mixture(means, scale)


def _circle(num: int) -> np.ndarray:
    angle = 2 * np.pi * np.arange(num) / num  # no endpoint: it would count one point twice
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def path(points: Callable[[Array], Array], scale: float, *, pieces: int = 1) -> Distribution:
    """A point drawn along a curve, and Gaussian noise about it.

    The density is the integral of the noise's along the curve, by Gauss and Legendre's rule with
    8 nodes for every arc of twice `scale`: exact to rounding.

    Args:
      points: t [N], uniform in [0, 1), to the curve's points [N, D].
      scale: the standard deviation of the noise.
      pieces: equal shares of t at whose ends the curve may jump.
    """
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
    """The plane section of scikit-learn's Swiss roll, within the unit circle."""

    def points(t: Array) -> Array:
        angle = 1.5 * np.pi * (1 + 2 * t)
        radius = angle / (4.5 * np.pi)
        return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=1)

    return path(points, scale)


def two_moons(scale: float = 0.05) -> Distribution:
    """Two half circles of radius 1, each with an end inside the other, as in scikit-learn."""

    def points(t: Array) -> Array:
        upper, angle = t < 0.5, 2 * np.pi * (t % 0.5)
        x = jnp.where(upper, jnp.cos(angle), 1 - jnp.cos(angle))
        y = jnp.where(upper, jnp.sin(angle), 0.5 - jnp.sin(angle))
        return jnp.stack([x, y], axis=1)

    return path(points, scale, pieces=2)


def spiral(arms: int = 2, turns: float = 1.5, scale: float = 0.02) -> Distribution:
    """`arms` Archimedean spirals from the centre to the unit circle."""

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
"""Distributions in the plane, by their names."""


def standardised(distribution: Distribution) -> tuple[Distribution, float]:
    """The same in units of its root mean square along an axis, estimated from 10,000 draws.

    Returns:
      x / unit with its density, and the unit.
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
    """A step that draws its own fresh real samples: `(state, _) -> (state, metrics)`.

    The body of a fused loop, as in `jax.lax.scan(feed(...), state, length=1000)`, under `vmap` for
    an ensemble. Like all draws of a step these depend on the state's key and counters alone.

    Args:
      step: on a batch of `batch_shape`, [n_critic, B] for a train step, [B] for a player's; made
        without `axis_name`, for the real samples are those of the whole batch.
      real: a sampler of x, or a function `(key, num) -> Batch`, where there are labels.
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

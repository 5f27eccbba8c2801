"""Schedules that count images, so that they do not change with the batch size.

Each schedule is `step [] -> []`, where `step` is the number of updates the player has made so far.
They serve as learning rates, b2 of `optimizers.adam`, weights of penalties and terms, `ema_decay`,
and p of `augment.scheduled`. An update sees `batch_size` images. D makes `n_critic` updates for
each update of G, so D's images and G's images are counted separately.
"""

from collections.abc import Callable

import jax.numpy as jnp

from gan_jax.types import Array


def half_cosine(
    start: float, end: float, images: float, batch_size: int
) -> Callable[[Array], Array]:
    """Returns a schedule that moves from `start` to `end` along half a cosine, then stays there.

    The schedule is a function `step [] -> []`.

    R3GAN (Huang et al. 2024) uses it for the learning rates, b2, gamma, the half-life of the
    average and p.

    Args:
      start, end: the first and the last value.
      images: number of images until the end is reached, above 0.
      batch_size: number of images in one update.

    Raises:
      ValueError: `images` or `batch_size` is not above 0.
    """
    _check_above_zero(images=images, batch_size=batch_size)

    def schedule(step: Array) -> Array:
        share = jnp.minimum(step * (batch_size / images), 1.0)
        return end + (start - end) * (0.5 + 0.5 * jnp.cos(jnp.pi * share))

    return schedule


def half_life(
    images: float | Callable[[Array], Array], batch_size: int, *, ramp: float | None = None
) -> Callable[[Array], Array]:
    """Returns the decay of a moving average in which weights lose half their share in `images`
    images.

    The decay is 0.5^(batch_size / half-life) for each update. It is a schedule `step [] -> []` for
    `ema_decay`.

    Args:
      images: the half-life, above 0, or a schedule of it. R3GAN uses
        `half_cosine(0.0, 5e6, 20e6, batch_size)`. Where a schedule gives 0, the decay is 0, so the
        average equals the new weights.
      batch_size: number of images in one update.
      ramp: if given, the half-life is at most `ramp` times the number of images seen. The average
        then forgets the initial weights early. StyleGAN2-ADA uses 0.05.

    Raises:
      ValueError: `images`, `batch_size` or `ramp` is not above 0.
    """
    _check_above_zero(batch_size=batch_size)
    if not callable(images):
        _check_above_zero(images=images)
    if ramp is not None:
        _check_above_zero(ramp=ramp)

    def schedule(step: Array) -> Array:
        life = jnp.asarray(images(step) if callable(images) else images, float)
        if ramp is not None:
            life = jnp.minimum(life, step * (ramp * batch_size))
        positive = life > 0
        return jnp.where(positive, 0.5 ** (batch_size / jnp.where(positive, life, 1.0)), 0.0)

    return schedule


def _check_above_zero(**numbers: float) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} must be above 0, got {number}")

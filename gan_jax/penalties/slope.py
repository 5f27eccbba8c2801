"""Penalties on the slope of the discriminator."""

from functools import partial

import jax
import jax.numpy as jnp

from gan_jax.penalties.checked import checked
from gan_jax.random import per_example
from gan_jax.trees import at_least_single
from gan_jax.types import Array, AxisName, Critic


def _squared_gradient_norm(critic: Critic, x: Array) -> Array:
    """|grad_x critic(x)|^2 of each example: [B, ...] -> [B].

    The gradient of the sum of the logits is each example's own gradient when the critic treats
    examples alone; under batch norm it includes what an example does to its neighbours.
    """
    gradient = jax.grad(lambda x: jnp.sum(critic(x)))(x)
    # In float16 the sum of squares overflows, for example at 65,536 pixels of slope 1.
    return jnp.sum(jnp.square(at_least_single(gradient)), axis=tuple(range(1, x.ndim)))


def _gradient_norm(critic: Critic, x: Array) -> Array:
    """|grad_x critic(x)| of each example: [B, ...] -> [B].

    The norm's own gradient is infinite at a zero gradient of D; it is taken as 0 there.
    """
    squared = _squared_gradient_norm(critic, x)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def _uniform(key: Array, x: Array, shape: tuple[int, ...], axis_name: AxisName | None) -> Array:
    """Numbers [B, *shape] in [0, 1) for the examples of x [B, ...], in x's type."""
    keys = per_example(key, x, axis_name)
    return jax.vmap(partial(jax.random.uniform, shape=shape, dtype=x.dtype))(keys)


def _between(key: Array, real: Array, fake: Array, axis_name: AxisName | None) -> Array:
    """A point drawn uniformly on the line from each fake sample to a real one."""
    real, fake = at_least_single(real), at_least_single(fake)
    share = _uniform(key, real, (1,) * (real.ndim - 1), axis_name)
    return share * real + (1.0 - share) * fake


@checked
def r1(critic: Critic, real: Array, fake: Array, key: Array) -> Array:
    """|grad D|^2 on real samples (Mescheder et al. 2018, equation 9). Weight: gamma / 2."""
    del fake, key
    return _squared_gradient_norm(critic, real)


@checked
def r2(critic: Critic, real: Array, fake: Array, key: Array) -> Array:
    """|grad D|^2 on fake samples (Mescheder et al. 2018, equation 10). Weight: gamma / 2."""
    del real, key
    return _squared_gradient_norm(critic, fake)


@checked
def gradient_penalty(
    critic: Critic, real: Array, fake: Array, key: Array, *, axis_name: AxisName | None = None
) -> Array:
    """(|grad D| - 1)^2 between a real and a fake sample (Gulrajani et al. 2017, equation 3).

    The point is drawn uniformly on the line between the two. Where D's gradient is zero the
    penalty's own is taken as 0, so that it is finite.
    """
    return jnp.square(_gradient_norm(critic, _between(key, real, fake, axis_name)) - 1.0)


@checked
def one_sided_gradient_penalty(
    critic: Critic, real: Array, fake: Array, key: Array, *, axis_name: AxisName | None = None
) -> Array:
    """max(0, |grad D| - 1)^2 there: slopes below 1 are free (Petzka et al. 2018;
    Gulrajani et al. 2017, section 4)."""
    norm = _gradient_norm(critic, _between(key, real, fake, axis_name))
    return jnp.square(jax.nn.relu(norm - 1.0))


@checked
def dragan(
    critic: Critic,
    real: Array,
    fake: Array,
    key: Array,
    *,
    scale: float = 0.5,
    axis_name: AxisName | None = None,
) -> Array:
    """(|grad D| - 1)^2 around the real samples (Kodali et al. 2017). Weight: 10.

    The points are those of the authors' code, x + a scale std u: u uniform on [0, 1) for each
    number of an example, a for each example, and std the standard deviation of all the numbers of
    the batch. (The paper writes x + u, u Gaussian of a variance it leaves open.)

    Args:
      critic, real, fake, key: as of every penalty; the fakes are not read.
      scale: of the noise, in standard deviations.
      axis_name: the mapped axis the batch is split over, if it is: std is over all of it. With
        `accumulate` it is over the microbatch.
    """
    del fake
    real = at_least_single(real)
    key_share, key_noise = jax.random.split(key)
    noise = _uniform(key_noise, real, real.shape[1:], axis_name)

    def mean(x: Array) -> Array:
        local = jnp.mean(x)
        return local if axis_name is None else jax.lax.pmean(local, axis_name)

    std = jnp.sqrt(mean(jnp.square(real - mean(real))))
    share = _uniform(key_share, real, (1,) * (real.ndim - 1), axis_name)
    x = real + share * scale * std * noise
    return jnp.square(_gradient_norm(critic, x) - 1.0)

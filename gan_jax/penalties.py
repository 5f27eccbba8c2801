"""Penalties on the discriminator: per example, of a critic function x -> logits.

Each is `(critic, real [B, ...], fake [B, ...], key) -> [B]`; `make_discriminator_step` takes
pairs `(penalty, weight)`.
"""

from functools import partial

import jax
import jax.numpy as jnp

from gan_jax.keys import per_example
from gan_jax.types import Array, AxisName, Critic


def _squared_gradient_norm(critic: Critic, x: Array) -> Array:
    """|grad_x critic(x)|^2 of each example: [B, ...] -> [B].

    The gradient of the sum of the logits is each example's own gradient when the critic treats
    examples alone; under batch norm it includes what an example does to its neighbours.
    """
    gradient = jax.grad(lambda x: jnp.sum(critic(x)))(x)
    return jnp.sum(jnp.square(gradient), axis=tuple(range(1, x.ndim)))


def r1(critic: Critic, real: Array, fake: Array, key: Array) -> Array:
    """|grad D|^2 on real samples (Mescheder et al. 2018, equation 9). Weight: gamma / 2."""
    del fake, key
    return _squared_gradient_norm(critic, real)


def r2(critic: Critic, real: Array, fake: Array, key: Array) -> Array:
    """|grad D|^2 on fake samples (Mescheder et al. 2018, equation 10). Weight: gamma / 2."""
    del real, key
    return _squared_gradient_norm(critic, fake)


def gradient_penalty(
    critic: Critic, real: Array, fake: Array, key: Array, *, axis_name: AxisName | None = None
) -> Array:
    """(|grad D| - 1)^2 between a real and a fake sample (Gulrajani et al. 2017, equation 3).

    The point is drawn uniformly on the line between the two. The norm's own gradient is infinite
    at a zero gradient of D; it is taken as 0 there, so that the penalty's gradient is finite.
    Under a mapped axis pass `functools.partial(gradient_penalty, axis_name=...)`, which draws
    each example's point by its index in the global batch.
    """
    keys = per_example(key, real.shape[0], axis_name)
    share = jax.vmap(partial(jax.random.uniform, shape=(1,) * (real.ndim - 1)))(keys)
    squared = _squared_gradient_norm(critic, share * real + (1.0 - share) * fake)
    positive = squared > 0
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)
    return jnp.square(norm - 1.0)


PENALTIES = {"r1": r1, "r2": r2, "gradient_penalty": gradient_penalty}
"""Every penalty by its name."""

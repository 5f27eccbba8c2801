"""Penalties on the gradient of the discriminator."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from gan_jax import batches
from gan_jax.contract import CheckedCritic, checked
from gan_jax.random import keys_like, per_example
from gan_jax.trees import squared_norms, widened
from gan_jax.types import Array, PyTree


def _squared_gradient_norm(critic: Callable[[PyTree], Array], x: PyTree) -> Array:
    """Returns |grad_x critic(x)|^2 of each example: [B, ...] -> [B].

    It is computed from the gradient of the sum of the logits. If the critic processes examples
    separately, this gives each example's own gradient. With batch norm, an example's gradient also
    includes its effect on the logits of other examples.
    """
    return squared_norms(jax.grad(lambda x: jnp.sum(critic(x)))(x))


def _gradient_norm(critic: Callable[[PyTree], Array], x: PyTree) -> Array:
    """Returns |grad_x critic(x)| of each example: [B, ...] -> [B].

    Where D's gradient is zero, the derivative of the norm is set to 0. Automatic differentiation
    would return NaN.
    """
    squared = _squared_gradient_norm(critic, x)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def _uniform(key: Array, x: PyTree, shape: tuple[int, ...]) -> Array:
    """Returns numbers [B, *shape] in [0, 1) for the examples of x [B, ...], in the type of x."""
    dtype = jax.tree.leaves(x)[0].dtype
    return jax.vmap(partial(jax.random.uniform, shape=shape, dtype=dtype))(per_example(key, x))


def _scaled(share: Array, x: Array) -> Array:
    """Returns x [B, ...] with each example multiplied by its share [B]."""
    return share.reshape(-1, *[1] * (x.ndim - 1)) * x


def _between(key: Array, real: PyTree, fake: PyTree) -> PyTree:
    """Returns a point drawn uniformly on the line from each fake sample to a real one."""
    real, fake = widened(real), widened(fake)
    share = _uniform(key, real, ())
    return jax.tree.map(lambda r, f: _scaled(share, r) + _scaled(1.0 - share, f), real, fake)


@checked
def r1(critic: CheckedCritic, real: PyTree, fake: PyTree, key: Array) -> Array:
    """Returns |grad D(x)|^2 for each real sample x, [B] (Mescheder et al. 2018, equation 9).

    The weight is gamma / 2, and the paper uses gamma = 10.

    Raises:
      AssertionError: samples or logits have a wrong shape or type. See `gan_jax.penalties`.
    """
    del fake, key
    return _squared_gradient_norm(critic, real)


@checked
def r2(critic: CheckedCritic, real: PyTree, fake: PyTree, key: Array) -> Array:
    """Returns |grad D(x)|^2 for each fake sample x, [B] (Mescheder et al. 2018, equation 10).

    The weight in the paper is gamma / 2.

    Raises:
      AssertionError: samples or logits have a wrong shape or type. See `gan_jax.penalties`.
    """
    del real, key
    return _squared_gradient_norm(critic.on_fake, fake)


def r1_auto(resolution: float, batch_size: int) -> float:
    """Returns StyleGAN2-ADA's first guess of gamma: 0.0002 resolution^2 / batch_size.

    The weight of `r1` is gamma / 2. Karras et al. 2020 use this gamma for images of `resolution`
    pixels per side unless a better one is known. For other images than squares, `resolution` is the
    square root of the number of pixels.
    """
    return 0.0002 * resolution**2 / batch_size


@checked
def gradient_penalty(critic: CheckedCritic, real: PyTree, fake: PyTree, key: Array) -> Array:
    """Returns (|grad D| - 1)^2 at points between real and fake samples, [B].

    The penalty is that of Gulrajani et al. 2017, equation 3.

    Each point is drawn uniformly on the line between a real and a fake sample. Where D's gradient
    is zero, the derivative of the penalty is set to 0, because it would not be finite.

    Raises:
      AssertionError: samples or logits have a wrong shape or type. See `gan_jax.penalties`.
    """
    return jnp.square(_gradient_norm(critic, _between(key, real, fake)) - 1.0)


@checked
def one_sided_gradient_penalty(
    critic: CheckedCritic, real: PyTree, fake: PyTree, key: Array
) -> Array:
    """Returns max(0, |grad D| - 1)^2 at the points of `gradient_penalty`, [B].

    Gradient norms below 1 are not penalised (Petzka et al. 2018; Gulrajani et al. 2017, section 4).

    Raises:
      AssertionError: samples or logits have a wrong shape or type. See `gan_jax.penalties`.
    """
    norm = _gradient_norm(critic, _between(key, real, fake))
    return jnp.square(jax.nn.relu(norm - 1.0))


@checked
def dragan(
    critic: CheckedCritic, real: PyTree, fake: PyTree, key: Array, *, scale: float = 0.5
) -> Array:
    """Returns (|grad D| - 1)^2 near the real samples, [B] (Kodali et al. 2017).

    Usual weight: 10.

    The points are x + a * scale * std * u, as in the authors' code. Each number of each example has
    its own u, and each example has one a. Both are drawn uniformly from [0, 1). The standard
    deviation std is that of all numbers in the whole batch. (The paper writes x + u with Gaussian u
    and does not state the variance.)

    Args:
      critic, real, fake, key: the arguments of every penalty. `fake` is not used.
      scale: size of the noise, as a multiple of std. With `accumulate` above 1, std is computed for
        each microbatch separately.

    Raises:
      AssertionError: samples or logits have a wrong shape or type. See `gan_jax.penalties`.
    """
    del fake
    real = widened(real)
    key_share, key_noise = jax.random.split(key)
    share = _uniform(key_share, real, ())

    def around(x: Array, key: Array) -> Array:
        std = jnp.sqrt(batches.mean(jnp.square(x - batches.mean(x, over=None)), over=None))
        return x + scale * std * _scaled(share, _uniform(key, x, x.shape[1:]))

    points = jax.tree.map(around, real, keys_like(key_noise, real))
    return jnp.square(_gradient_norm(critic, points) - 1.0)

"""Penalties on the discriminator: per example, of a critic function x -> logits.

Each is `(critic, real [B, ...], fake [B, ...], key) -> [B]`; `make_discriminator_step` takes
pairs `(penalty, weight)`, where the weight may be a schedule, such as `lazy` makes. Each raises
AssertionError for samples that are not floating and of one shape, and for a critic that does not
return [B]. Results are float32 at least.

Penalties that draw for each example, or compare examples, take the mapped axis the batch is split
over, if it is: pass `functools.partial(dragan, axis_name=...)`.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Concatenate, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from gan_jax.augmentations import shift_and_flip
from gan_jax.contract import check_samples, one_each
from gan_jax.keys import per_example
from gan_jax.trees import at_least_single
from gan_jax.types import Array, AxisName, Critic, Penalty, PenaltyWithMemory, Weight

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _checked(
    penalty: Callable[Concatenate[Critic, Array, Array, Array, _P], _R],
) -> Callable[Concatenate[Critic, Array, Array, Array, _P], _R]:
    """The penalty, after assertions on the shapes of the samples and of the critic's logits."""

    @wraps(penalty)
    def checked(
        critic: Critic, real: Array, fake: Array, key: Array, *args: _P.args, **options: _P.kwargs
    ) -> _R:
        def logits(x: Array) -> Array:
            return one_each(critic(x), x.shape[0], "the critic")

        check_samples(real, fake)
        return penalty(logits, real, fake, key, *args, **options)

    return checked


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


@_checked
def r1(critic: Critic, real: Array, fake: Array, key: Array) -> Array:
    """|grad D|^2 on real samples (Mescheder et al. 2018, equation 9). Weight: gamma / 2."""
    del fake, key
    return _squared_gradient_norm(critic, real)


@_checked
def r2(critic: Critic, real: Array, fake: Array, key: Array) -> Array:
    """|grad D|^2 on fake samples (Mescheder et al. 2018, equation 10). Weight: gamma / 2."""
    del real, key
    return _squared_gradient_norm(critic, fake)


@_checked
def gradient_penalty(
    critic: Critic, real: Array, fake: Array, key: Array, *, axis_name: AxisName | None = None
) -> Array:
    """(|grad D| - 1)^2 between a real and a fake sample (Gulrajani et al. 2017, equation 3).

    The point is drawn uniformly on the line between the two. Where D's gradient is zero the
    penalty's own is taken as 0, so that it is finite.
    """
    return jnp.square(_gradient_norm(critic, _between(key, real, fake, axis_name)) - 1.0)


@_checked
def one_sided_gradient_penalty(
    critic: Critic, real: Array, fake: Array, key: Array, *, axis_name: AxisName | None = None
) -> Array:
    """max(0, |grad D| - 1)^2 there: slopes below 1 are free (Petzka et al. 2018;
    Gulrajani et al. 2017, section 4)."""
    norm = _gradient_norm(critic, _between(key, real, fake, axis_name))
    return jnp.square(jax.nn.relu(norm - 1.0))


@_checked
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


def _inconsistency(
    critic: Critic,
    x: Array,
    key: Array,
    augment: Callable[[Array, Array], Array],
    axis_name: AxisName | None,
) -> Array:
    """(D(T(x)) - D(x))^2 of each example, T drawn for it: [B, ...] -> [B]."""
    changed = jax.vmap(augment)(per_example(key, x, axis_name), x)
    return jnp.square(critic(changed) - critic(x))


@_checked
def real_consistency(
    critic: Critic,
    real: Array,
    fake: Array,
    key: Array,
    *,
    augment: Callable[[Array, Array], Array] = shift_and_flip,
    axis_name: AxisName | None = None,
) -> Array:
    """CR: `consistency` on the real samples alone (Zhang et al. 2020). Weight: 10."""
    del fake
    return _inconsistency(critic, real, key, augment, axis_name)


@_checked
def consistency(
    critic: Critic,
    real: Array,
    fake: Array,
    key: Array,
    *,
    augment: Callable[[Array, Array], Array] = shift_and_flip,
    axis_name: AxisName | None = None,
) -> Array:
    """bCR: (D(T(x)) - D(x))^2, on real and on fake samples (Zhao et al. 2021, algorithm 1).

    D is to say the same of an example and of a changed one. Weight: 10. What is random in D
    itself, such as dropout, is the same for both.

    Args:
      critic, real, fake, key: as of every penalty.
      augment: T, a pure function `(key, x [...]) -> x [...]` of one example.
      axis_name: the mapped axis the batch is split over, if it is.

    Raises:
      ValueError: the samples are no images [B, H, W, C], and `augment` is the default.
    """
    key_real, key_fake = jax.random.split(key)
    return _inconsistency(critic, real, key_real, augment, axis_name) + _inconsistency(
        critic, fake, key_fake, augment, axis_name
    )


def lecam(decay: float = 0.99) -> PenaltyWithMemory:
    """(D(x) - a_F)^2 + (D(G(z)) - a_R)^2 (Tseng et al. 2021, equations 4 and 5).

    a_R and a_F are moving averages of D's mean logit on real and on fake samples; the penalty
    pulls each kind's logits to the other's average.

    The averages are those of the updates before this one, so that no part of a batch and no device
    needs to know of the others; they are freed of their start at 0, as in the authors' code, and
    the first update, which has none, has no penalty. (That code counts this update's mean too, and
    takes the square of the positive part of D(x) - a_F and of a_R - D(G(z)); the paper does not.)

    Args:
      decay: in [0, 1), the gamma of equation 5.

    Raises:
      ValueError: a decay out of range.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}: 0.99 is usual")

    def init() -> dict[str, Array]:
        return {name: jnp.zeros(()) for name in ("real", "fake", "weight")}

    @_checked
    def apply(
        critic: Critic, real: Array, fake: Array, key: Array, memory: dict[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        del key
        of_real, of_fake = critic(real), critic(fake)
        known = memory["weight"] > 0
        weight = jnp.where(known, memory["weight"], 1.0)
        far = jnp.square(of_real - memory["fake"] / weight)
        far += jnp.square(of_fake - memory["real"] / weight)
        now = {"real": jnp.mean(of_real), "fake": jnp.mean(of_fake), "weight": jnp.ones(())}
        after = {name: decay * memory[name] + (1 - decay) * now[name] for name in memory}
        return jnp.where(known, far, 0.0), after

    return PenaltyWithMemory(init, apply, "lecam")


def lazy(weight: Weight, every: int = 16) -> Callable[[Array], Array]:
    """A weight for a penalty that is computed on every `every`-th update only.

    `every * weight` on updates 0, every, 2 every, ..., and 0 between, where the penalty costs
    nothing: the same force on average (Karras et al. 2020, appendix B, with R1 every 16).

    A lazy penalty applies a larger gradient less often, which limits the stable learning rate.
    Plain gradient descent with learning rate h multiplies the deviation along a direction in which
    the penalty has curvature c by 1 - every weight h c. It diverges once

        every * weight * h > 2 / c,

    that is, at a learning rate `every` times smaller than with the penalty on each update. For R1
    of the Dirac-GAN c = 2, so that gamma = 1 (weight 1/2) and h = 0.2 allow every < 10. If the
    players complete half a rotation between two applications, only one direction is damped.

    Adam divides by the size of its gradients, so its limit differs. StyleGAN2 applies the penalty
    in an update of its own, which makes every + 1 updates instead of `every`. For that it replaces
    Adam's h, b1 and b2 by r h, b1^r and b2^r, with r = every / (every + 1). Here the penalty is
    part of an update, and the number of updates does not change.

    Args:
      weight: the weight the penalty would have on every update: a number or a schedule.
      every: at least 1.

    Raises:
      ValueError: every < 1.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")

    def schedule(step: Array) -> Array:
        size = weight(step) if callable(weight) else weight
        return jnp.where(step % every == 0, every * size, 0.0)

    return schedule


PENALTIES: dict[str, Penalty | PenaltyWithMemory] = {
    "r1": r1,
    "r2": r2,
    "gradient_penalty": gradient_penalty,
    "one_sided_gradient_penalty": one_sided_gradient_penalty,
    "dragan": dragan,
    "real_consistency": real_consistency,
    "consistency": consistency,
    "lecam": lecam(),
}
"""Every penalty by its name: functions as they are, factories as called with their defaults."""

"""Optimizers as Optax has them: Adam in an order that suits a CPU, and what games want besides.

A game turns where a single loss would descend, and gradient descent turns outwards with it. What
is here, and `optax.optimistic_gradient_descent` and `optax.optimistic_adam_v2`, turn inwards. Each
wraps the optimizer of one player and keeps only arrays, so that every step takes it as it is.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_jax import _cpu
from gan_jax._cpu.arrays import materialised
from gan_jax.trees import cast_like, widened
from gan_jax.types import Array, PyTree


def adam(
    learning_rate: optax.ScalarOrSchedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015, algorithm 1): the updates of `optax.adam`, to rounding.

    It may be differentiated through, as an unrolled GAN does: where all gradients so far were 0,
    and `optax.adam` without `eps_root` gives NaN, the derivative is the exact learning_rate / eps.
    That is large: for such use an `eps` of the size of the gradients that matter, say 1e-4.

    Both means are kept in float32 at least. Updates have the types of the gradients.

    Args:
      learning_rate: above 0; or a schedule, a function of the number of updates made.
      b1, b2: in [0, 1), the decay of the mean gradient and of the mean square.
      eps: added to the root of the mean square.

    Raises:
      ValueError: `b1` or `b2` out of range.
    """
    check_decays(b1=b1, b2=b2)

    def init(params: PyTree) -> optax.ScaleByAdamState:
        mean, square = (jax.tree.map(jnp.zeros_like, widened(params)) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), mean, square)

    def update(
        gradients: PyTree, state: optax.ScaleByAdamState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.ScaleByAdamState]:
        del params
        wide = widened(gradients)
        count = state.count + 1
        # On a CPU, XLA would compute the means twice, for the state and for the update.
        once = materialised if _cpu.uses("adam") else lambda mean: mean
        mean = jax.tree.map(lambda m, g: once(b1 * m + (1 - b1) * g), state.mu, wide)
        square = jax.tree.map(lambda v, g: once(b2 * v + (1 - b2) * jnp.square(g)), state.nu, wide)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        size = -rate / (1 - b1**count)
        scale = 1 / jnp.sqrt(1 - b2**count)
        updates = jax.tree.map(lambda m, v: size * m / (root(v) * scale + eps), mean, square)
        return cast_like(updates, gradients), optax.ScaleByAdamState(count, mean, square)

    return optax.GradientTransformation(init, update)


def check_decays(**decays: Any) -> None:
    """Raises ValueError for a decay outside of [0, 1), by its name.

    None and schedules pass, and so do traced arrays, whose values are not known yet.
    """
    for name, decay in decays.items():
        if decay is None or callable(decay) or isinstance(decay, jax.core.Tracer):
            continue
        if not np.all((np.asarray(decay) >= 0) & (np.asarray(decay) < 1)):
            raise ValueError(f"{name} must be in [0, 1), got {decay}")


@jax.custom_jvp
def root(square: Array) -> Array:
    """The square root of an array, its slope at 0 taken as 0.

    There the root's own is infinite, which makes NaN of a chain of derivatives that has a 0 next:
    Adam's mean is 0 where its mean square is, and so is a weight's gradient where a norm is.
    """
    return jnp.sqrt(square)


@root.defjvp
def _root_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    size = root(*primals)
    positive = size > 0
    slope = jnp.where(positive, 0.5 / jnp.where(positive, size, 1.0), 0.0)
    return size, slope * tangents[0]


class ExtragradientState(NamedTuple):
    """Of `extragradient`.

    Attributes:
      extrapolated: [] bool, whether the parameters are at the extrapolated point.
      anchor: the parameters before the extrapolation.
      inner: the state of the wrapped optimizer.
    """

    extrapolated: Array
    anchor: PyTree
    inner: PyTree


def extragradient(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Steps by the gradient a step ahead (Korpelevich 1976); of Adam, Extra-Adam.

    Calls come in pairs. The first is tx's update: it moves the parameters to the extrapolated
    point. The second, given the gradients there, moves them to where the pair began plus tx's
    update. Both advance tx's state, as in Gidel et al. 2019, algorithm 4. Both players extrapolate
    before either steps: two calls of `algorithms.make_simultaneous_step` are one step of the
    method. A moving average of the weights takes the extrapolated points in, too.

    Args:
      tx: any optimizer.

    Returns:
      An optimizer whose `update` needs the parameters. It hands further arguments, such as `value`
      of `optax.polyak_sgd`, to tx.
    """
    tx = optax.with_extra_args_support(tx)

    def init(params: PyTree) -> ExtragradientState:
        # A copy, for callers that donate what this returns.
        anchor = jax.tree.map(jnp.copy, params)
        return ExtragradientState(jnp.zeros((), bool), anchor, tx.init(params))

    def update(
        gradients: PyTree, state: ExtragradientState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, ExtragradientState]:
        _check_given(params, "extragradient")
        updates, inner = tx.update(gradients, state.inner, params, **extra)
        anchor = _select(state.extrapolated, state.anchor, params)
        updates = jax.tree.map(
            lambda a, p, u: (a - p) + u, *map(widened, (anchor, params, updates))
        )
        return cast_like(updates, params), ExtragradientState(~state.extrapolated, anchor, inner)

    return optax.GradientTransformationExtraArgs(init, update)


class LookaheadState(NamedTuple):
    """Of `lookahead`.

    Attributes:
      made: [] int32, the updates since the fast weights last met the slow ones.
      slow: the slow weights, in float32 at least; the parameters are the fast ones.
      inner: the state of the wrapped optimizer.
    """

    made: Array
    slow: PyTree
    inner: PyTree


def lookahead(
    tx: optax.GradientTransformation, every: int, alpha: float = 0.5
) -> optax.GradientTransformationExtraArgs:
    """Lookahead-minimax (Chavdarova et al. 2021, algorithm 1): steps back every so often.

    Every `every`-th update the parameters and the slow weights both go to slow + alpha (fast -
    slow), where fast are the parameters after tx's update. Give it to both players. If D makes n
    updates for each of G's, its `every` is n times G's. Nested, it is the paper's nested lookahead.
    Unlike `optax.lookahead` it needs no pair of parameters: the slow ones are in its state.

    Args:
      tx: any optimizer.
      every: the k of the paper, at least 1.
      alpha: in (0, 1]; 1 is tx itself.

    Returns:
      An optimizer whose `update` needs the parameters. It hands further arguments, such as `value`
      of `optax.polyak_sgd`, to tx.

    Raises:
      ValueError: `every` or `alpha` out of range.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be above 0 and at most 1, got {alpha}")
    tx = optax.with_extra_args_support(tx)

    def init(params: PyTree) -> LookaheadState:
        # A copy, for callers that donate what this returns.
        slow = jax.tree.map(jnp.copy, widened(params))
        return LookaheadState(jnp.zeros((), jnp.int32), slow, tx.init(params))

    def update(
        gradients: PyTree, state: LookaheadState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, LookaheadState]:
        _check_given(params, "lookahead")
        updates, inner = tx.update(gradients, state.inner, params, **extra)
        fast = optax.apply_updates(params, updates)
        made = state.made + 1
        back = made == every
        ahead = jax.tree.map(lambda s, f: s + alpha * (f - s), state.slow, widened(fast))
        slow = _select(back, ahead, state.slow)
        updates = _select(back, jax.tree.map(jnp.subtract, slow, widened(params)), updates)
        return cast_like(updates, params), LookaheadState(jnp.where(back, 0, made), slow, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _select(condition: Array, chosen: PyTree, other: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), chosen, other)


def _check_given(params: PyTree | None, name: str) -> None:
    if params is None:
        raise ValueError(f"{name} needs the parameters: call update(gradients, state, params)")

"""Optax optimizers: Adam, frozen or clipped parameters, and extragradient and lookahead for games.

In a two-player game, plain gradient descent can rotate around the equilibrium and move away from
it. `extragradient` and `lookahead` reduce this rotation, as `optax.optimistic_gradient_descent` and
`optax.optimistic_adam_v2` do. `extragradient` and `lookahead` each wrap the optimizer of one
player. The states of all these optimizers are trees of arrays, so every training step accepts them.
"""

from collections.abc import Callable
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
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: optax.ScalarOrSchedule = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Returns Adam (Kingma and Ba 2015, algorithm 1), equal to `optax.adam` up to rounding.

    An unrolled GAN can differentiate through the updates. If all gradients so far were 0, the
    derivative of `optax.adam` without `eps_root` is NaN. With this function the derivative is
    exact: learning_rate / eps. It is large for a small `eps`. An unrolled GAN should therefore use
    an `eps` about as large as the gradients that matter, such as 1e-4.

    The means of the gradients and of their squares are kept in float32 or wider. Updates have the
    types of the gradients.

    Args:
      learning_rate: a number above 0, or a schedule: a function of the number of updates made.
      b1: decay of the mean gradient, in [0, 1).
      b2: decay of the mean squared gradient, in [0, 1), or a schedule as for `learning_rate`. The
        bias correction after n updates is 1 - b2^n with the latest b2, as in PyTorch if b2 changes.
      eps: added to the square root of the mean squared gradient.

    Raises:
      ValueError: `b1` or `b2` is out of range.
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
        # On a CPU, XLA would compute each mean twice: for the state and for the update.
        once = materialised if _cpu.uses("adam") else lambda mean: mean
        c2 = b2(state.count) if callable(b2) else b2
        mean = jax.tree.map(lambda m, g: once(b1 * m + (1 - b1) * g), state.mu, wide)
        square = jax.tree.map(lambda v, g: once(c2 * v + (1 - c2) * jnp.square(g)), state.nu, wide)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        size = -rate / (1 - b1**count)
        scale = 1 / jnp.sqrt(1 - c2**count)
        updates = jax.tree.map(lambda m, v: size * m / (root(v) * scale + eps), mean, square)
        return cast_like(updates, gradients), optax.ScaleByAdamState(count, mean, square)

    return optax.GradientTransformation(init, update)


def check_decays(**decays: Any) -> None:
    """Raises a ValueError if a decay is outside [0, 1). Skips None, schedules and traced arrays."""
    for name, decay in decays.items():
        if decay is None or callable(decay) or isinstance(decay, jax.core.Tracer):
            continue
        if not np.all((np.asarray(decay) >= 0) & (np.asarray(decay) < 1)):
            raise ValueError(f"{name} must be in [0, 1), got {decay}")


@jax.custom_jvp
def root(square: Array) -> Array:
    """Returns the square root of an array, with derivative 0 at 0.

    The true derivative at 0 is infinite. If the chain rule multiplies it by 0, the result is NaN.
    This happens in Adam if all gradients so far were 0, and in the gradient of a norm of 0.
    """
    return jnp.sqrt(square)


@root.defjvp
def _root_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    size = root(*primals)
    positive = size > 0
    slope = jnp.where(positive, 0.5 / jnp.where(positive, size, 1.0), 0.0)
    return size, slope * tangents[0]


def frozen(
    tx: optax.GradientTransformation, where: Callable[[str], bool]
) -> optax.GradientTransformationExtraArgs:
    """Returns tx, except that some parameters never change.

    FreezeD (Mo et al. 2020) adapts a trained GAN to a small data set: D's first layers, which are
    those next to the image, are frozen, and its other layers and all of G are trained. The first
    layers of `dcgan` are Conv_0, Conv_1 and so on:

        tx = frozen(adam(2e-4), lambda path: path.startswith("Conv_0/"))

    Running statistics, such as those of batch norm, still change.

    Args:
      tx: any optimizer. It keeps no state for the frozen parameters.
      where: whether to freeze the parameter at a path such as "Conv_0/kernel".

    Raises:
      ValueError: raised by `init` if no parameter or every parameter would be frozen.
    """

    def labels(params: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten_with_path(params)
        paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
        chosen = [bool(where(path)) for path in paths]
        if all(chosen) or not any(chosen):
            raise ValueError(
                f"where freezes {sum(chosen)} of {len(chosen)} parameters: choose some of "
                f"{', '.join(paths)}"
            )
        return jax.tree.unflatten(structure, ["frozen" if c else "trained" for c in chosen])

    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)


def clip_weights(
    tx: optax.GradientTransformation, limit: float
) -> optax.GradientTransformationExtraArgs:
    """Returns tx, except that each update leaves every parameter in [-limit, limit].

    This is the weight clipping of WGAN (Arjovsky et al. 2017, algorithm 1), for the optimizer of D.
    Kernels, biases and the parameters of batch norm are clipped alike, as in the authors' code. The
    paper uses 0.01. The first parameters are not clipped before their first update.

    Args:
      tx: any optimizer.
      limit: the largest absolute value of a parameter, above 0.

    Returns:
      An optimizer whose `update` needs the parameters. It passes extra arguments to tx, such as
      `value` for `optax.polyak_sgd`.

    Raises:
      ValueError: `limit` is not a finite number above 0. `update` raises ValueError if it does not
        receive the parameters.
    """
    if not 0 < limit < np.inf:
        raise ValueError(f"limit must be finite and above 0, got {limit}")
    tx = optax.with_extra_args_support(tx)

    def clipped(param: Array, update: Array) -> Array:
        bound = jnp.asarray(limit, param.dtype)
        moved = jnp.clip(param + update, -bound, bound) - param
        # The difference is rounded, so the next parameter may be a little outside the bounds.
        inwards = jnp.nextafter(moved, -jnp.sign(param + moved) * jnp.inf)
        return jnp.where(jnp.abs(param + moved) > bound, inwards, moved)

    def update(
        gradients: PyTree, state: PyTree, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        _check_given(params, "clip_weights")
        updates, state = tx.update(gradients, state, params, **extra)
        return jax.tree.map(clipped, params, cast_like(updates, params)), state

    return optax.GradientTransformationExtraArgs(tx.init, update)


class ExtragradientState(NamedTuple):
    """State of `extragradient`.

    Attributes:
      extrapolated: [] bool, whether the parameters are at the extrapolated point.
      anchor: the parameters before the extrapolation.
      inner: the state of the wrapped optimizer.
    """

    extrapolated: Array
    anchor: PyTree
    inner: PyTree


def extragradient(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Returns the extragradient method (Korpelevich 1976), which uses the gradient one step ahead.

    One step of the method takes two calls of `update`. The first call applies tx's update, which
    moves the parameters to the extrapolated point. The second call receives the gradients at that
    point. It applies tx's update to the parameters from before the first call. Both calls advance
    tx's state, as in Gidel et al. 2019, algorithm 4. With Adam as tx, the method is the Extra-Adam
    of that paper.

    Both players must make the first call before either makes the second. A step of
    `algorithms.make_simultaneous_step` makes one call for each player, so two such steps are one
    step of the method. A moving average of the weights includes the extrapolated points.

    Args:
      tx: any optimizer.

    Returns:
      An optimizer whose `update` needs the parameters. It passes extra arguments to tx, such as
      `value` for `optax.polyak_sgd`.

    Raises:
      ValueError: raised by `update` if it does not receive the parameters.
    """
    tx = optax.with_extra_args_support(tx)

    def init(params: PyTree) -> ExtragradientState:
        # Copied, because a caller may donate the parameters together with this state.
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
    """State of `lookahead`.

    Attributes:
      made: [] int32, the number of updates since the fast weights were last set to the slow ones.
      slow: the slow weights, in float32 or wider. The parameters are the fast weights.
      inner: the state of the wrapped optimizer.
    """

    made: Array
    slow: PyTree
    inner: PyTree


def lookahead(
    tx: optax.GradientTransformation, every: int, alpha: float = 0.5
) -> optax.GradientTransformationExtraArgs:
    """Returns Lookahead-minimax (Chavdarova et al. 2021, algorithm 1) around an optimizer.

    The state holds slow weights. The parameters are the fast weights. Once in `every` updates, both
    are set to slow + alpha (fast - slow), where fast is the result of tx's update. Both players
    should use lookahead. If D makes n updates per update of G, D's `every` should be n times G's. A
    lookahead around another lookahead is the paper's nested lookahead. `optax.lookahead` needs a
    pair of parameter trees, fast and slow. This function keeps the slow weights in its state, so
    the parameters remain a single tree.

    Args:
      tx: any optimizer.
      every: number of updates from one interpolation to the next, called k in the paper. At least
        1.
      alpha: interpolation factor, in (0, 1]. With 1 the updates are those of tx.

    Returns:
      An optimizer whose `update` needs the parameters. It passes extra arguments to tx, such as
      `value` for `optax.polyak_sgd`.

    Raises:
      ValueError: `every` or `alpha` is out of range. `update` raises ValueError if it does not
        receive the parameters.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be above 0 and at most 1, got {alpha}")
    tx = optax.with_extra_args_support(tx)

    def init(params: PyTree) -> LookaheadState:
        # Copied, because a caller may donate the parameters together with this state.
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

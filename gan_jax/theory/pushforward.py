"""The density p_g of a generator's samples, by change of variables from the prior's density."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gan_jax.types import Array

LogProb = Callable[[Array], Array]
"""The log density of one point, [D] -> [], or of many points, [N, D] -> [N]."""


def pushforward_log_prob(fn: Callable[[Array], Array], z: Array, prior_log_prob: LogProb) -> Array:
    """Returns log p_g(G(z)) = log p_z(z) - log |det dG/dz| for an invertible G: [N, D] -> [N].

    The density is computed at x = G(z) for given z, so G need not be inverted. The Jacobian of `fn`
    is computed by forward-mode differentiation, with D passes (one per dimension) for each point.
    Its determinant takes O(D^3) operations for each point. All Jacobians [N, D, D] are in memory at
    once. The density is infinite where the Jacobian is singular. If several z map to one x, each
    adds to the density at x, and the result counts only the given z. For one variable,
    `branched_log_prob` adds up all z that map to x.

    Args:
      fn: maps one point z [D] to x [D].
      z: [N, D].
      prior_log_prob: log p_z of one point or of many.

    Raises:
      ValueError: `fn` changes the shape of a point, or `prior_log_prob` does not return one number
        for each point.
    """
    made = jax.eval_shape(fn, z[0])
    if made.shape != z[0].shape:
        raise ValueError(
            f"fn maps a point of shape {z[0].shape} to shape {made.shape}: a change of variables "
            "needs as many coordinates of x as of z"
        )
    _, log_det = jnp.linalg.slogdet(jax.vmap(jax.jacfwd(fn))(z))
    return _of_many(prior_log_prob, z) - log_det


def branched_log_prob(
    fn: Callable[[Array], Array],
    x: Array,
    z: Array,
    prior_log_prob: LogProb,
    *,
    num_branches: int = 8,
) -> Array:
    """Returns log p_g(x) [N] for any smooth G of one variable, also if several z map to one x.

    p_g(x) is the sum of p_z(z) / |G'(z)| over all z with G(z) = x. The result is -inf where no z
    maps to x. A fold is a z where G turns back. The folds and the z for each x are found by
    bisection, up to rounding. No z is missed if G has at most one fold between neighbours of the
    grid `z`. The function needs memory for about 6 N M numbers.

    Args:
      fn: maps one point z [1] to x [1].
      x: [N, 1] points at which to evaluate.
      z: [M, 1] increasing grid that covers the prior's mass.
      prior_log_prob: log p_z of one point or of many.
      num_branches: largest number of z for one x. If there are more, the result is NaN.

    Raises:
      ValueError: as for `pushforward_log_prob`.
    """

    def at(points: Array) -> Array:
        return jax.vmap(lambda point: fn(point[None])[0])(points.ravel()).reshape(points.shape)

    def slope(points: Array) -> Array:
        return jax.vmap(jax.grad(lambda point: fn(point[None])[0]))(points)

    # The folds become nodes, so that G is monotone between neighbouring nodes. In an interval
    # without a fold, bisection would end next to a node, and rounding could reverse the order of
    # the two. In such an interval the middle becomes a node instead.
    nodes, rising = z[:, 0], slope(z[:, 0]) > 0
    folds = _bisect(lambda points: slope(points) > 0, rising[:-1], nodes[:-1], nodes[1:])
    folds = jnp.where(rising[1:] == rising[:-1], (nodes[:-1] + nodes[1:]) / 2, folds)
    nodes = jnp.append(jnp.stack([nodes[:-1], folds], axis=1).ravel(), nodes[-1])

    above = at(nodes)[None] > x
    crossing = above[:, 1:] != above[:, :-1]  # [N, 2 M - 2]
    found, cell = jax.lax.top_k(crossing.astype(jnp.int32), num_branches)
    at_low = jnp.take_along_axis(above, cell, axis=1)
    roots = _bisect(lambda points: at(points) > x, at_low, nodes[cell], nodes[cell + 1])
    parts = pushforward_log_prob(fn, roots.reshape(-1, 1), prior_log_prob).reshape(roots.shape)
    log_prob = jax.nn.logsumexp(jnp.where(found == 1, parts, -jnp.inf), axis=1)
    return jnp.where(jnp.sum(crossing, axis=1) <= num_branches, log_prob, jnp.nan)


def _bisect(positive: Callable[[Array], Array], at_low: Array, low: Array, high: Array) -> Array:
    """Returns the point between `low` and `high` where `positive` changes, elementwise.

    If `positive` does not change, the result is an arbitrary point. `at_low` is the value of
    `positive` at `low`. The caller computes this value, because a second computation might round
    differently.
    """

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        same = positive(middle) == at_low
        return jnp.where(same, middle, low), jnp.where(same, high, middle)

    steps = jnp.finfo(low.dtype).nmant + 1  # enough halvings to reach rounding
    low, high = jax.lax.fori_loop(0, steps, halve, (low, high))
    return (low + high) / 2


def _of_many(log_prob: LogProb, z: Array) -> Array:
    """Returns log_prob of each point [N], for a function of one point or of many."""
    try:
        takes_a_point = jax.eval_shape(log_prob, z[0]).shape == ()
    except (TypeError, ValueError, IndexError):
        takes_a_point = False
    made = jax.vmap(log_prob)(z) if takes_a_point else log_prob(z)
    if made.shape != z.shape[:1]:
        raise ValueError(
            f"prior_log_prob returned shape {made.shape} for points of shape {z.shape}: it must "
            f"return one number for each, shape {z.shape[:1]}"
        )
    return made

"""The density p_g of a generator's samples, from the prior's density by change of variables."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gan_jax.types import Array

LogProb = Callable[[Array], Array]
"""The log density of one point, [D] -> [], or of many, [N, D] -> [N]."""


def pushforward_log_prob(fn: Callable[[Array], Array], z: Array, prior_log_prob: LogProb) -> Array:
    """log p_g(G(z)) = log p_z(z) - log |det dG/dz|, for an invertible G: [N, D] -> [N].

    The density is computed at x = G(z) for given z, so G need not be inverted. The Jacobian of `fn`
    comes from forward-mode differentiation, D passes and O(D^3) operations a point; all Jacobians
    together take N D^2 numbers of memory. Where one is singular the density is infinite. If several
    z lead to one x, this is this z's share of the density at x: see `branched_log_prob`.

    Args:
      fn: one point z [D] -> x [D].
      z: [N, D].
      prior_log_prob: log p_z of one point or of many.

    Raises:
      ValueError: if `fn` changes the shape of a point, for which this formula does not hold; if
        `prior_log_prob` does not return one number for each point.
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
    """log p_g(x) [N] of any smooth G of one variable, summed over all z with G(z) = x.

    p_g(x) = sum over the branches of p_z(z) / |G'(z)|; -inf where no z leads to x. Folds and
    branches are found by bisection, to rounding. No branch is missed if G has at most one fold
    between neighbours of the grid `z`. Memory: about 6 N M numbers.

    Args:
      fn: one point z [1] -> x [1].
      x: [N, 1] points at which to evaluate.
      z: [M, 1] increasing grid that covers the prior's mass.
      prior_log_prob: log p_z of one point or of many.
      num_branches: the most z for one x; where there are more, the result is NaN.
    """

    def at(points: Array) -> Array:
        return jax.vmap(lambda point: fn(point[None])[0])(points.ravel()).reshape(points.shape)

    def slope(points: Array) -> Array:
        return jax.vmap(jax.grad(lambda point: fn(point[None])[0]))(points)

    # With the folds among its nodes, G is monotone between neighbours. A cell without one has its
    # middle there, not the end that bisection would run to: next to a node rounding is no order.
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
    """The point between `low` and `high` where `positive` changes, elementwise; else any point.

    `at_low` is the value of `positive` at `low` that the caller computed. Another program might
    round it to the other side.
    """

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        same = positive(middle) == at_low
        return jnp.where(same, middle, low), jnp.where(same, high, middle)

    steps = jnp.finfo(low.dtype).nmant + 1  # as many as halve a cell down to rounding
    low, high = jax.lax.fori_loop(0, steps, halve, (low, high))
    return (low + high) / 2


def _of_many(log_prob: LogProb, z: Array) -> Array:
    """log_prob of each point [N], whether the function takes one point or many."""
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

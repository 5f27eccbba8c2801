"""The density p_g of a generator's samples: that of the prior, carried along x = G(z)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gan_jax.types import Array

LogProb = Callable[[Array], Array]
"""The log density of one point, [D] -> [], or of many, [N, D] -> [N]."""


def pushforward_log_prob(fn: Callable[[Array], Array], z: Array, prior_log_prob: LogProb) -> Array:
    """log p_g(G(z)) = log p_z(z) - log |det dG/dz|, for an invertible G: [N, D] -> [N].

    The change of variables at x = G(z), in terms of z, so that G need not be inverted. The
    Jacobian is `fn`'s own, by forward-mode differentiation: D passes, O(D^3) a point. Where it is
    singular the density is infinite. If several z lead to one x, this is the part of the density
    at x that comes from this z: see `branched_log_prob`.

    Args:
      fn: one point z [D] -> x [D].
      z: [N, D].
      prior_log_prob: log p_z of one point or of many.

    Raises:
      ValueError: `fn` changes the shape of a point: there is no density then, or another formula.
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
    """log p_g(x) of any smooth G of one variable, the sum of all z with G(z) = x: -> [N].

    p_g(x) = sum over the branches of p_z(z) / |G'(z)|; -inf where no z leads to x. Between two
    neighbours of the grid `z` at most one fold of G is looked for; no branch is missed then. Folds
    and branches are found by bisection, to rounding.

    Args:
      fn: one point z [1] -> x [1].
      x: [N, 1], where to evaluate.
      z: [M, 1], increasing, over all of the prior's mass.
      prior_log_prob: log p_z of one point or of many.
      num_branches: how many z to look for; where there are more, the answer is NaN.
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
    """Where `positive` changes between `low` and `high`, elementwise; if it does not, any point.

    `at_low` is what it is at `low`, and has to be what the change was seen by: computed once more,
    in another program, it may be rounded to the other side.
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
    """log_prob of each point, whether the function takes one or many."""
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

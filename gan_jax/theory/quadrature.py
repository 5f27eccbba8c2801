"""Integrals as weighted sums over nodes, from log densities [N] and weights [N].

A density that is zero at a node has log density -inf. The node then contributes nothing, whatever
the integrand is. For a probability vector the weights are ones.
"""

import jax.numpy as jnp
import numpy as np

from gan_jax.types import Array


def expectation(log_p: Array, x: Array, weights: Array) -> Array:
    """Returns E_p[x], the sum of weights * p * x, as a scalar []. 0 times infinity counts as 0.

    The density p is given by its logarithm `log_p` [N].
    """
    return integral(times(log_p, x), weights)


def integral(x: Array, weights: Array) -> Array:
    """Returns the sum of weights * x over the nodes with nonzero weight: [N], [N] -> []."""
    counted = weights != 0
    return jnp.sum(jnp.where(counted, weights * jnp.where(counted, x, 0.0), 0.0))


def times(log_p: Array, x: Array) -> Array:
    """Returns p * x: [...], [...] -> [...].

    The result and its gradients are 0 where p = 0, even if x is infinite. The density p is given by
    its logarithm `log_p`. Where x is infinite and log p is finite the result is x, even if p itself
    rounds to 0.
    """
    positive = log_p > -jnp.inf
    p = jnp.where(positive, jnp.exp(jnp.where(positive, log_p, 0.0)), 0.0)
    x = jnp.where(positive, x, 0.0)
    finite = jnp.isfinite(x)
    return jnp.where(finite, p * jnp.where(finite, x, 0.0), x)


def interval(low: float, high: float, num: int) -> tuple[Array, Array]:
    """Returns `num` equidistant nodes and their weights for the trapezoidal rule: [num], [num].

    The first node is `low` and the last is `high`.

    For a smooth density that vanishes at both ends, the error falls faster than any power of the
    spacing (Trefethen and Weideman 2014). A thousand nodes integrate a Gaussian up to rounding.
    """
    nodes, step = np.linspace(low, high, num, retstep=True)
    weights = np.full(num, step)
    weights[[0, -1]] /= 2
    return jnp.asarray(nodes), jnp.asarray(weights)


def box(*axes: tuple[Array, Array]) -> tuple[Array, Array]:
    """Returns nodes [N, D] and weights [N] of a product of D one-dimensional rules.

    A one-dimensional rule is a pair (nodes, weights).

    N is the product of the numbers of nodes of the rules, so memory grows exponentially with D.
    """
    nodes = jnp.meshgrid(*(nodes for nodes, _ in axes), indexing="ij")
    weights = jnp.meshgrid(*(weights for _, weights in axes), indexing="ij")
    return (
        jnp.stack([axis.ravel() for axis in nodes], axis=1),
        jnp.prod(jnp.stack([axis.ravel() for axis in weights]), axis=0),
    )


def standard_normal(num: int) -> tuple[Array, Array]:
    """Returns nodes [num] and weights [num] for Z ~ N(0, 1): sum(weights * x(nodes)) = E[x(Z)].

    This is the Gauss-Hermite rule, which is exact for polynomials of degree below 2 `num`.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(num)
    return jnp.asarray(nodes), jnp.asarray(weights / weights.sum())

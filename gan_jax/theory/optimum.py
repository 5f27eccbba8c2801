"""The value of the game and its optimum: V(D, G), D*, C(G) (Goodfellow et al. 2014, section 4).

p is the density of the data, and q is the density of the generator's samples. Both are given by
their logarithms `log_p`, `log_q` [N] at nodes with `weights` [N]. For a probability vector the
weights are ones. D is given by its logit, D = sigmoid(logit). Logarithms are natural, so values are
in nats.

>>> import jax.numpy as jnp
>>> log_p, log_q = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]))
>>> print(optimal_discriminator(log_p, log_q).round(4))
[0.7143 0.5    0.2857]
>>> print(criterion(log_p, log_q, jnp.ones(3)).round(6), criterion(log_p, log_p, jnp.ones(3)))
-1.253466 -1.3862944
"""

import jax
import jax.numpy as jnp

from gan_jax.theory.quadrature import expectation
from gan_jax.types import Array


def optimal_logit(log_p: Array, log_q: Array) -> Array:
    """Returns the logit of D*, which is log p - log q: [...], [...] -> [...].

    The logit is infinite where one density is zero. Where both densities are zero, every D is
    optimal. The result is then 0, the logit of D = 1/2.
    """
    nowhere = (log_p == -jnp.inf) & (log_q == -jnp.inf)
    return jnp.where(nowhere, 0.0, log_p) - jnp.where(nowhere, 0.0, log_q)


def optimal_discriminator(log_p: Array, log_q: Array) -> Array:
    """Returns D* = p / (p + q), which maximises V over D: [...], [...] -> [...] in [0, 1].

    The formula is proposition 1 of Goodfellow et al. 2014. Where both densities are zero the result
    is 1/2.
    """
    return jax.nn.sigmoid(optimal_logit(log_p, log_q))


def value(logit: Array, log_p: Array, log_q: Array, weights: Array) -> Array:
    """Returns V(D, G) = E_p[log D] + E_q[log(1 - D)] as a scalar [].

    This is equation 1 of Goodfellow et al. 2014. V is at most C(G). It is -inf if D is certain and
    wrong at a node with mass.
    """
    real = expectation(log_p, jax.nn.log_sigmoid(logit), weights)
    return real + expectation(log_q, jax.nn.log_sigmoid(-logit), weights)


def criterion(log_p: Array, log_q: Array, weights: Array) -> Array:
    """Returns C(G) = max over D of V(D, G) = 2 JSD(p, q) - log 4, as a scalar [].

    The range is [-log 4, 0]. The value is -log 4 if and only if p = q, and 0 if the supports are
    disjoint (Goodfellow et al. 2014, theorem 1).
    """
    return value(optimal_logit(log_p, log_q), log_p, log_q, weights)

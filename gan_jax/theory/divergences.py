"""f-divergences D_f(p, q) = E_q[f(p/q)] and their variational form.

f is convex, and f(1) = 0 except for `gan`. The conjugate of f is f*(t) = sup_u (u t - f(u)). Any
critic T gives the bound E_p[T] - E_q[f*(T)] <= D_f. The bound is tight at T* = f'(p/q) (Nguyen,
Wainwright and Jordan 2010; Nowozin, Cseke and Tomioka 2016, equation 4). All divergences are in
nats.

Densities are given by their logarithms `log_p`, `log_q` [N] at nodes with `weights` [N]. For a
probability vector the weights are ones. Densities of zero (logarithm -inf) are handled exactly. A
divergence may be +inf by its definition, but it is never NaN.

>>> import jax.numpy as jnp
>>> log_p, log_q = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]))
>>> print(f"{js_divergence(log_p, log_q, jnp.ones(3)):.6f}")
0.066414
>>> left, right = jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
>>> print(js_divergence(left, right, jnp.ones(2)), kl_divergence(left, right, jnp.ones(2)))
0.6931472 inf
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gan_jax.theory.optimum import optimal_logit
from gan_jax.theory.quadrature import integral, times
from gan_jax.types import Array

LOG_2 = math.log(2.0)


class FDivergence(NamedTuple):
    """An f-divergence as elementwise functions of arrays of any shape.

    Attributes:
      perspective: `(log_p, log_q) -> q f(p/q)`, the integrand. It is exact where p or q is 0.
      conjugate: t -> f*(t). The result is +inf outside the domain of f*.
      optimal_critic: T* = f'(u) as a function of log u = log p - log q.
      activation: an increasing function g that maps a network's output v to the critic T = g(v) in
        the domain of f* (Nowozin et al. 2016, table 2). For neyman and total_variation, g is the
        increasing function in the paper's appendix.
    """

    perspective: Callable[[Array, Array], Array]
    conjugate: Callable[[Array], Array]
    optimal_critic: Callable[[Array], Array]
    activation: Callable[[Array], Array]

    def f(self, u: Array) -> Array:
        """Returns f(u) for u >= 0: [...] -> [...]. For u = 0 the result is the limit."""
        return self.perspective(jnp.log(u), jnp.zeros_like(u))


def _kl(log_p: Array, log_q: Array) -> Array:
    """Returns q f(p/q) for f(u) = u log u."""
    return times(log_p, optimal_logit(log_p, log_q))


def _pearson(log_p: Array, log_q: Array) -> Array:
    """Returns q f(p/q) for f(u) = (u - 1)^2.

    It is computed as (max(p, q)^2 / q) * (1 - min(p, q) / max(p, q))^2. This form overflows only
    where the result itself does.
    """
    distance = jnp.abs(optimal_logit(log_p, log_q))
    return times(2 * jnp.maximum(log_p, log_q) - log_q, jnp.square(jnp.expm1(-distance)))


def _squared_hellinger(log_p: Array, log_q: Array) -> Array:
    """Returns q f(p/q) for f(u) = (sqrt u - 1)^2."""
    return jnp.square(jnp.exp(log_p / 2) - jnp.exp(log_q / 2))


def _gan(log_p: Array, log_q: Array, shift: float = 0.0) -> Array:
    """Returns q f(p/q) for f(u) = u log u - (u + 1) (log(u + 1) - shift)."""
    logit = optimal_logit(log_p, log_q)
    real = times(log_p, shift + jax.nn.log_sigmoid(logit))
    return real + times(log_q, shift + jax.nn.log_sigmoid(-logit))


def _where(inside: Array, function: Callable[[Array], Array], t: Array, safe: float) -> Array:
    """Returns function(t) inside a conjugate's domain and +inf outside.

    Outside the domain, `safe` replaces t in the computation, so that gradients are finite.
    """
    return jnp.where(inside, function(jnp.where(inside, t, safe)), jnp.inf)


F_DIVERGENCES: dict[str, FDivergence] = {
    "kl": FDivergence(
        perspective=_kl,
        conjugate=lambda t: jnp.exp(t - 1),
        optimal_critic=lambda log_u: 1 + log_u,
        activation=lambda v: v,
    ),
    "reverse_kl": FDivergence(
        perspective=lambda log_p, log_q: _kl(log_q, log_p),
        conjugate=lambda t: _where(t < 0, lambda t: -1 - jnp.log(-t), t, -1.0),
        optimal_critic=lambda log_u: -jnp.exp(-log_u),
        activation=lambda v: -jnp.exp(-v),
    ),
    "pearson": FDivergence(
        perspective=_pearson,
        conjugate=lambda t: jnp.square(t) / 4 + t,
        optimal_critic=lambda log_u: 2 * jnp.expm1(log_u),
        activation=lambda v: v,
    ),
    "neyman": FDivergence(
        perspective=lambda log_p, log_q: _pearson(log_q, log_p),
        conjugate=lambda t: _where(t <= 1, lambda t: 2 - 2 * jnp.sqrt(1 - t), t, 0.0),
        optimal_critic=lambda log_u: -jnp.expm1(-2 * log_u),
        activation=lambda v: -jnp.expm1(-v),
    ),
    "squared_hellinger": FDivergence(
        perspective=_squared_hellinger,
        conjugate=lambda t: _where(t < 1, lambda t: 1 / (1 - t) - 1, t, 0.0),
        optimal_critic=lambda log_u: -jnp.expm1(-log_u / 2),
        activation=lambda v: -jnp.expm1(-v),
    ),
    "js": FDivergence(
        perspective=lambda log_p, log_q: _gan(log_p, log_q, LOG_2),
        conjugate=lambda t: _where(t < LOG_2, lambda t: -jnp.log(2 - jnp.exp(t)), t, 0.0),
        optimal_critic=lambda log_u: LOG_2 + jax.nn.log_sigmoid(log_u),
        activation=lambda v: LOG_2 + jax.nn.log_sigmoid(v),
    ),
    "gan": FDivergence(
        perspective=_gan,
        conjugate=lambda t: _where(t < 0, lambda t: -jnp.log(-jnp.expm1(t)), t, -1.0),
        optimal_critic=jax.nn.log_sigmoid,
        activation=jax.nn.log_sigmoid,
    ),
    "total_variation": FDivergence(
        perspective=lambda log_p, log_q: jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)) / 2,
        conjugate=lambda t: _where(jnp.abs(t) <= 0.5, lambda t: t, t, 0.0),
        optimal_critic=lambda log_u: jnp.sign(log_u) / 2,
        activation=lambda v: jnp.tanh(v) / 2,
    ),
}
"""The eight divergences of Nowozin et al. 2016 by name. `kl` is KL(p, q), `pearson` has q in the
denominator, `js` is twice the Jensen-Shannon divergence, and `gan` is `js` minus log 4."""


def f_divergence(name: str, log_p: Array, log_q: Array, weights: Array) -> Array:
    """Returns D_f(p, q) = E_q[f(p/q)] as a scalar []. `name` is one of `F_DIVERGENCES`.

    Values of x at which q is 0 add p(x) times the limit of f(u)/u at infinity, as in the definition
    of D_f.
    """
    return integral(F_DIVERGENCES[name].perspective(log_p, log_q), weights)


def variational_bound(
    name: str, critic: Array, log_p: Array, log_q: Array, weights: Array
) -> Array:
    """Returns the lower bound E_p[T] - E_q[f*(T)] of D_f(p, q), a scalar [].

    `name` is one of `F_DIVERGENCES`. The values of the critic T are `critic` [N]. The bound equals
    D_f(p, q) for T = T*.

    If p/q is very large or very small at a node, T* can round to the end of the domain of f*. T* or
    f*(T*) is then infinite at this node. The bound is -inf if such a node has mass.
    """
    conjugate = F_DIVERGENCES[name].conjugate(critic)
    of_p, of_q = times(log_p, critic), times(log_q, conjugate)
    lost = (weights != 0) & ((of_p == -jnp.inf) | (of_q == jnp.inf))
    bound = integral(jnp.where(lost, 0.0, of_p - of_q), weights)
    return jnp.where(lost.any(), -jnp.inf, bound)


def kl_divergence(log_p: Array, log_q: Array, weights: Array) -> Array:
    """Returns KL(p, q) = E_p[log p - log q] as a scalar [], in [0, inf]."""
    return f_divergence("kl", log_p, log_q, weights)


def js_divergence(log_p: Array, log_q: Array, weights: Array) -> Array:
    """Returns JSD(p, q) = (KL(p, m) + KL(q, m)) / 2 with m = (p + q) / 2, as a scalar [].

    The range is [0, log 2].
    """
    return f_divergence("js", log_p, log_q, weights) / 2

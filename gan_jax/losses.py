"""Adversarial losses: per example, on logits, minimised by both players.

Write D(x) = sigmoid(logit). Then log D = -softplus(-logit) and log(1 - D) = -softplus(logit),
which stay finite, with finite gradients, at any size of logit. Each value of this module is an
`AdversarialLoss`; its functions map `(real_logits [B], fake_logits [B])` to `[B]`.

>>> import jax.numpy as jnp
>>> real, fake = jnp.array([0.0]), jnp.array([0.0])       # D = 1/2 everywhere ...
>>> float(-minimax.discriminator(real, fake)[0])          # ... where V = -log 4
-1.3862943649291992
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gan_jax.types import AdversarialLoss, Array

_LOG_2 = math.log(2.0)


def _cross_entropy(real_logits: Array, fake_logits: Array) -> Array:
    """L_D = -V = -log D(x) - log(1 - D(G(z))) (Goodfellow et al. 2014, equation 1)."""
    return jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits)


def _saturating(real_logits: Array, fake_logits: Array) -> Array:
    """log(1 - D(G(z))), whose gradient in the logit is -D: it dies as D rejects the fake."""
    del real_logits
    return -jax.nn.softplus(fake_logits)


def _non_saturating(real_logits: Array, fake_logits: Array) -> Array:
    """-log D(G(z)), whose gradient in the logit is -(1 - D)."""
    del real_logits
    return jax.nn.softplus(-fake_logits)


def _least_squares_discriminator(real_logits: Array, fake_logits: Array) -> Array:
    return 0.5 * (jnp.square(real_logits - 1.0) + jnp.square(fake_logits))


def _least_squares_generator(real_logits: Array, fake_logits: Array) -> Array:
    del real_logits
    return 0.5 * jnp.square(fake_logits - 1.0)


def _hinge_discriminator(real_logits: Array, fake_logits: Array) -> Array:
    return jax.nn.relu(1.0 - real_logits) + jax.nn.relu(1.0 + fake_logits)


def _wasserstein_discriminator(real_logits: Array, fake_logits: Array) -> Array:
    return fake_logits - real_logits


def _raise_logit(real_logits: Array, fake_logits: Array) -> Array:
    """-logit(G(z)), the generator's side of the hinge and the Wasserstein loss."""
    del real_logits
    return -fake_logits


minimax = AdversarialLoss(_cross_entropy, _saturating)
"""The game of V(D, G) itself: min over G, max over D (Goodfellow et al. 2014, equation 1)."""

non_saturating = AdversarialLoss(_cross_entropy, _non_saturating)
"""The same D; G maximises log D(G(z)) (Goodfellow et al. 2014, section 3). The same fixed
point as `minimax`, other gradients."""

least_squares = AdversarialLoss(_least_squares_discriminator, _least_squares_generator)
"""LSGAN with targets a = 0, b = c = 1 (Mao et al. 2017, equation 9)."""

hinge = AdversarialLoss(_hinge_discriminator, _raise_logit)
"""The hinge loss (Lim and Ye 2017; Miyato et al. 2018, equations 16 and 17)."""

wasserstein = AdversarialLoss(_wasserstein_discriminator, _raise_logit)
"""E[D(fake)] - E[D(real)] (Arjovsky et al. 2017): wants a Lipschitz D, so a penalty."""


def f_divergence(name: str, *, non_saturating: bool = False) -> AdversarialLoss:
    """The game of an f-GAN: D raises E_p[T] - E_q[f*(T)] towards D_f(p, q), and G lowers it.

    D's output v becomes the critic T = g(v) by the activation of Nowozin et al. 2016 (table 2; for
    Neyman and total variation, of the appendix, the increasing form). At the optimum v is
    log(p/q) for reverse_kl, js and gan, 1 + log(p/q) for kl, 2 (p/q - 1) for pearson, twice
    log(p/q) for neyman, half of it for squared_hellinger, and infinite for total_variation.
    The exponentials are exact, not clipped: under kl, reverse_kl, neyman and squared_hellinger
    a logit beyond 80 overflows float32.

    Args:
      name: kl, reverse_kl, pearson, neyman, squared_hellinger, js, gan (which is `minimax`) or
        total_variation.
      non_saturating: whether G raises E_q[T] in place of E_q[f*(T)] (Nowozin et al. 2016, section
        3.2), as `non_saturating` does for gan.

    Raises:
      ValueError: another name.
    """
    if name not in _F_DIVERGENCES:
        raise ValueError(f"name must be one of {', '.join(_F_DIVERGENCES)}, got {name!r}")
    critic, conjugate = _F_DIVERGENCES[name]

    def discriminator(real_logits: Array, fake_logits: Array) -> Array:
        return conjugate(fake_logits) - critic(real_logits)

    def generator(real_logits: Array, fake_logits: Array) -> Array:
        del real_logits
        return -critic(fake_logits) if non_saturating else -conjugate(fake_logits)

    return AdversarialLoss(discriminator, generator)


_F_DIVERGENCES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "kl": (lambda v: v, lambda v: jnp.exp(v - 1)),
    "reverse_kl": (lambda v: -jnp.exp(-v), lambda v: v - 1),
    "pearson": (lambda v: v, lambda v: jnp.square(v) / 4 + v),
    "neyman": (lambda v: -jnp.expm1(-v), lambda v: -2 * jnp.expm1(-v / 2)),
    "squared_hellinger": (lambda v: -jnp.expm1(-v), jnp.expm1),
    "js": (lambda v: _LOG_2 - jax.nn.softplus(-v), lambda v: jax.nn.softplus(v) - _LOG_2),
    "gan": (lambda v: -jax.nn.softplus(-v), jax.nn.softplus),
    "total_variation": (lambda v: jnp.tanh(v) / 2, lambda v: jnp.tanh(v) / 2),
}
"""g(v) and f*(g(v)), simplified by hand so that neither passes through a rounded log of zero."""

LOSSES: dict[str, AdversarialLoss] = {
    "minimax": minimax,
    "non_saturating": non_saturating,
    "least_squares": least_squares,
    "hinge": hinge,
    "wasserstein": wasserstein,
}
"""Every loss by its name."""

"""Adversarial losses: per example, on logits, minimised by both players.

Write D(x) = sigmoid(logit). Then log D = -softplus(-logit) and log(1 - D) = -softplus(logit),
which stay finite, with finite gradients, at any size of logit. Each value of this module is an
`AdversarialLoss`; its functions map `(real_logits [B], fake_logits [B])` to `[B]`, and raise
AssertionError for logits that are not floating, not of rank 1 or not of one shape.

>>> import jax.numpy as jnp
>>> real, fake = jnp.array([0.0]), jnp.array([0.0])       # D = 1/2 everywhere ...
>>> float(-minimax.discriminator(real, fake)[0])          # ... where V = -log 4
-1.3862943649291992
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp

from gan_jax import batches
from gan_jax.contract import check_logits
from gan_jax.types import AdversarialLoss, Array

_LOG_2 = math.log(2.0)
_OfLogits = Callable[[Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class _Checked:
    """A player's loss that raises AssertionError for logits of a wrong shape or type.

    Logits [B, 1] and [B] would silently broadcast to [B, B].

    Attributes:
      loss: the function.
    """

    loss: _OfLogits

    def __call__(self, real_logits: Array, fake_logits: Array) -> Array:
        check_logits(real_logits, fake_logits)
        return self.loss(real_logits, fake_logits)


def _checked(discriminator: _OfLogits, generator: _OfLogits) -> AdversarialLoss:
    return AdversarialLoss(_Checked(discriminator), _Checked(generator))


@dataclasses.dataclass(frozen=True)
class _CrossEntropy:
    """A D's loss that is -log sigmoid(v), v the logit it gives a sample for being real, and what
    it says of the fakes. Both fields are `(real_logits [B], fake_logits [B]) -> [B]`."""

    real_logit: _OfLogits
    of_fake: _OfLogits

    def __call__(self, real_logits: Array, fake_logits: Array) -> Array:
        says_real = jax.nn.softplus(-self.real_logit(real_logits, fake_logits))
        return says_real + self.of_fake(real_logits, fake_logits)


_cross_entropy = _CrossEntropy(lambda real, fake: real, lambda real, fake: jax.nn.softplus(fake))
"""L_D = -V = -log D(x) - log(1 - D(G(z))) (Goodfellow et al. 2014, equation 1)."""


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


minimax = _checked(_cross_entropy, _saturating)
"""The game of V(D, G) itself: min over G, max over D (Goodfellow et al. 2014, equation 1)."""

non_saturating = _checked(_cross_entropy, _non_saturating)
"""The same D; G maximises log D(G(z)) (Goodfellow et al. 2014, section 3). The same fixed
point as `minimax`, other gradients."""

least_squares = _checked(_least_squares_discriminator, _least_squares_generator)
"""LSGAN with targets a = 0, b = c = 1 (Mao et al. 2017, equation 9)."""

hinge = _checked(_hinge_discriminator, _raise_logit)
"""The hinge loss (Lim and Ye 2017; Miyato et al. 2018, equations 16 and 17)."""

wasserstein = _checked(_wasserstein_discriminator, _raise_logit)
"""E[D(fake)] - E[D(real)] (Arjovsky et al. 2017): wants a Lipschitz D, so a penalty."""

relativistic = _checked(
    _CrossEntropy(lambda real, fake: real - fake, lambda real, fake: jnp.zeros_like(fake)),
    lambda real, fake: jax.nn.softplus(real - fake),
)
"""RpGAN (RSGAN of Jolicoeur-Martineau 2019): D says which of a real and a fake sample, paired by
their index, is real; G makes it say the other."""


def relativistic_average() -> AdversarialLoss:
    """RaGAN (RaSGAN of Jolicoeur-Martineau 2019): each sample against the other kind's mean.

    D's loss is -log sigmoid(r - mean f) - log(1 - sigmoid(f - mean r)), r and f being the logits
    of real and fake samples; G's is the same with real and fake exchanged. The means are over the
    batch of all devices. With `accumulate` they are the microbatch's.
    """

    def against_mean(logits: Array, others: Array) -> Array:
        return logits - batches.mean(others)

    discriminator = _CrossEntropy(
        against_mean, lambda real, fake: jax.nn.softplus(against_mean(fake, real))
    )
    return _checked(discriminator, lambda real, fake: discriminator(fake, real))


def smoothed(loss: AdversarialLoss, target: float = 0.9) -> AdversarialLoss:
    """One-sided label smoothing: D is to say "real" with probability `target`, no more.

    Of a real sample D's loss becomes BCE(v, t) = -t log sigmoid(v) - (1 - t) log sigmoid(-v), v
    being the logit the loss gives it for being real: D's own, or for a relativistic loss its
    difference from the fakes'. What D says of fakes, and G's loss, stay (Salimans et al. 2016,
    section 3.4: targets above 0 for fakes would hold on to samples where there are no data).

    Args:
      loss: one whose D minimises a cross-entropy: minimax, non_saturating, relativistic,
        relativistic_average.
      target: in (0.5, 1]; 1 smooths nothing.

    Raises:
      ValueError: another loss (one smoothed already, too), or a target out of range.
    """
    checked = loss.discriminator
    cross_entropy = checked.loss if isinstance(checked, _Checked) else None
    if not isinstance(checked, _Checked) or not isinstance(cross_entropy, _CrossEntropy):
        raise ValueError(
            "loss has no label to smooth, as its discriminator minimises no plain cross-entropy: "
            "give minimax, non_saturating, relativistic or relativistic_average()"
        )
    if not 0.5 < target <= 1:
        raise ValueError(f"target must be in (0.5, 1], got {target}: 0.9 is usual")

    def discriminator(real_logits: Array, fake_logits: Array) -> Array:
        # BCE(v, t) = softplus(-v) + (1 - t) v
        v = cross_entropy.real_logit(real_logits, fake_logits)
        return cross_entropy(real_logits, fake_logits) + (1 - target) * v

    return loss._replace(discriminator=_Checked(discriminator))


def top_k(loss: AdversarialLoss, share: float) -> AdversarialLoss:
    """G learns from the fakes that D takes most for real, and from no others (Sinha et al. 2020).

    Of B fakes the k = share B with the largest logits count, in full: the others' loss is 0, and
    theirs is multiplied by B / k, so that the mean over the batch is their mean. D's loss stays.
    The best are those of the batch of all devices. With `accumulate` they are the microbatch's.
    The paper begins with share 1 and lowers it to 1/2: a step for each stage.

    Args:
      loss: any.
      share: in (0, 1]; share B is rounded, and at least 1.

    Raises:
      ValueError: a share out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}: 1 keeps every fake")

    def generator(real_logits: Array, fake_logits: Array) -> Array:
        everyone = batches.gather(fake_logits)
        num = max(1, round(share * everyone.shape[0]))
        _, best = jax.lax.top_k(everyone, num)
        counts = jnp.zeros(everyone.shape, bool).at[best].set(True)
        scale = everyone.shape[0] / num
        return jnp.where(
            batches.local(counts, fake_logits.shape[0]),
            scale * loss.generator(real_logits, fake_logits),
            0.0,
        )

    return loss._replace(generator=_Checked(generator))


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

    return _checked(discriminator, generator)


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

LossName: TypeAlias = Literal[
    "minimax",
    "non_saturating",
    "least_squares",
    "hinge",
    "wasserstein",
    "relativistic",
    "relativistic_average",
    "f_kl",
    "f_reverse_kl",
    "f_pearson",
    "f_neyman",
    "f_squared_hellinger",
    "f_js",
    "f_total_variation",
]
"""The keys of `LOSSES`, for what takes one as a setting."""

LOSSES: dict[str, AdversarialLoss] = {
    "minimax": minimax,
    "non_saturating": non_saturating,
    "least_squares": least_squares,
    "hinge": hinge,
    "wasserstein": wasserstein,
    "relativistic": relativistic,
    "relativistic_average": relativistic_average(),
    # Without "gan", which is minimax.
    **{f"f_{name}": f_divergence(name) for name in _F_DIVERGENCES if name != "gan"},
}
"""Every loss by its name: values as they are, factories as made with their defaults."""

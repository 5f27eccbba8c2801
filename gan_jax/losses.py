"""Adversarial losses per example, as functions of logits. Each player minimises its own loss.

With D(x) = sigmoid(logit), log D = -softplus(-logit) and log(1 - D) = -softplus(logit). These forms
and their gradients stay finite for logits of any size. Each loss is an `AdversarialLoss`. Its
functions map `(real_logits [B], fake_logits [B])` to `[B]`. They raise AssertionError unless both
logits are float arrays of rank 1 and equal shape.

>>> import jax.numpy as jnp
>>> real, fake = jnp.array([0.0]), jnp.array([0.0])       # D = 1/2 for both
>>> float(-minimax.discriminator(real, fake)[0])          # V = -log 4
-1.3862943649291992
"""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

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

    Without the check, logits [B, 1] and [B] would silently broadcast to [B, B].

    Attributes:
      loss: the unchecked loss.
    """

    loss: _OfLogits

    def __call__(self, real_logits: Array, fake_logits: Array) -> Array:
        check_logits(real_logits, fake_logits)
        return self.loss(real_logits, fake_logits)


def _checked(discriminator: _OfLogits, generator: _OfLogits) -> AdversarialLoss:
    return AdversarialLoss(_Checked(discriminator), _Checked(generator))


@dataclasses.dataclass(frozen=True)
class _CrossEntropy:
    """D's loss -log sigmoid(v) + of_fake. sigmoid(v) is D's probability that a real sample is real.

    Attributes:
      real_logit: v as a function `(real_logits [B], fake_logits [B]) -> [B]`.
      of_fake: the part of the loss that depends on the fakes, with the signature of `real_logit`.
    """

    real_logit: _OfLogits
    of_fake: _OfLogits

    def __call__(self, real_logits: Array, fake_logits: Array) -> Array:
        says_real = jax.nn.softplus(-self.real_logit(real_logits, fake_logits))
        return says_real + self.of_fake(real_logits, fake_logits)


_cross_entropy = _CrossEntropy(lambda real, fake: real, lambda real, fake: jax.nn.softplus(fake))
"""L_D = -V = -log D(x) - log(1 - D(G(z))) (Goodfellow et al. 2014, equation 1)."""


def _saturating(real_logits: Array, fake_logits: Array) -> Array:
    """Returns log(1 - D(G(z))).

    Its derivative with respect to the logit is -D. This derivative goes to 0 when D learns to
    reject the fake.
    """
    del real_logits
    return -jax.nn.softplus(fake_logits)


def _non_saturating(real_logits: Array, fake_logits: Array) -> Array:
    """Returns -log D(G(z)). Its derivative with respect to the logit is -(1 - D)."""
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
    """Returns -logit(G(z)), the generator's loss for both hinge and Wasserstein."""
    del real_logits
    return -fake_logits


minimax = _checked(_cross_entropy, _saturating)
"""The minimax game: D maximises V = E[log D(x)] + E[log(1 - D(G(z)))], and G minimises V
(Goodfellow et al. 2014, equation 1)."""

non_saturating = _checked(_cross_entropy, _non_saturating)
"""D's loss is that of `minimax`, and G maximises log D(G(z)) (Goodfellow et al. 2014, section 3).
The fixed point is the same as for `minimax`, but G's gradients differ."""

least_squares = _checked(_least_squares_discriminator, _least_squares_generator)
"""LSGAN (Mao et al. 2017, equation 9). D's target is 1 for real and 0 for fake samples, and G's
target is 1: a = 0 and b = c = 1 in the paper."""

hinge = _checked(_hinge_discriminator, _raise_logit)
"""The hinge loss (Lim and Ye 2017; Miyato et al. 2018, equations 16 and 17)."""

wasserstein = _checked(_wasserstein_discriminator, _raise_logit)
"""D minimises E[D(fake)] - E[D(real)], and G minimises -E[D(fake)] (Arjovsky et al. 2017). D must
be Lipschitz, so add a penalty."""

relativistic = _checked(
    _CrossEntropy(lambda real, fake: real - fake, lambda real, fake: jnp.zeros_like(fake)),
    lambda real, fake: jax.nn.softplus(real - fake),
)
"""RpGAN, which Jolicoeur-Martineau 2019 calls RSGAN. Each real sample is paired with the fake of
the same index. D predicts which sample of a pair is real, and G makes D predict the opposite."""


def relativistic_average() -> AdversarialLoss:
    """Returns RaGAN, which Jolicoeur-Martineau 2019 calls RaSGAN.

    It compares the logit of each real sample with the mean logit of the fakes, and the logit of
    each fake with the mean logit of the real samples.

    D's loss is -log sigmoid(r - mean f) - log(1 - sigmoid(f - mean r)), where r and f are the
    logits of real and fake samples. In G's loss, r and f are exchanged. The means are over the
    batch of all devices. With `accumulate` above 1 they are over one microbatch.
    """

    def against_mean(logits: Array, others: Array) -> Array:
        return logits - batches.mean(others)

    discriminator = _CrossEntropy(
        against_mean, lambda real, fake: jax.nn.softplus(against_mean(fake, real))
    )
    return _checked(discriminator, lambda real, fake: discriminator(fake, real))


def smoothed(loss: AdversarialLoss, target: float = 0.9) -> AdversarialLoss:
    """Returns the loss with one-sided label smoothing.

    D's target for real samples is t = `target` instead of 1.

    D's loss for a real sample becomes BCE(v, t) = -t log sigmoid(v) - (1 - t) log sigmoid(-v),
    where sigmoid(v) is D's probability that the sample is real. For most losses, v is D's logit for
    the sample. For `relativistic`, v is this logit minus the logit of the paired fake. For
    `relativistic_average`, v is this logit minus the mean logit of the fakes.

    G's loss and the part of D's loss for fakes do not change. If fakes had a target above 0, fakes
    in regions without data would have no reason to move (Salimans et al. 2016, section 3.4).

    Args:
      loss: a loss in which D minimises a cross-entropy: minimax, non_saturating, relativistic or
        relativistic_average.
      target: in (0.5, 1]. With 1 the loss does not change.

    Raises:
      ValueError: `loss` is another loss, or is already smoothed, or `target` is out of range.
    """
    checked = loss.discriminator
    cross_entropy = checked.loss if isinstance(checked, _Checked) else None
    if not isinstance(checked, _Checked) or not isinstance(cross_entropy, _CrossEntropy):
        raise ValueError(
            "loss has no label to smooth, because its discriminator minimises no plain "
            "cross-entropy: give minimax, non_saturating, relativistic or relativistic_average()"
        )
    if not 0.5 < target <= 1:
        raise ValueError(f"target must be in (0.5, 1], got {target}: 0.9 is usual")

    def discriminator(real_logits: Array, fake_logits: Array) -> Array:
        # BCE(v, t) = softplus(-v) + (1 - t) v
        v = cross_entropy.real_logit(real_logits, fake_logits)
        return cross_entropy(real_logits, fake_logits) + (1 - target) * v

    return loss._replace(discriminator=_Checked(discriminator))


def top_k(loss: AdversarialLoss, share: float) -> AdversarialLoss:
    """Returns the loss with G trained only on the fakes that have the largest logits.

    This method is called top-k training (Sinha et al. 2020).

    The loss uses only the k = share * B fakes with the largest logits. The losses of these fakes
    are multiplied by B / k and those of the other fakes are 0, so the mean over the batch equals
    the mean over these k fakes. D's loss does not change. The k fakes are selected from the batch
    of all devices. With `accumulate` above 1 they are selected from one microbatch. The paper
    lowers the share from 1 to 1/2 in stages. To do the same, make one step function for each stage.

    Args:
      loss: any loss.
      share: in (0, 1]. The product share * B is rounded to an integer of at least 1.

    Raises:
      ValueError: `share` is out of range.
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
    """Returns the f-GAN loss of the f-divergence with this name.

    D maximises an estimate of the divergence, and G minimises the same estimate.

    The estimate is E_p[T] - E_q[f*(T)]. Here p is the distribution of the data, q is that of the
    samples, and f* is the convex conjugate of the divergence's function f. The critic is T = g(v),
    where v is D's output and g is the activation of Nowozin et al. 2016, table 2. For neyman and
    total_variation, g is the increasing form in the appendix of that paper. Exponentials of logits
    are not clipped, so with kl, reverse_kl, neyman and squared_hellinger a logit below -80 or above
    80 can overflow float32.

    The optimal v depends on the name:
      kl: 1 + log(p/q).
      reverse_kl, js, gan: log(p/q).
      pearson: 2 (p/q - 1).
      neyman: 2 log(p/q).
      squared_hellinger: log(p/q) / 2.
      total_variation: infinite.

    Args:
      name: kl, reverse_kl, pearson, neyman, squared_hellinger, js, gan (the same as `minimax`) or
        total_variation.
      non_saturating: if True, G maximises E_q[T] instead of E_q[f*(T)] (Nowozin et al. 2016,
        section 3.2). `gan` then equals the loss `non_saturating`.

    Raises:
      ValueError: `name` is none of these names.
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
"""The functions g(v) and f*(g(v)) of each divergence. They are simplified by hand, because the
direct formulas can take the log of a number that was rounded to 0."""

LOSSES: dict[str, AdversarialLoss] = {
    "minimax": minimax,
    "non_saturating": non_saturating,
    "least_squares": least_squares,
    "hinge": hinge,
    "wasserstein": wasserstein,
    "relativistic": relativistic,
    "relativistic_average": relativistic_average(),
    # "gan" is left out because it equals minimax.
    **{f"f_{name}": f_divergence(name) for name in _F_DIVERGENCES if name != "gan"},
}
"""All losses by name, with their default arguments."""

if TYPE_CHECKING:
    LossName: TypeAlias = str
else:
    LossName = Literal[tuple(LOSSES)]
"""The type of a setting that chooses a loss: one of the keys of `LOSSES`."""

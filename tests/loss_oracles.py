"""Every loss and its derivatives in the logits, by formulas in NumPy."""

from typing import NamedTuple

import numpy as np


class Oracle(NamedTuple):
    """Functions of (real logits, fake logits), float64 [B].

    `values`: D's loss and G's, [B] each; `slopes`: the derivatives of the sum over the batch of
    D's loss in the real and in the fake logits, and of G's loss in these.
    """

    values: object
    slopes: object


def sigmoid(t):
    return 1 / (1 + np.exp(-t))


def softplus(t):
    return np.logaddexp(0, t)


def of_pairs(discriminator, generator, slopes):
    """A loss whose G reads the fakes alone."""
    return Oracle(
        lambda r, f: (discriminator(r, f), generator(f)),
        lambda r, f: (*(d + 0 * r for d in slopes(r, f)[:2]), 0 * r, slopes(r, f)[2] + 0 * f),
    )


def of_divergence(activation, conjugate):
    """An f-GAN's, from (g, g') and (f*, f*') (Nowozin et al. 2016, tables 2 and 6)."""
    (g, dg), (c, dc) = activation, conjugate
    return of_pairs(
        lambda r, f: c(g(f)) - g(r),
        lambda f: -c(g(f)),
        lambda r, f: (-dg(r), dc(g(f)) * dg(f), -dc(g(f)) * dg(f)),
    )


def relativistic_average_values(r, f):
    r, f = r - f.mean(), f - r.mean()
    return softplus(-r) + softplus(f), softplus(-f) + softplus(r)


def relativistic_average_slopes(r, f):
    """The means of the others' slopes come from the mean that is taken off."""
    r, f = r - f.mean(), f - r.mean()
    down, up = sigmoid(-r), sigmoid(f)
    of_discriminator = (-down - up.mean(), up + down.mean())
    up, down = sigmoid(r), sigmoid(-f)
    return (*of_discriminator, up + down.mean(), -down - up.mean())


def one(t):
    return np.ones_like(t)


ORACLES = {
    "minimax": of_pairs(
        lambda r, f: -np.log(sigmoid(r)) - np.log(1 - sigmoid(f)),
        lambda f: np.log(1 - sigmoid(f)),
        lambda r, f: (sigmoid(r) - 1, sigmoid(f), -sigmoid(f)),
    ),
    "non_saturating": of_pairs(
        lambda r, f: -np.log(sigmoid(r)) - np.log(1 - sigmoid(f)),
        lambda f: -np.log(sigmoid(f)),
        lambda r, f: (sigmoid(r) - 1, sigmoid(f), sigmoid(f) - 1),
    ),
    "least_squares": of_pairs(
        lambda r, f: ((r - 1) ** 2 + f**2) / 2,
        lambda f: (f - 1) ** 2 / 2,
        lambda r, f: (r - 1, f, f - 1),
    ),
    "hinge": of_pairs(
        lambda r, f: np.maximum(0, 1 - r) + np.maximum(0, 1 + f),
        lambda f: -f,
        lambda r, f: (-1.0 * (r < 1), 1.0 * (f > -1), -1.0),
    ),
    "wasserstein": of_pairs(
        lambda r, f: f - r, lambda f: -f, lambda r, f: (-one(r), one(f), -one(f))
    ),
    "relativistic": Oracle(
        lambda r, f: (-np.log(sigmoid(r - f)), -np.log(sigmoid(f - r))),
        lambda r, f: (-sigmoid(f - r), sigmoid(f - r), sigmoid(r - f), -sigmoid(r - f)),
    ),
    "relativistic_average": Oracle(relativistic_average_values, relativistic_average_slopes),
    "f_kl": of_divergence((lambda v: v, one), (lambda t: np.exp(t - 1), lambda t: np.exp(t - 1))),
    "f_reverse_kl": of_divergence(
        (lambda v: -np.exp(-v), lambda v: np.exp(-v)),
        (lambda t: -1 - np.log(-t), lambda t: -1 / t),
    ),
    "f_pearson": of_divergence((lambda v: v, one), (lambda t: t**2 / 4 + t, lambda t: t / 2 + 1)),
    "f_neyman": of_divergence(
        (lambda v: 1 - np.exp(-v), lambda v: np.exp(-v)),
        (lambda t: 2 - 2 * np.sqrt(1 - t), lambda t: 1 / np.sqrt(1 - t)),
    ),
    "f_squared_hellinger": of_divergence(
        (lambda v: 1 - np.exp(-v), lambda v: np.exp(-v)),
        (lambda t: t / (1 - t), lambda t: 1 / (1 - t) ** 2),
    ),
    "f_js": of_divergence(
        (lambda v: np.log(2) - np.log(1 + np.exp(-v)), lambda v: sigmoid(-v)),
        (lambda t: -np.log(2 - np.exp(t)), lambda t: np.exp(t) / (2 - np.exp(t))),
    ),
    "f_total_variation": of_divergence(
        (lambda v: np.tanh(v) / 2, lambda v: 1 / (2 * np.cosh(v) ** 2)), (lambda t: t, one)
    ),
}
"""The oracle of every loss in `losses.LOSSES`."""

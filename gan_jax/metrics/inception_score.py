"""Classifier score: the form of the Inception score for any classifier (Salimans et al. 2016)."""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import rel_entr

from gan_jax.metrics.features import features, random_state
from gan_jax.types import Array


class ClassifierScore(NamedTuple):
    """The classifier score over splits.

    Attributes:
      mean: the mean over the splits, from 1 to the number of classes.
      error: the population standard deviation over the splits.
    """

    mean: float
    error: float


def classifier_score(
    probabilities: ArrayLike, splits: int = 10, *, key: Array | int | None = None
) -> ClassifierScore:
    """Returns exp of the mean KL divergence of class probabilities from their mean.

    Call it Inception score only for the probabilities of the Inception network.

    Args:
      probabilities: [N, K] class probabilities of samples, not logits.
      splits: number of parts, at most N. Each part gives one score.
      key: the key that shuffles the samples before they are split. None keeps the order.
        torch-fidelity shuffles by default, with the seed that `key=2020` has here.

    Raises:
      TypeError: the probabilities are not real numbers.
      ValueError: a shape is wrong, a row is not a distribution, or `splits` is below 1 or above N.
    """
    p = features("probabilities", probabilities, least=1).astype(np.float64)
    if (p < 0).any() or (np.abs(p.sum(axis=1) - 1) > 1e-3).any():
        raise ValueError(
            "probabilities must be at least 0 with sum 1 in each row: apply softmax to logits"
        )
    if not 1 <= splits <= len(p):
        raise ValueError(f"splits must be from 1 to N = {len(p)}, got {splits}")
    if key is not None:
        p = p[random_state(key).permutation(len(p))]
    bounds = [i * len(p) // splits for i in range(splits + 1)]
    scores = []
    for low, high in itertools.pairwise(bounds):
        part = p[low:high]
        scores.append(np.exp(rel_entr(part, part.mean(axis=0)).sum(axis=1).mean()))
    return ClassifierScore(float(np.mean(scores)), float(np.std(scores)))

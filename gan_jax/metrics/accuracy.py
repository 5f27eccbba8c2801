"""Classification accuracy score (Ravuri & Vinyals 2019, arXiv:1905.10887), on features."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from gan_jax.metrics.features import Float64Array, labels, pair


class ClassAccuracy(NamedTuple):
    """The accuracy of a classifier.

    Attributes:
      accuracy: share of real examples that are classified correctly.
      classes: [K] the classes of the real examples, in increasing order.
      accuracies: [K] the accuracy within each class. A low one shows a class that the generator
        draws badly.
    """

    accuracy: float
    classes: NDArray[np.integer]
    accuracies: Float64Array


def classification_accuracy_score(
    samples: ArrayLike,
    samples_labels: ArrayLike,
    real: ArrayLike,
    real_labels: ArrayLike,
    *,
    penalty: float = 1.0,
) -> ClassAccuracy:
    """Returns the accuracy on real examples of a classifier that is trained on samples.

    The classifier is a logistic regression on features that are scaled to mean 0 and deviation 1.
    Compare the score with that of a classifier trained on as many real examples. A class without
    samples is never predicted, so its accuracy is 0.

    Args:
      samples: [N, D] features of a conditional GAN's samples.
      samples_labels: [N] integers, the classes that the samples were drawn for.
      real: [M, D] features of real examples that the GAN was not trained on.
      real_labels: [M] integers, their classes.
      penalty: weight of the squared weights in the sum of the losses, 1 / C in scikit-learn, above
        0.

    Raises:
      TypeError: the features are not real numbers, or the labels are not integers.
      ValueError: a shape is wrong, a value is masked or not finite, or `penalty` is not above 0.
    """
    samples, real = pair(samples=samples, real=real, least=1)
    y = labels("samples_labels", samples_labels, len(samples))
    truth = labels("real_labels", real_labels, len(real))
    if not penalty > 0:
        raise ValueError(f"penalty must be above 0, got {penalty}")
    mean, deviation = samples.mean(0, dtype=np.float64), samples.std(0, dtype=np.float64)
    deviation[deviation < 1e-12 * np.abs(samples).max(initial=1)] = 1  # a constant feature
    known, index = np.unique(y, return_inverse=True)
    weights, bias = _logistic((samples - mean) / deviation, index, len(known), penalty)
    correct = known[np.argmax((real - mean) / deviation @ weights + bias, axis=1)] == truth
    classes = np.unique(truth)
    accuracies = np.array([correct[truth == c].mean() for c in classes])
    return ClassAccuracy(float(correct.mean()), classes, accuracies)


def _logistic(
    x: Float64Array, index: NDArray[np.integer], num: int, penalty: float
) -> tuple[Float64Array, Float64Array]:
    """Returns the weights [D, num] and the bias [num] of a logistic regression."""
    from scipy.optimize import minimize  # takes half a second, and nothing else here needs it

    shape = (x.shape[1] + 1, num)
    target = np.eye(num)[index]

    def loss(flat: Float64Array) -> tuple[float, Float64Array]:
        weights, bias = np.split(flat.reshape(shape), [-1])
        logits = x @ weights + bias
        log_p = logits - logsumexp(logits, axis=1, keepdims=True)
        error = (np.exp(log_p) - target) / len(x)
        slope = np.concatenate([x.T @ error + penalty / len(x) * weights, error.sum(0)[None]])
        value = -np.sum(log_p * target) + penalty / 2 * np.sum(weights**2)
        return value / len(x), slope.ravel()

    options = {"maxiter": 1000, "gtol": 1e-8, "ftol": 0.0}
    found = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options=options)
    weights, bias = np.split(found.x.reshape(shape), [-1])
    return weights, bias[0]

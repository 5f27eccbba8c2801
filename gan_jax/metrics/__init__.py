"""Scores of samples: functions of features [N, D], of class probabilities or of points.

`extractors.EXTRACTORS` and `inception.extractor` turn images into features.
"""

from gan_jax.metrics.accuracy import classification_accuracy_score
from gan_jax.metrics.extractor import Extractor
from gan_jax.metrics.frechet import frechet_distance, intra_class_frechet_distance
from gan_jax.metrics.inception_score import classifier_score
from gan_jax.metrics.kernel import kernel_distance
from gan_jax.metrics.manifolds import prdc
from gan_jax.metrics.modes import class_coverage, mode_coverage
from gan_jax.metrics.neighbours import memorisation
from gan_jax.metrics.parzen import choose_sigma, parzen_log_likelihood
from gan_jax.metrics.paths import path_length
from gan_jax.metrics.sliced import sliced_wasserstein
from gan_jax.metrics.two_sample import classifier_two_sample, energy_test

__all__ = [
    "Extractor",
    "choose_sigma",
    "class_coverage",
    "classification_accuracy_score",
    "classifier_score",
    "classifier_two_sample",
    "energy_test",
    "frechet_distance",
    "intra_class_frechet_distance",
    "kernel_distance",
    "memorisation",
    "mode_coverage",
    "parzen_log_likelihood",
    "path_length",
    "prdc",
    "sliced_wasserstein",
]

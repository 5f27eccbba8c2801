"""The classifier of handwritten digits, `gan_jax.metrics.classifier` with the weights in
`digits.npz`.

The weights were trained on 4,000 of the 5,000 embedded MNIST digits, with small distortions. The
other 1,000 digits are those that `gan_jax.run.datasets.load` holds out with `held_out=1000`. The
classifier recognises 97.9 % of them.
"""

from gan_jax.metrics.classifier import Classifier

CLASSIFIER = Classifier(
    "digits.npz", "5380af2458f8ea399aed6ea27cc7fdd3e82b4d60de65ca82e28da57431f077d4", "digit"
)
EXTRACTOR = CLASSIFIER.name
features = CLASSIFIER.features
class_probabilities = CLASSIFIER.class_probabilities

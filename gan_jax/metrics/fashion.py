"""The classifier of clothes: `gan_jax.metrics.classifier` with the weights in `fashion.npz`.

The weights were trained on the 60,000 training images of Fashion-MNIST, with small distortions. The
classifier recognises 90.4 % of the 10,000 test images. Images that are held out from the 60,000
were in its training set: for a reference that the classifier has not seen, use the test images.
"""

from gan_jax.metrics.classifier import Classifier

CLASSIFIER = Classifier(
    "fashion.npz", "e4801ad9f14a7079a33fa7e4d5bac35a674fc23b2360ad77392df65f96b23b8e", "fashion"
)

"""GANs ready to train: each function returns a `GAN` for the shape of one example."""

from collections.abc import Callable

from gan_jax.models.dcgan import dcgan
from gan_jax.models.mlp import maxout, mlp
from gan_jax.types import GAN

MODELS: dict[str, Callable[..., GAN]] = {"dcgan": dcgan, "mlp": mlp, "maxout": maxout}
"""Every model by its name, each a function `(shape, *, latent, width, axis_name)`."""

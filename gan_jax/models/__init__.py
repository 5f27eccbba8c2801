"""GANs ready to train. Each function returns a `GAN` for the shape of one example."""

from collections.abc import Callable

from gan_jax.models import dcgan, mlp
from gan_jax.types import GAN

MODELS: dict[str, Callable[..., GAN]] = {
    "dcgan": dcgan.dcgan,
    "mlp": mlp.mlp,
    "maxout": mlp.maxout,
}
"""All models by name. Each is a function `(shape, *, latent, width) -> GAN`."""

__all__ = ["MODELS", "dcgan", "mlp"]

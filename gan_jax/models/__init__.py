"""GANs ready to train. Each function returns a `GAN` for the shape of one example."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

from gan_jax.models import biggan, dcgan, mlp, r3gan, sngan, stylegan2
from gan_jax.types import GAN

MODELS: dict[str, Callable[..., GAN]] = {
    "dcgan": dcgan.dcgan,
    "mlp": mlp.mlp,
    "maxout": mlp.maxout,
    "sngan": sngan.sngan,
    "biggan": biggan.biggan,
    "r3gan": r3gan.r3gan,
    "stylegan2": stylegan2.stylegan2,
}
"""All models by name. Each is a function `(shape, *, latent, width, num_classes=None,
conditional="projection") -> GAN`."""

if TYPE_CHECKING:
    ModelName: TypeAlias = str
else:
    ModelName = Literal[tuple(MODELS)]
"""The type of a setting that chooses a model: one of the keys of `MODELS`."""

__all__ = ["MODELS", "ModelName", "biggan", "dcgan", "mlp", "r3gan", "sngan", "stylegan2"]

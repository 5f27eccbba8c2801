"""Adapters from neural network libraries to `Network`, and wrappers of a GAN's networks."""

from gan_jax.networks.equinox import from_equinox
from gan_jax.networks.linen import from_linen
from gan_jax.networks.nnx import from_nnx
from gan_jax.networks.packing import packed
from gan_jax.networks.spectral import spectral_norm, spectrally_normalised
from gan_jax.networks.wrappers import mixed_precision, rematerialised

__all__ = [
    "from_equinox",
    "from_linen",
    "from_nnx",
    "mixed_precision",
    "packed",
    "rematerialised",
    "spectral_norm",
    "spectrally_normalised",
]

"""Adapters from a neural network library to a `Network`, and wrappers of a GAN's networks."""

from gan_jax.networks.linen import from_linen
from gan_jax.networks.packing import packed
from gan_jax.networks.spectral import spectral_norm, spectrally_normalised
from gan_jax.networks.wrappers import mixed_precision, rematerialised

__all__ = [
    "from_linen",
    "mixed_precision",
    "packed",
    "rematerialised",
    "spectral_norm",
    "spectrally_normalised",
]

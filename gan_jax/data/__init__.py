"""Data sets as arrays, a pure pipeline that makes batches, and synthetic data."""

from gan_jax.data import pipeline, stacked, synthetic
from gan_jax.data.types import Dataset

__all__ = ["Dataset", "pipeline", "stacked", "synthetic"]

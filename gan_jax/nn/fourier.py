"""Fourier features: sines and cosines of the inputs."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from gan_jax.types import Array


class FourierFeatures(nn.Module):
    """A layer that adds `num` sines and `num` cosines of the inputs: [B, D] -> [B, D + 2 num].

    A perceptron learns fine detail slowly. With these features it learns detail of any scale
    between the lowest and the highest frequency (Tancik et al. 2020, arXiv:2006.10739). The
    directions of the waves are random and their frequencies lie evenly on a logarithmic scale. Both
    are constants, the same for every key.

    Attributes:
      num: number of waves, at least 1.
      lowest, highest: range of the frequencies, in radians per unit of x.
    """

    num: int
    lowest: float = 1.0
    highest: float = 60.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        directions = np.random.default_rng(0).normal(size=(x.shape[-1], self.num))
        directions /= np.linalg.norm(directions, axis=0)
        waves = directions * np.geomspace(self.lowest, self.highest, self.num)
        phase = x @ jnp.asarray(waves, x.dtype)
        return jnp.concatenate([x, jnp.sin(phase), jnp.cos(phase)], axis=-1)

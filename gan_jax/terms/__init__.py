"""Additional terms for the loss of either player, as functions `(Pass) -> [B]`.

`gan_jax.adversarial` takes pairs of a term and its weight for each player.
"""

from gan_jax.terms.classification import classification
from gan_jax.terms.information import information
from gan_jax.terms.mode_seeking import mode_seeking
from gan_jax.terms.path_length import path_length
from gan_jax.terms.reconstruction import reconstruction

__all__ = ["classification", "information", "mode_seeking", "path_length", "reconstruction"]

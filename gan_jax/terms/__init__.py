"""Additional terms for the loss of either player, as functions `(Pass) -> [B]`.

`gan_jax.adversarial` takes pairs of a term and its weight for each player.
"""

from typing import NamedTuple

from gan_jax.terms.classification import classification
from gan_jax.terms.data_to_data import data_to_data
from gan_jax.terms.information import information
from gan_jax.terms.mode_seeking import mode_seeking
from gan_jax.terms.path_length import path_length
from gan_jax.terms.reconstruction import reconstruction
from gan_jax.types import WeightedTerm

__all__ = [
    "CONDITIONAL_TERMS",
    "classification",
    "data_to_data",
    "information",
    "mode_seeking",
    "path_length",
    "reconstruction",
]


class ConditionalTerms(NamedTuple):
    """The terms of each player, with their weights."""

    discriminator: tuple[WeightedTerm, ...] = ()
    generator: tuple[WeightedTerm, ...] = ()


CONDITIONAL_TERMS: dict[str, ConditionalTerms] = {
    "projection": ConditionalTerms(),
    "concat": ConditionalTerms(),
    "acgan": ConditionalTerms(
        discriminator=((classification(), 1.0),), generator=((classification(real=False), 1.0),)
    ),
    "reacgan": ConditionalTerms(
        discriminator=((data_to_data("real"), 0.5),), generator=((data_to_data("fake"), 0.5),)
    ),
}
"""The terms that each kind of conditional GAN needs. The names are those of
`gan_jax.nn.Conditional`, and the heads are those of `gan_jax.nn.judged`."""

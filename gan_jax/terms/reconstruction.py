"""Distances of fake samples to real samples."""

import jax
import jax.numpy as jnp

from gan_jax.trees import at_least_single
from gan_jax.types import Array, Pass


def reconstruction(seen: Pass) -> Array:
    """Returns the mean of |fake - real| of each example, [B] (Isola et al. 2017, equation 3).

    Usual weight: 100.

    Use it if G's input determines the real sample that G should return. In pix2pix this input is
    the label, which is the image to translate.
    """
    distances = jax.tree.map(
        lambda r, f: jnp.sum(
            jnp.abs(at_least_single(f) - at_least_single(r)), axis=tuple(range(1, r.ndim))
        ),
        seen.real,
        seen.fake,
    )
    leaves = jax.tree.leaves(seen.real)
    numbers = sum(leaf.size for leaf in leaves) // leaves[0].shape[0]
    return jnp.sum(jnp.stack(jax.tree.leaves(distances)), axis=0) / numbers

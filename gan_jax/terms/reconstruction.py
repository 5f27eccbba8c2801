"""Distances of each fake sample to the real one of its index."""

import jax
import jax.numpy as jnp

from gan_jax.trees import at_least_single
from gan_jax.types import Array, Pass


def reconstruction(seen: Pass) -> Array:
    """The mean of |fake - real| over the numbers of each example (Isola et al. 2017, equation 3).

    It is a term of G where G is given what the real sample belongs to: pix2pix with the image to
    translate as the label. Weight: 100.
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

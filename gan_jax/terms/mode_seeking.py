"""Mode seeking: fakes of distant latents are to be distant."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gan_jax.random import draw
from gan_jax.types import Array, Pass, PyTree, Term


def mode_seeking(prior: Callable[[Array, int], PyTree]) -> Term:
    """|z - z'| / |G(z) - G(z')| (Mao et al. 2019, equation 4, its inverse to be minimised).

    z' is a second draw for each example, with the same label. Distances are mean absolute
    differences. Weight: 1.

    Args:
      prior: that of the GAN, `(key, num) -> z [num, ...]`.
    """

    def mode_seeking(seen: Pass) -> Array:
        z = draw(prior, seen.key, seen.fake)
        x = seen.generator(z, seen.fake_label)
        return _distance(seen.z, z) / (_distance(seen.fake, x) + 1e-5)

    return mode_seeking


def _distance(a: PyTree, b: PyTree) -> Array:
    """The mean absolute difference of each example [B] of two trees of arrays [B, ...]."""

    def rows(tree: PyTree) -> Array:
        # A code of integers counts too; narrow floats are summed in float32.
        leaves = [
            leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
            for leaf in jax.tree.leaves(tree)
        ]
        return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)

    return jnp.mean(jnp.abs(rows(a) - rows(b)), axis=1)

"""Mode seeking: distant latents should give distant samples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gan_jax.random import draw
from gan_jax.types import Array, Pass, PyTree, Term


def mode_seeking(prior: Callable[[Array, int], PyTree]) -> Term:
    """Returns the term |z - z'| / |G(z) - G(z')| (Mao et al. 2019; the reciprocal of equation 4).

    Usual weight: 1.

    z' is a second draw of the latents for each example. The label stays the same. |a - b| stands
    for the mean absolute difference of a and b.

    Args:
      prior: the prior of the GAN, a function `(key, num) -> z [num, ...]`.

    Raises:
      ValueError: raised by the term if the prior does not return one draw for each example.
    """

    def mode_seeking(seen: Pass) -> Array:
        z = draw(prior, seen.key, seen.fake)
        x = seen.generator(z, seen.fake_label)
        return _distance(seen.z, z) / (_distance(seen.fake, x) + 1e-5)

    return mode_seeking


def _distance(a: PyTree, b: PyTree) -> Array:
    """Returns the mean absolute difference [B] of each example of two trees of arrays [B, ...]."""

    def rows(tree: PyTree) -> Array:
        # Integer codes are included. Narrow floats are summed in float32.
        leaves = [
            leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
            for leaf in jax.tree.leaves(tree)
        ]
        return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)

    return jnp.mean(jnp.abs(rows(a) - rows(b)), axis=1)

"""Keys for draws that do not depend on how a batch is split over devices."""

import jax
import jax.numpy as jnp

from gan_jax.types import Array, AxisName


def per_example(key: Array, num: int, axis_name: AxisName | None = None) -> Array:
    """One key for each example of a batch, folded from its index in the global batch.

    Args:
      key: a single key, the same on every shard.
      num: the number of examples on this shard.
      axis_name: the mapped axis the batch is split over, if it is.

    Returns:
      [num] keys. The concatenation over the shards is what one device would have drawn.
    """
    index = jnp.arange(num)
    if axis_name is not None:
        index += num * jax.lax.axis_index(axis_name)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)

"""Keys for draws that do not depend on how a batch is split: over devices, or in time."""

import jax
import jax.extend
import jax.numpy as jnp

from gan_jax.types import Array, AxisName

_BASE = "threefry2x32"


def per_example(key: Array, num: int, axis_name: AxisName | None = None) -> Array:
    """One key for each example of a batch, folded from its index in the global batch.

    Args:
      key: a single key, the same on every shard; or one made by `part`.
      num: the number of examples on this shard, of this part.
      axis_name: the mapped axis the batch is split over, if it is.

    Returns:
      [num] keys. Over all shards and parts they are what one device would have drawn at once.
    """
    number, count = 0, 1
    if jax.random.key_impl(key) == _PART:
        number, count = jax.random.key_data(key)[2:].astype(jnp.int32)
        key = _base(jax.random.key_data(key))
    index = jnp.arange(num)
    if axis_name is not None:
        index += num * jax.lax.axis_index(axis_name)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index * count + number)


def part(key: Array, number: Array | int, count: int) -> Array:
    """The key of a part of a batch: of every `count`-th example, from `number` on.

    What is folded in, split or drawn is as with `key` itself, but `per_example`, however deep in
    a network, knows the examples it is for.

    Raises:
      ValueError: a key of another kind than `jax.random.key` makes by default.
    """
    if (kind := jax.random.key_impl(key)) != _BASE:
        raise ValueError(
            f"a batch in parts needs a key of kind {_BASE}, got {kind}: make it by "
            f"jax.random.key(seed, impl={_BASE!r})"
        )
    place = jnp.stack([jnp.asarray(n, jnp.uint32) for n in (number, count)])
    return jax.random.wrap_key_data(jnp.concatenate([jax.random.key_data(key), place]), impl=_PART)


def _base(data: Array) -> Array:
    return jax.random.wrap_key_data(data[:2], impl=_BASE)


def _split(data: Array, shape: tuple[int, ...]) -> Array:
    keys = jax.random.key_data(jax.random.split(_base(data), shape))
    return jnp.concatenate([keys, jnp.broadcast_to(data[2:], keys.shape)], axis=-1)


def _fold_in(data: Array, number: int) -> Array:
    return jnp.concatenate([jax.random.key_data(jax.random.fold_in(_base(data), number)), data[2:]])


_PART = jax.extend.random.define_prng_impl(
    key_shape=(4,),  # the key's two words, then which part of how many
    seed=lambda seed: jnp.append(
        jax.random.key_data(jax.random.key(seed, impl=_BASE)), jnp.array([0, 1], jnp.uint32)
    ),
    split=_split,
    random_bits=lambda data, width, shape: jax.random.bits(_base(data), shape, f"uint{width}"),
    fold_in=_fold_in,
    name="part_of_a_batch",
    tag="part",
)

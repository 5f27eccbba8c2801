"""Keys for draws that do not depend on how a batch is split: over devices, or in time.

A step turns the key it is given into one of its own kind, of the same draws. It knows which part
of a batch it is for, and on a CPU it is several times as fast for a few numbers: `jax.random`
computes its hash there in a loop of many small operations, this in one.
"""

import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from gan_jax.parallel import spread
from gan_jax.types import Array, AxisName

_KIND = "threefry2x32"


def per_example(key: Array, num: int, axis_name: AxisName | None = None) -> Array:
    """One key for each example of a batch, folded from its index in the global batch.

    Args:
      key: a single key, the same on every shard; or one made by `for_step`.
      num: the number of examples on this shard, of this part.
      axis_name: the mapped axis the batch is split over, if it is.

    Returns:
      [num] keys. Over all shards and parts they are what one device would have drawn at once.
    """
    number, parts = 0, 1
    if jax.random.key_impl(key) == _OF_A_STEP:
        number, parts = jax.random.key_data(key)[2:].astype(jnp.int32)
    index = jnp.arange(num)
    if axis_name is not None:
        index += num * jax.lax.axis_index(axis_name)
    else:
        # What is drawn goes with the batch, or a step that reads no batch, as G's, would be
        # computed whole on every device.
        index = spread(index)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index * parts + number)


def for_step(key: Array, number: Array | int = 0, parts: int = 1) -> Array:
    """The key of a step on a batch; or on a part of it, every `parts`-th example from `number` on.

    What is folded in, split or drawn is as with `key` itself, but `per_example`, however deep in
    a network, knows the examples it is for.

    Raises:
      ValueError: several parts, and a key of another kind than `jax.random.key` makes by default.
        (Of a whole batch such a key is returned as it is.)
    """
    if (kind := jax.random.key_impl(key)) != _KIND:
        if parts == 1:
            return key
        raise ValueError(
            f"a batch in parts needs a key of kind {_KIND}, got {kind}: make it by "
            f"jax.random.key(seed, impl={_KIND!r})"
        )
    place = jnp.stack([jnp.asarray(n, jnp.uint32) for n in (number, parts)])
    return jax.random.wrap_key_data(
        jnp.concatenate([jax.random.key_data(key), place]), impl=_OF_A_STEP
    )


# The kind of key: two words as JAX's own, then which part of how many.


def _hash(data: Array, counter: Array) -> tuple[Array, Array]:
    """Threefry-2x32 of 20 rounds (Salmon et al. 2011) of the counters (0, `counter`)."""
    words = data[0], data[1], data[0] ^ data[1] ^ np.uint32(0x1BD11BDA)
    a, b = words[0], counter + words[1]
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            a = a + b
            b = a ^ (b << np.uint32(turn) | b >> np.uint32(32 - turn))
        a = a + words[(group + 1) % 3]
        b = b + words[(group + 2) % 3] + np.uint32(group + 1)
    return a, b


def _counters(shape: tuple[int, ...]) -> Array:
    return jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)


def _keys(words: tuple[Array, Array], data: Array) -> Array:
    first, second = words
    rest = (jnp.broadcast_to(word, first.shape) for word in data[2:])
    return jnp.stack([first, second, *rest], axis=-1)


def _bits(data: Array, width: int, shape: tuple[int, ...]) -> Array:
    a, b = _hash(data, _counters(shape))
    if width == 64:
        return a.astype(jnp.uint64) << np.uint64(32) | b.astype(jnp.uint64)
    return (a ^ b).astype(f"uint{width}")


_OF_A_STEP = jax.extend.random.define_prng_impl(
    key_shape=(4,),
    seed=lambda seed: jnp.append(
        jax.random.key_data(jax.random.key(seed, impl=_KIND)), jnp.array([0, 1], jnp.uint32)
    ),
    split=lambda data, shape: _keys(_hash(data, _counters(shape)), data),
    random_bits=_bits,
    fold_in=lambda data, number: _keys(_hash(data, jnp.asarray(number).astype(jnp.uint32)), data),
    name="key_of_a_step",
    tag="step",
)

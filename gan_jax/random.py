"""Keys for random draws. The draws do not depend on how a batch is divided.

A batch may be split over devices or into microbatches. A step wraps its key in a PRNG
implementation that also stores the index of the microbatch. The random bits are those of JAX's
default implementation.
"""

import enum
import math
from collections.abc import Callable

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from gan_jax import _cpu, batches
from gan_jax._cpu import threefry as threefry_cpu
from gan_jax.parallel import has_explicit_axes, spread, spread_like
from gan_jax.types import Array, PyTree

_KIND = "threefry2x32"


class Stream(enum.IntEnum):
    """Numbers that are folded into a key: one number for each use of the key.

    The roles DISCRIMINATOR and GENERATOR are folded into the state's key first, followed by the
    player's step count. The same key may be folded with a step count in one place and with one of
    the other numbers elsewhere. The other numbers are therefore larger than any step count, so the
    resulting keys differ.
    """

    DISCRIMINATOR = 0
    GENERATOR = 1
    LABELS = 2**31 - 5
    UNROLLED = 2**31 - 4
    REAL = 2**31 - 3
    FIXED_NOISE = 2**31 - 1


def per_example(key: Array, batch: PyTree) -> Array:
    """Returns one key for each example of a batch.

    The key of an example depends on the example's index in the whole batch.

    Args:
      key: a single key of any implementation, the same on every shard. It may come from `for_step`.
      batch: the examples of this shard and microbatch: an array [B, ...], a tree of such arrays, or
        the number B. The keys get the sharding of the first array. The values of the arrays do not
        matter.

    Returns:
      One key for each example: [B]. Together, all shards and microbatches get the same keys as an
      unsplit batch on one device.
    """
    key = threefry(key)
    number, parts = 0, 1
    if jax.random.key_impl(key) == _OF_A_STEP:
        number, parts = jax.random.key_data(key)[2:].astype(jnp.int32)
    if isinstance(batch, int):
        index = spread(jnp.arange(batch))
    else:
        first = jax.tree.leaves(batch)[0]
        index = spread_like(jnp.arange(first.shape[0]), first)
    index += batches.offset(index.shape[0])
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index * parts + number)


def draw(prior: Callable[[Array, int], PyTree], key: Array, batch: PyTree) -> PyTree:
    """Returns one draw for each example of a batch, [B, ...], with the keys of `per_example`.

    Args:
      prior: `(key, num) -> [num, ...]`, an array or a tree of arrays.
      key: a single key, the same on every shard.
      batch: an array [B, ...], a tree of such arrays, or the number B.

    Raises:
      ValueError: `prior(key, 1)` returned something other than arrays [1, ...].
    """

    def one(key: Array) -> PyTree:
        drawn = prior(key, 1)
        leaves = jax.tree.leaves(drawn)
        if not leaves or any(jnp.shape(leaf)[:1] != (1,) for leaf in leaves):
            raise ValueError(
                f"prior(key, num=1) returned shapes {jax.tree.map(jnp.shape, drawn)}: return "
                "arrays [num, ...] with one row for each example"
            )
        return jax.tree.map(lambda leaf: leaf[0], drawn)

    return jax.vmap(one)(per_example(key, batch))


def keys_like(key: Array, tree: PyTree) -> PyTree:
    """Returns a tree with one key for each leaf. A single leaf gets the key itself."""
    leaves, structure = jax.tree.flatten(tree)
    keys = [key] if len(leaves) == 1 else list(jax.random.split(key, len(leaves)))
    return jax.tree.unflatten(structure, keys)


def threefry(key: Array) -> Array:
    """Returns the key [] converted to JAX's default implementation, threefry2x32.

    A key of another implementation is converted by folding its words into a new key. This is needed
    for JAX's implementations rbg and unsafe_rbg. `jax.vmap` changes the draws of these two, so the
    draws would depend on how a batch is split. A key from `for_step` is returned unchanged.
    """
    if jax.random.key_impl(key) in (_KIND, _OF_A_STEP):
        return key
    folded = jax.random.key(0, impl=_KIND)
    for word in jax.random.key_data(key).ravel():
        folded = jax.random.fold_in(folded, word)
    return folded


def for_step(key: Array, number: Array | int = 0, parts: int = 1) -> Array:
    """Returns the key [] for a step on a batch, or on microbatch `number` of `parts`.

    The microbatch holds the examples `number`, `number + parts`, ... of the batch. `jax.random`
    gives the same results for the returned key as for `threefry(key)`, except that
    `jax.random.poisson` refuses it. The returned key also holds `number` and `parts`.
    `per_example` reads these two numbers wherever it is called, even deep in a network.

    Raises:
      ValueError: `parts` is above 1 and the key already comes from `for_step`.
    """
    key = threefry(key)
    if jax.random.key_impl(key) == _OF_A_STEP:
        if parts == 1:
            return key
        raise ValueError(
            f"this step divides its batch into {parts} microbatches, but another step calls it: "
            "build the inner step with accumulate=1"
        )
    place = jnp.stack([jnp.asarray(n, jnp.uint32) for n in (number, parts)])
    return jax.random.wrap_key_data(
        jnp.concatenate([jax.random.key_data(key), place]), impl=_OF_A_STEP
    )


# The PRNG implementation of `for_step`. The data of a key are four words: threefry's two words, the
# index of the microbatch and the number of microbatches.


def _hash(data: Array, counter: Array) -> tuple[Array, Array]:
    """Returns Threefry-2x32 of the counters (0, `counter`)."""
    if _cpu.uses("keys"):
        return threefry_cpu.threefry((data[0], data[1]), counter)
    first, second = (jnp.broadcast_to(word, counter.shape) for word in (data[0], data[1]))
    # `zero` is computed from `counter`, because the primitive needs both to be batched alike.
    zero = counter ^ counter
    a, b = jax.extend.random.threefry2x32_p.bind(first, second, zero, counter)
    return a, b


def _counters(shape: tuple[int, ...]) -> Array:
    return jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)


def _keys(words: tuple[Array, Array], data: Array) -> Array:
    first, second = words
    rest = [jnp.broadcast_to(word, first.shape) for word in data[2:]]
    if has_explicit_axes(first):  # `stack` needs equal shardings
        rest = [word | first & np.uint32(0) for word in rest]
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

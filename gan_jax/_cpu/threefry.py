"""The hash function of JAX's default keys, as one fused operation."""

import jax
import numpy as np

from gan_jax.types import Array


def threefry(key: tuple[Array, Array], counter: Array) -> tuple[Array, Array]:
    """Returns Threefry-2x32 with 20 rounds (Salmon et al. 2011) of the counters (0, `counter`).

    On GPUs and TPUs, JAX's own primitive compiles to these same operations. On a CPU it compiles to
    a loop, which takes several times as long if there are few numbers.

    Args:
      key: two words, uint32 [].
      counter: uint32, any shape.

    Returns:
      Two uint32 arrays with the shape of `counter`.
    """
    # Without this barrier, XLA may fuse the hash that made the key into this one. A chain of such
    # hashes, each of which uses its key several times, then compiles for minutes (JAX 0.12).
    key = jax.lax.optimization_barrier(key)
    words = *key, key[0] ^ key[1] ^ np.uint32(0x1BD11BDA)
    a, b = words[0], counter + words[1]
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            a = a + b
            b = a ^ (b << np.uint32(turn) | b >> np.uint32(32 - turn))
        a = a + words[(group + 1) % 3]
        b = b + words[(group + 2) % 3] + np.uint32(group + 1)
    return a, b

"""Self-attention over the pixels of an image (Zhang et al. 2019)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer

from gan_jax.nn.convolutions import Conv
from gan_jax.nn.initial import PARAM_DTYPE
from gan_jax.trees import at_least_single
from gan_jax.types import Array


class SelfAttention(nn.Module):
    """SAGAN's self-attention block: [B, H, W, C] -> [B, H, W, C].

    Each pixel attends to the maxima of 2x2 pixels, as in the authors' code. Queries and keys have C
    / 8 features, and values have C / 2. The block adds its result times a learned number to x. This
    number starts at 0, so the block first returns x (Zhang et al. 2019). `kernel_init` initialises
    the kernels.
    """

    kernel_init: Initializer = nn.initializers.orthogonal()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, features = x.shape

        def conv(features: int, name: str) -> Conv:
            return Conv(features, False, (1, 1), (1, 1), (0, 0), 1, self.kernel_init, name=name)

        def flat(x: Array) -> Array:
            return x.reshape(batch, -1, x.shape[-1])

        few = max(features // 8, 1)
        queries = flat(conv(few, "query")(x))
        keys = flat(pooled(conv(few, "key")(x), jnp.max))
        values = flat(pooled(conv(max(features // 2, 1), "value")(x), jnp.max))
        scores = jnp.einsum("bqc,bkc->bqk", queries, keys)
        weights = jax.nn.softmax(at_least_single(scores)).astype(x.dtype)
        seen = jnp.einsum("bqk,bkc->bqc", weights, values).reshape(batch, height, width, -1)
        gamma = self.param("gamma", nn.initializers.zeros, (), PARAM_DTYPE)
        return x + gamma * conv(features, "out")(seen)


def pooled(x: Array, reduce: Callable[..., Array]) -> Array:
    """Returns `reduce` over each square of 2x2 pixels: [B, H, W, C] -> [B, H // 2, W // 2, C].

    An odd last row or column is dropped.
    """
    batch, height, width, features = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return reduce(x.reshape(batch, height // 2, 2, width // 2, 2, features), axis=(2, 4))

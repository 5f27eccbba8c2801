"""The dense layer."""

from typing import Any

import flax.linen as nn

from gan_jax._cpu.dense import dot_general


class Dense(nn.Dense):
    """`flax.linen.Dense`, faster on a CPU with two or three inputs or features.

    XLA's products on a CPU are fast for wide matrices only. The products of a layer with two or
    three columns, and those of its gradients, take two to eight times as long as the same products
    column by column.
    """

    dot_general: Any = dot_general

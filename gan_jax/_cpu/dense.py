"""Matrix products with two or three columns, which XLA computes slowly on a CPU."""

from typing import Any

import jax
import jax.numpy as jnp

from gan_jax import _cpu
from gan_jax.types import Array


def dot_general(x: Array, kernel: Array, dimensions: Any, **options: Any) -> Array:
    """Returns `jax.lax.dot_general(x, kernel, dimensions, **options)`.

    On a CPU, a kernel with 2 or 3 columns is multiplied column by column. For a kernel with 2 or 3
    rows, the derivative with respect to x is computed row by row.
    """

    def whole(x: Array, kernel: Array) -> Array:
        return jax.lax.dot_general(x, kernel, dimensions, **options)

    def by_columns(x: Array, kernel: Array) -> Array:
        return jnp.stack([whole(x, column) for column in kernel.T], axis=-1)

    def outer(x: Array, row: Array) -> Array:
        return jax.lax.dot_general(x, row, (((), ()), ((), ())), **options)

    if not _cpu.uses("dense"):
        return whole(x, kernel)
    by_rows = jax.custom_jvp(whole)

    @by_rows.defjvp
    def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
        (x, kernel), (dx, d_kernel) = primals, tangents
        by_x = sum(outer(dx[..., i], row) for i, row in enumerate(kernel))
        return by_rows(x, kernel), by_x + whole(x, d_kernel)

    if kernel.shape[1] in (2, 3):
        return jax.lax.platform_dependent(x, kernel, cpu=by_columns, default=whole)
    if kernel.shape[0] in (2, 3):
        return jax.lax.platform_dependent(x, kernel, cpu=by_rows, default=whole)
    return whole(x, kernel)

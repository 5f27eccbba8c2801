"""The direction that a linear map stretches most, by the block Lanczos method."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gan_jax.types import Array

_BETWEEN, _LONGEST = 8, 16
"""Steps between two looks at what was found, and in all."""

_TOLERANCE = 5e-3
"""Of the square of the norm, by bounds of first order: the error is of the second."""

SMALLEST = 1e-12
"""What is divided by is at least this: a kernel of zeros stays one."""


def lanczos(layer: Callable[[Array], Array], block: Array) -> tuple[Array, Array]:
    """The direction [...] in which the layer makes most of its length, and whether in doubt.

    The block Lanczos method (Golub and Underwood 1977) on the map's square A from the directions
    block [N, ...], with full reorthogonalisation. Around each Ritz value is an eigenvalue of A, no
    farther than the Ritz vector's residual (Parlett 1980, theorem 4.5.1): it stops when no such
    interval reaches above the largest Ritz value by more than the tolerance. What it has seen
    nothing of can be larger nevertheless; that is what random directions are for.
    """
    image = jax.eval_shape(layer, block)
    transpose = jax.linear_transpose(layer, block)
    blocks = (_LONGEST, len(block))

    def step(number: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        """One more block of the basis, what the layer makes of it, and what is to come next."""
        basis, made, further = carry
        rows = _orthonormal(further, _flat(basis))
        basis = basis.at[number].set(rows)
        y = layer(rows.reshape(block.shape))
        (further,) = transpose(y)
        made = made.at[number].set(_rows(y))
        return basis, made, _rows(further) - _rows(further) @ _flat(basis).T @ _flat(basis)

    def look(number: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        basis, made, further = _flat(carry[0]), _flat(carry[1]), carry[2]
        # By rising norm of what the layer makes of them; rows of zeros first.
        values, shares = jnp.linalg.eigh(made @ made.T + SMALLEST * basis @ basis.T)
        of_last = shares.reshape(*blocks, -1)[number - 1]
        residuals = jnp.linalg.norm(of_last.T @ further, axis=1)
        doubt = jnp.max(values + residuals) > (1 + _TOLERANCE) * values[-1]
        return unit(shares[:, -1] @ basis).reshape(block.shape[1:]), doubt

    def unsettled(carry: tuple[Array, Any, Array, Array]) -> Array:
        number, *_, doubt = carry
        return (number < _LONGEST) & doubt

    def go_on(carry: tuple[Array, Any, Array, Array]) -> tuple[Array, Any, Array, Array]:
        number, found, *_ = carry
        found = jax.lax.fori_loop(number, number + _BETWEEN, step, found)
        return number + _BETWEEN, found, *look(number + _BETWEEN, found)

    rows = _rows(block)
    zero = _zero(block)
    basis = jnp.full((*blocks, rows.shape[1]), zero)
    made = jnp.full((*blocks, math.prod(image.shape[1:])), zero)
    start = jnp.zeros((), jnp.int32), (basis, made, rows), block[0], zero == 0
    return jax.lax.while_loop(unsettled, go_on, start)[2:]


def _zero(v: Array) -> Array:
    """0 as an array of v's kind: in `shard_map` a loop may not begin with another."""
    return 0 * v.ravel()[0]


def unit(v: Array) -> Array:
    """v / |v|; zeros stay zeros."""
    return v / jnp.maximum(jnp.linalg.norm(v.ravel()), SMALLEST)


def _rows(block: Array) -> Array:
    """[N, ...] -> [N, D]."""
    return block.reshape(block.shape[0], -1)


def _flat(blocks: Array) -> Array:
    """[K, N, D] -> [K N, D]."""
    return blocks.reshape(-1, blocks.shape[-1])


def _orthonormal(rows: Array, basis: Array) -> Array:
    """Orthonormal rows that with the basis span what the given rows and the basis do.

    Where that is fewer, the others are zeros. By products of matrices: XLA's QR takes a hundred
    times as long on a CPU.
    """
    # The second time corrects the rounding of the first; what it finds to lie in the span of the
    # basis after all, was nothing but rounding.
    for relative, absolute in ((1e-6, 0.0), (0.0, 0.25)):
        rows = rows - rows @ basis.T @ basis
        squares, turn = jnp.linalg.eigh(rows @ rows.T)
        kept = squares > jnp.maximum(relative * squares[-1], absolute)
        scales = jnp.where(kept, jax.lax.rsqrt(jnp.where(kept, squares, 1.0)), 0.0)
        rows = scales[:, None] * (turn.T @ rows)
    return rows

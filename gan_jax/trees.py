"""Functions of trees of arrays: wider types for sums, and the first difference of two trees."""

from typing import Any

import jax
import jax.numpy as jnp

from gan_jax.types import Array, PyTree


def at_least_single(x: Array) -> Array:
    """A floating array in float32 if its type is narrower, else as it is.

    Sums and squares need that. float16 overflows above 65504 and rounds numbers below 3e-8 to 0.
    bfloat16 has 8 significant bits: near 1 an increment below 1/256 is lost, and a mean that decays
    by .999 hardly moves.
    """
    x = jnp.asarray(x)
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def widened(tree: PyTree) -> PyTree:
    """The tree with its floating arrays in float32 at least; others stay as they are."""
    return jax.tree.map(lambda leaf: at_least_single(leaf) if is_inexact(leaf) else leaf, tree)


def squared_norms(tree: PyTree) -> Array:
    """The squared Euclidean norm [B] of each example of arrays [B, ...], in float32 at least.

    In float16 the sum of squares would overflow, for example at 65,536 pixels of slope 1.
    """
    squares = [
        jnp.sum(jnp.square(at_least_single(leaf)), axis=tuple(range(1, leaf.ndim)))
        for leaf in jax.tree.leaves(tree)
    ]
    return sum(squares[1:], squares[0])


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """The tree with the types of the leaves of another tree of the same structure."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def is_inexact(leaf: Array) -> bool:
    """Whether an array's numbers are floating or complex."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def first_difference(given: PyTree, expected: PyTree) -> str | None:
    """The first path at which the structures of two trees differ, and how; None if they agree."""
    kinds: list[Any] = [jax.tree.structure(tree) for tree in (given, expected)]
    if kinds[0] == kinds[1]:
        return None
    found, wanted = (
        [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)]
        for tree in (given, expected)
    )
    for path in wanted:
        if path not in found:
            return f"{path} is missing"
    for path in found:
        if path not in wanted:
            return f"{path} is not expected"
    return f": the containers are {kinds[0]}, not {kinds[1]}"

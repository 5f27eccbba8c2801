"""Functions on trees of arrays."""

from typing import Any

import jax
import jax.numpy as jnp

from gan_jax.types import Array, PyTree


def at_least_single(x: Array) -> Array:
    """Returns the array, converted to float32 if it is floating and its type is narrower.

    Sums and squares need the wider type. float16 overflows above 65504 and rounds numbers below
    3e-8 to 0. bfloat16 has 8 significant bits, so adding less than 1/256 to 1 has no effect. In
    bfloat16, a moving average with decay 0.999 would therefore hardly change.
    """
    x = jnp.asarray(x)
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def widened(tree: PyTree) -> PyTree:
    """Returns the tree with its floating arrays in at least float32. Other arrays are unchanged."""
    return jax.tree.map(lambda leaf: at_least_single(leaf) if is_inexact(leaf) else leaf, tree)


def squared_norms(tree: PyTree) -> Array:
    """Returns the squared Euclidean norm [B] of each example of a tree of arrays [B, ...].

    The sums are computed in at least float32. In float16 a sum overflows above 65504, which is less
    than the sum of 256 x 256 ones.
    """
    squares = [
        jnp.sum(jnp.square(at_least_single(leaf)), axis=tuple(range(1, leaf.ndim)))
        for leaf in jax.tree.leaves(tree)
    ]
    return sum(squares[1:], squares[0])


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Returns the tree cast to the types of another tree of the same structure."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def is_inexact(leaf: Array) -> bool:
    """Returns True if the array's type is floating or complex."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def first_difference(given: PyTree, expected: PyTree) -> str | None:
    """Returns the first difference between the structures of two trees, or None.

    The difference is described in words, for an error message.
    """
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

"""Functions of trees of arrays: wider types for sums, and the first difference of two trees."""

from typing import Any

import jax
import jax.numpy as jnp

from gan_jax.types import Array, PyTree


def widened(tree: PyTree) -> PyTree:
    """The tree with its floating arrays in float32 at least, for sums of many numbers.

    bfloat16 has 8 significant bits: near 1 an increment below 1/256 is lost, and a mean that decays
    by .999 hardly moves. float16 underflows below 6e-8. float32 and float64 stay.
    """

    def widen(leaf: Array) -> Array:
        if is_inexact(leaf) and jnp.finfo(leaf.dtype).bits < 32:
            return leaf.astype(jnp.float32)
        return leaf

    return jax.tree.map(widen, tree)


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

"""What several modules ask of a tree of arrays: wide types for sums, and where two trees differ."""

from typing import Any

import jax
import jax.numpy as jnp

from gan_jax.types import Array, PyTree


def widened(tree: PyTree) -> PyTree:
    """The tree with its floating arrays in float32 at least: the type to add many numbers up in.

    A bfloat16 has 8 significant bits: near 1 an increment below 1/256 is lost, and so is all of a
    mean square that decays by .999. float16 underflows below 6e-8. float32 and float64 stay.
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
    """The first path at which two trees of arrays differ in structure or shape, and how; or None.

    Args:
      given, expected: leaves with a shape, such as arrays or `jax.ShapeDtypeStruct`.
    """
    found, wanted = (
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (given, expected)
    )
    for path, leaf in wanted.items():
        if path not in found:
            return f"{path} is missing"
        if jnp.shape(found[path]) != jnp.shape(leaf):
            return f"{path} has shape {jnp.shape(found[path])}, not {jnp.shape(leaf)}"
    for path in found:
        if path not in wanted:
            return f"{path} is not expected"
    kinds: list[Any] = [jax.tree.structure(tree) for tree in (given, expected)]
    return None if kinds[0] == kinds[1] else f"the containers are {kinds[0]}, not {kinds[1]}"

"""Functions that name, describe, copy and compare the arrays of a state."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.types import PyTree


def snapshot(state: PyTree) -> PyTree:
    """Returns a copy of a state in new buffers. The copy stays valid when the state is donated.

    It is made by device transfers, because a program that copies would have to be compiled.
    """
    # Keys are copied as plain arrays, because JAX may ignore `may_alias=False` for keys.
    copies = jax.device_put(jax.tree.map(_data, state), may_alias=False)
    return jax.tree.map(_wrap, copies, state)


class Leaf(NamedTuple):
    """Description of an array in a state: its path in Python syntax, its type and its shape."""

    path: str
    dtype: str
    shape: list[int]

    @property
    def kind(self) -> str:
        return f"{self.dtype}{self.shape}"

    def __str__(self) -> str:
        return f"state{self.path} ({self.kind})"


def _paths(tree: PyTree) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def describe(tree: PyTree) -> list[Leaf]:
    """Returns the path, type and shape of each array of a state.

    The state may also be the result of `jax.eval_shape`.

    Raises:
      TypeError: a leaf is not an array.
    """
    for path, leaf in _paths(tree):
        if not hasattr(leaf, "dtype"):
            raise TypeError(f"state{path} must be an array, got a {type(leaf).__name__}")
    return [Leaf(path, str(leaf.dtype), list(leaf.shape)) for path, leaf in _paths(tree)]


def to_host(tree: PyTree) -> dict[str, np.ndarray]:
    """Returns host copies of all non-empty arrays, by path. Empty arrays have no values to copy."""
    data = {path: _data(leaf) for path, leaf in _paths(tree)}
    return {path: np.array(leaf) for path, leaf in data.items() if leaf.size}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _wrap(data: Any, template: Any) -> Any:
    if not _is_key(template):
        return data
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(template))


def like(template: Any, saved: np.ndarray | None) -> Any:
    """Returns the saved array bit for bit. If the template is a key, the result is a key.

    An empty array is not saved, so `saved` is None and the template gives its shape and type.
    """
    if _is_key(template):
        blank = jnp.empty(template.shape, template.dtype)
        if saved is None:
            return blank
        return _wrap(jnp.asarray(saved), blank)
    if saved is None:
        saved = np.empty(template.shape, template.dtype)
    array = jnp.asarray(saved)
    return array if array.dtype == saved.dtype else saved  # JAX may truncate 64 bits to 32


def difference(there: Sequence[Leaf], here: Sequence[Leaf]) -> str:
    """Returns a description of the first array that differs between two states, or ""."""
    saved, wanted = {leaf.path: leaf for leaf in there}, {leaf.path: leaf for leaf in here}
    for old, new in itertools.zip_longest(there, here):
        only_old = old is not None and old.path not in wanted
        only_new = new is not None and new.path not in saved
        if only_old and only_new:
            return f"{old} in the checkpoint, {new} in this state"
        if only_old:
            return f"{old} in the checkpoint, not in this state"
        if only_new:
            return f"{new} in this state, not in the checkpoint"
        for leaf in filter(None, (old, new)):
            one, other = saved[leaf.path], wanted[leaf.path]
            if one != other:
                return f"state{leaf.path}: {one.kind} in the checkpoint, {other.kind} in this state"
    return ""


def digest(leaves: Sequence[Leaf], arrays: dict[str, np.ndarray]) -> str:
    """Returns the SHA-256 of the descriptions and the bytes of all arrays."""
    sha = hashlib.sha256(json.dumps(leaves).encode())
    for leaf in leaves:
        if (array := arrays.get(leaf.path)) is not None:
            sha.update(f"{leaf.path} {array.dtype} {array.shape}".encode())
            sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()

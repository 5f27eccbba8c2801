"""Functions of the arrays of a state: naming, describing, copying to the host, comparing."""

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
    """A copy of a state in buffers of its own, which stays valid when the state is donated.

    It is made by transfers, because a program that copies would have to be compiled.
    """
    # A key's data are copied as a plain array: for keys JAX may ignore `may_alias=False`.
    copies = jax.device_put(jax.tree.map(_data, state), may_alias=False)
    return jax.tree.map(_wrap, copies, state)


class Leaf(NamedTuple):
    """An array of a state: its path in Python's syntax, its type and its shape."""

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
    """The path, type and shape of each array of a state, or of `jax.eval_shape` of one.

    Raises:
      TypeError: a leaf is not an array.
    """
    for path, leaf in _paths(tree):
        if not hasattr(leaf, "dtype"):
            raise TypeError(f"state{path} must be an array, got a {type(leaf).__name__}")
    return [Leaf(path, str(leaf.dtype), list(leaf.shape)) for path, leaf in _paths(tree)]


def to_host(tree: PyTree) -> dict[str, np.ndarray]:
    """Host copies of the arrays by path, without empty ones, which `describe` covers."""
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
    """The saved array, bit for bit; as a key if the template is one."""
    if _is_key(template):
        blank = jnp.empty(template.shape, template.dtype)
        if saved is None:
            return blank
        return _wrap(jnp.asarray(saved), blank)
    if saved is None:
        saved = np.empty(template.shape, template.dtype)
    array = jnp.asarray(saved)
    return array if array.dtype == saved.dtype else saved  # 64 bits, which JAX would truncate


def difference(there: Sequence[Leaf], here: Sequence[Leaf]) -> str:
    """The first array in which two states differ, and how; "" if they agree."""
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
    """The SHA-256 of a description and of the bits of its arrays."""
    sha = hashlib.sha256(json.dumps(leaves).encode())
    for leaf in leaves:
        if (array := arrays.get(leaf.path)) is not None:
            sha.update(f"{leaf.path} {array.dtype} {array.shape}".encode())
            sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()

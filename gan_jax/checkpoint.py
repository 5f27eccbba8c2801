"""Checkpoints of a whole state, verified when read. The only module that knows Orbax."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from gan_jax.types import PyTree

_POLICIES = ocp.training.save_decision_policies, ocp.training.preservation_policies


class CheckpointError(RuntimeError):
    """There are checkpoints, and none of them can be read."""


class Checkpoints:
    """The newest few states of a run, in a folder with one sub-folder for each step.

    What is saved is the host's copy of each array, so that neither the number of devices nor the
    layout of the run that reads need be those of the run that wrote. Each checkpoint carries a
    digest of its contents: a damaged one is never taken for a good one.

    Args:
      folder: made if it is missing.
      keep: how many of the newest to keep. None: only to read, as beside a run that goes on:
        nothing is cleaned up, moved or deleted.
    """

    def __init__(self, folder: Path, *, keep: int | None = 3) -> None:
        self.folder = folder.absolute()
        self._decision = _POLICIES[0].FixedIntervalPolicy(1)
        self._keep = keep
        self._open()

    def _open(self) -> None:
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            save_decision_policy=self._decision,
            preservation_policy=_POLICIES[1].LatestN(self._keep),
            cleanup_tmp_directories=self._keep is not None,
        )

    @property
    def steps(self) -> list[int]:
        """The steps saved, in ascending order."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def save(self, step: int, state: PyTree) -> None:
        """Begins to save a state and returns; `wait` or the next `save` waits for the end.

        Raises:
          CheckpointError: the folder already has this step or a later one.
        """
        host = _to_host(state)
        pending = self._checkpointer.save_async(
            step, host, custom_metadata={"sha256": _digest(host)}
        )
        if pending is None:
            raise CheckpointError(
                f"{self.folder} already holds step {max(self.steps)}: step {step} was not saved"
            )

    def wait(self) -> None:
        """Returns when everything begun is safely on disk."""
        self._checkpointer.wait()

    def restore(
        self, template: PyTree, announce: Callable[[str], None] = print
    ) -> tuple[int, PyTree] | None:
        """The newest state that can be read, with its step.

        A checkpoint that cannot be read is moved to `corrupt/` beside the folder, announced, and
        the one before it is tried.

        Args:
          template: a state, or `jax.eval_shape` of one, with the structure that was saved.
          announce: told of each checkpoint passed over, and why.

        Returns:
          None if nothing was ever saved here.

        Raises:
          CheckpointError: nothing that was saved can be read.
        """
        steps = self.steps
        for step in reversed(steps):
            try:
                return step, self._load(step, template)
            except Exception as error:  # whatever a damaged file makes its reader raise
                reason = error.__cause__ or error
                outcome = "passed over" if self._keep is None else self._set_aside(step)
                announce(
                    f"checkpoint {step} cannot be read ({type(reason).__name__}: "
                    f"{_first_line(reason)}): {outcome}"
                )
        if steps:
            raise CheckpointError(
                f"none of the checkpoints of steps {steps} in {self.folder} can be read; "
                "once they are out of that folder, the same command starts from the beginning"
            )
        return None

    def close(self) -> None:
        """Waits for the last save and lets go of the folder."""
        self._checkpointer.close()

    def _load(self, step: int, template: PyTree) -> PyTree:
        abstract = jax.tree.map(
            lambda leaf: np.empty(leaf.shape, leaf.dtype), jax.eval_shape(_key_data, template)
        )
        loaded = self._checkpointer.load(step, abstract)
        expected = (self._checkpointer.metadata(step).custom_metadata or {}).get("sha256")
        if _digest(loaded) != expected:
            raise ValueError("its contents are not those that were saved")
        return jax.tree.map(_like, template, loaded)

    def _set_aside(self, step: int) -> str:
        corrupt = self.folder.parent / "corrupt"
        corrupt.mkdir(exist_ok=True)
        kept = (self.folder / str(step)).rename(corrupt / f"{step}-{len(list(corrupt.iterdir()))}")
        self._checkpointer.close()
        self._open()
        return f"moved to {kept}"


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_data(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _to_host(tree: PyTree) -> PyTree:
    return jax.tree.map(np.array, _key_data(tree))


def _like(template: Any, saved: np.ndarray) -> Any:
    if _is_key(template):
        return jax.random.wrap_key_data(
            jax.numpy.asarray(saved), impl=jax.random.key_impl(template)
        )
    return jax.numpy.asarray(saved)


def _digest(tree: PyTree) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]

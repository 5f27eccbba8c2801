"""Checkpoints of a whole state, verified when read. The only module that knows Orbax."""

import functools
import gc
import hashlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gan_jax.types import PyTree


class CheckpointError(RuntimeError):
    """A state cannot be saved, or nothing that was saved can be read."""


class Checkpoints:
    """The newest few states of a run, in a folder with one sub-folder for each step.

    What is saved is the host's copy of each array, so that neither the number of devices nor the
    layout of the run that reads need be those of the run that wrote. Each checkpoint carries a
    digest of its contents: a damaged one is never taken for a good one.

    Args:
      folder: made with the first state, if it is missing.
      keep: how many of the newest to keep. None: only to read, as beside a run that goes on:
        nothing is cleaned up, moved or deleted.
    """

    def __init__(self, folder: Path, *, keep: int | None = 3) -> None:
        self.folder = folder.absolute()
        self._keep = keep
        self._pending: Any = None
        self._failed = False

    @functools.cached_property
    def _checkpointer(self) -> Any:
        # Orbax takes long to import: a new run has begun its training by then.
        from orbax.checkpoint import v1 as ocp

        training = ocp.training
        return training.Checkpointer(
            self.folder,
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=training.preservation_policies.LatestN(self._keep),
            cleanup_tmp_directories=self._keep is not None,
        )

    @property
    def steps(self) -> list[int]:
        """The steps saved, in ascending order."""
        if not (self.folder.is_dir() and any(self.folder.iterdir())):
            return []
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def save(self, step: int, state: PyTree) -> None:
        """Begins to save a state and returns; `wait` or the next `save` waits for the end.

        Raises:
          CheckpointError: the folder already has this step or a later one.
        """
        host = _to_host(state)
        self.wait()
        if all(step > saved for saved in self.steps):
            self._pending = self._checkpointer.save_async(
                step, host, custom_metadata={"sha256": _digest(host)}
            )
        if self._pending is None:
            raise CheckpointError(
                f"{self.folder} already holds step {max(self.steps)}: step {step} was not saved"
            )

    def wait(self) -> None:
        """Returns when everything begun is safely on disk.

        Raises:
          CheckpointError: it could not be saved; the checkpoints before it are still there.
        """
        pending, self._pending = self._pending, None
        try:
            if pending is not None:
                pending.result()  # more than waiting: it ends Orbax's thread and has its error
        except Exception as error:  # whatever a full or failing disk makes its writer raise
            self._failed = True
            raise CheckpointError(
                f"a checkpoint could not be saved in {self.folder} ({_first_line(error)}): make "
                "room there; the same command resumes from the last one that was"
            ) from error

    def restore(
        self, template: PyTree, announce: Callable[[str], None] = print
    ) -> tuple[int, PyTree] | None:
        """The newest state that can be read, with its step.

        Checkpoints newer than that one are announced and moved to `corrupt/` beside the folder.
        If none can be read all stay where they are: it may be the disk, or another version.

        Args:
          template: a state, or `jax.eval_shape` of one, with the structure that was saved.
          announce: told of each checkpoint passed over, and why.

        Returns:
          None if nothing was ever saved here.

        Raises:
          CheckpointError: nothing that was saved can be read.
        """
        self.wait()
        abstract = jax.tree.map(
            lambda leaf: np.empty(leaf.shape, leaf.dtype), jax.eval_shape(_key_data, template)
        )
        steps, unreadable = self.steps, dict[int, str]()
        for step in reversed(steps):
            with _quiet():
                loaded, reason = self._try_load(step, abstract)
            if not reason:
                for newer, why in unreadable.items():
                    outcome = "passed over" if self._keep is None else self._set_aside(newer)
                    announce(f"checkpoint {newer} cannot be read ({why}): {outcome}")
                return step, jax.tree.map(_like, template, loaded)
            unreadable[step] = reason
        if steps:
            why = "; ".join(f"{step}: {reason}" for step, reason in unreadable.items())
            raise CheckpointError(
                f"none of the checkpoints in {self.folder} can be read ({why}). They are left as "
                "they are: if the disk is at fault try again, if another version made them use "
                "that one, else put back a good copy. To begin anew move the folder away"
            )
        return None

    def close(self) -> None:
        """Waits for the last save and lets go of the folder."""
        try:
            self.wait()
        finally:
            with suppress(Exception) if self._failed else nullcontext():
                self._let_go()  # raises once more what failed

    def _let_go(self) -> None:
        if opened := vars(self).pop("_checkpointer", None):
            opened.close()

    def _try_load(self, step: int, abstract: PyTree) -> tuple[PyTree, str]:
        """What was saved and "", or None and what is wrong with it."""
        try:
            return self._load(step, abstract), ""
        except Exception as error:  # whatever a damaged file makes its reader raise
            cause = error.__cause__ or error
            reason = f"{type(cause).__name__}: {_first_line(cause)}"
        # Orbax abandons its other reads when one fails. Let them end while that is not reported.
        time.sleep(0.1)
        gc.collect()
        return None, reason

    def _load(self, step: int, abstract: PyTree) -> PyTree:
        loaded = self._checkpointer.load(step, abstract)
        expected = (self._checkpointer.metadata(step).custom_metadata or {}).get("sha256")
        if _digest(loaded) != expected:
            raise ValueError("its contents are not those that were saved")
        return loaded

    def _set_aside(self, step: int) -> str:
        corrupt = self.folder.parent / "corrupt"
        corrupt.mkdir(exist_ok=True)
        kept = (self.folder / str(step)).rename(corrupt / f"{step}-{len(list(corrupt.iterdir()))}")
        self._let_go()
        return f"moved to {kept}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what Orbax and its threads say of a damaged file from the user: `restore` says it."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before = sys.unraisablehook, [logger.disabled for logger in loggers]
    sys.unraisablehook = lambda _: None
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        sys.unraisablehook = before[0]
        for logger, disabled in zip(loggers, before[1], strict=True):
            logger.disabled = disabled


def snapshot(state: PyTree) -> PyTree:
    """What `Checkpoints.save` needs of a state, in buffers of its own: the state may be donated.

    By transfers: a program that copies would have to be compiled.
    """
    return jax.device_put(_key_data(state), may_alias=False)


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_data(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _to_host(tree: PyTree) -> PyTree:
    return jax.tree.map(np.array, _key_data(tree))


def _like(template: Any, saved: np.ndarray) -> Any:
    if _is_key(template):
        impl = jax.random.key_impl(jax.numpy.empty((), template.dtype))
        return jax.random.wrap_key_data(jax.numpy.asarray(saved), impl=impl)
    return jax.numpy.asarray(saved)


def _digest(tree: PyTree) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]

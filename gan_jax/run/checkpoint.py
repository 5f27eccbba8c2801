"""Checkpoints of a training state, verified when read. No other module uses Orbax."""

import functools
import logging
import re
import shutil
import sys
import tempfile
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gan_jax.run.leaves import Leaf, describe, difference, digest, like, to_host
from gan_jax.run.locks import has_locks
from gan_jax.types import PyTree


class CheckpointError(RuntimeError):
    """A state cannot be saved, or a saved state cannot be restored."""


class Checkpoints:
    """The newest checkpoints of a run, in a folder with one sub-folder per step.

    A checkpoint stores the whole value of each array. It can therefore be restored on another
    number of devices and with another layout. A digest of the contents detects damage. Each
    `Checkpoints` object reads back the first checkpoint that it saves, so storage that cannot be
    read is found early in a run.

    Args:
      folder: a local folder with any name. The first save creates it.
      keep: the number of newest checkpoints to keep. With None the folder is only read: nothing is
        cleaned up, moved or deleted. Another process may then write to the folder.

    Raises:
      CheckpointError: Orbax would read the folder's path as a pattern or an address, and no
        symbolic link to the folder can be made.
    """

    def __init__(self, folder: Path, *, keep: int | None = 3) -> None:
        self.folder = folder.absolute()
        self._keep = keep
        self._protected = set[int]()
        self._address = self._new_link() if _odd(self.folder) else self.folder
        self._pending: tuple[int, Any] | None = None
        self._was_read_back = False

    def _new_link(self) -> Path:
        """Returns a symbolic link to the folder. Orbax reads the link's path as a local folder."""
        try:
            link = Path(tempfile.mkdtemp(prefix="gan_jax-")) / "checkpoints"
            weakref.finalize(self, shutil.rmtree, link.parent, ignore_errors=True)
            link.symlink_to(self.folder, target_is_directory=True)
        except OSError as error:
            why = str(error)
        else:
            if not _odd(link):
                return link
            why = f"the folder for temporary files, {str(link.parent)!r}, has the same problem"
        raise CheckpointError(
            f"checkpoints cannot be saved in {str(self.folder)!r} because its path contains "
            f"{_odd(self.folder)}, and no link to it can be made ({why}): use a folder whose path "
            "has only letters, digits, spaces and . , = + - _, or set TMPDIR to such a folder"
        )

    @functools.cached_property
    def _checkpointer(self) -> Any:
        # Orbax takes long to import. Importing it here lets a new run begin its training first.
        from orbax.checkpoint import v1 as ocp

        _hush()
        if not has_locks(self.folder):
            _write_without_locks()
        training = ocp.training
        return training.Checkpointer(
            self._address,
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=_NewestAndProtected(self._keep, self._protected),
            cleanup_tmp_directories=self._keep is not None,
        )

    @property
    def steps(self) -> list[int]:
        """The saved steps, in ascending order."""
        return saved_steps(self.folder)

    def protect(self, step: int) -> None:
        """Keeps the checkpoint of this step however old it becomes. Only one step is protected."""
        self._protected.clear()
        self._protected.add(step)

    def has(self, step: int) -> bool:
        """Returns whether this step is saved or is being saved."""
        return step in self.steps or (self._pending is not None and self._pending[0] == step)

    def save(self, step: int, state: PyTree) -> None:
        """Starts to save a state in the background.

        The next `wait` or `save` waits until the state is saved.

        Raises:
          CheckpointError: the folder already has this step or a later one, the folder cannot be
            written to, or the previous save failed.
          TypeError: a leaf of the state is not an array.
        """
        leaves, arrays = describe(state), to_host(state)
        self.wait()
        pending = None
        with self._saving():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._address.is_dir():  # the system may have deleted the temporary link
                self._let_go()
                self._address = self._new_link()
            if all(step > saved for saved in self.steps):
                pending = self._checkpointer.save_async(
                    step,
                    arrays or {"nothing": np.zeros(1)},  # Orbax refuses an empty tree
                    custom_metadata={"leaves": leaves, "sha256": digest(leaves, arrays)},
                )
        if pending is None:
            raise CheckpointError(
                f"{self.folder} already holds step {max(self.steps)}: step {step} was not saved"
            )
        self._pending = step, pending

    def wait(self) -> None:
        """Waits until the pending checkpoint is on disk. The first checkpoint is then read back.

        Raises:
          CheckpointError: the checkpoint could not be saved or cannot be read back. Earlier
            checkpoints remain.
        """
        if self._pending is None:
            return
        (step, pending), self._pending = self._pending, None
        with self._saving():
            pending.result()  # also joins Orbax's thread and raises its error
        if not self._was_read_back:
            *_, problem = self._try_load(step)
            if problem:
                raise CheckpointError(
                    f"checkpoint {step} was saved in {self.folder} but cannot be read back "
                    f"({problem}), so no run can resume from it: use a folder on another disk"
                )
            self._was_read_back = True

    @contextmanager
    def _saving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a full or failing disk causes exceptions of many types
            with suppress(Exception):
                self._let_go()  # raises the same error again
            raise CheckpointError(
                f"a checkpoint could not be saved in {self.folder} ({self._first_line(error)}): "
                "make room there. The same command then resumes from the last checkpoint"
            ) from error

    def restore(
        self,
        template: PyTree,
        announce: Callable[[str], None] = print,
        *,
        only: int | None = None,
    ) -> tuple[int, PyTree] | None:
        """Returns (step, state) of the newest readable checkpoint, or None if the folder is empty.

        Newer checkpoints, which cannot be read, are announced and moved to `corrupt/` beside the
        folder. Older checkpoints with unreadable metadata are announced and moved too, because
        Orbax cannot save next to them.

        If no checkpoint can be read, nothing is moved, because the cause may be the disk or another
        version of the library. If the saved state and the template differ in structure, nothing is
        moved either.

        Args:
          template: a state, or the result of `jax.eval_shape` for a state. Its tree structure,
            shapes and types must be those of the saved state.
          announce: called with a message about each unreadable checkpoint.
          only: the step of the checkpoint to read. None: the newest readable one.

        Raises:
          CheckpointError: no checkpoint can be read, or the newest readable checkpoint has another
            structure than the template. A message about the structure names the first array that
            differs.
          TypeError: a leaf of the template has no shape and type.
        """
        self.wait()
        wanted = describe(template)
        steps = self.steps if only is None else [only]
        unreadable = dict[int, str]()
        for step in reversed(steps):
            leaves, arrays, problem = self._try_load(step)
            if problem:
                unreadable[step] = problem
                continue
            if differs := difference(leaves, wanted):
                raise CheckpointError(
                    f"checkpoint {step} in {self.folder} is intact, but this run's state has "
                    f"another structure: {differs}. Build the state with the networks and "
                    "optimizers that were saved. The checkpoint was not changed"
                )
            if self._keep is not None:
                unreadable |= self._without_metadata(steps[: steps.index(step)])
            for other, why in unreadable.items():
                outcome = "passed over" if self._keep is None else self._set_aside(other)
                announce(f"checkpoint {other} cannot be read ({why}): {outcome}")
            templates, structure = jax.tree.flatten(template)
            found = [
                like(leaf, arrays.get(place.path))
                for leaf, place in zip(templates, wanted, strict=True)
            ]
            return step, jax.tree.unflatten(structure, found)
        if steps:
            why = "; ".join(f"{step}: {problem}" for step, problem in unreadable.items())
            raise CheckpointError(
                f"none of the checkpoints in {self.folder} can be read ({why}). If the disk "
                "failed, try again. If another version wrote them, use that version. Otherwise "
                "restore a backup, or move the folder away to begin anew. The checkpoints were not "
                "changed"
            )
        return None

    def close(self) -> None:
        """Waits for the last save and releases Orbax's resources."""
        try:
            self.wait()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if opened := vars(self).pop("_checkpointer", None):
            opened.close()

    def _try_load(self, step: int) -> tuple[list[Leaf], dict[str, np.ndarray], str]:
        """Returns the saved leaves, the saved arrays and an error message ("" on success)."""
        try:
            return *self._load(step), ""
        except Exception as error:  # a damaged file causes exceptions of many types
            return [], {}, self._why(error)

    def _without_metadata(self, steps: list[int]) -> dict[int, str]:
        """Returns the steps with unreadable metadata, each with the reason."""
        found = dict[int, str]()
        for step in steps:
            try:
                self._metadata(step)
            except Exception as error:
                found[step] = self._why(error)
        return found

    def _metadata(self, step: int) -> dict[str, Any]:
        from orbax.checkpoint import v1 as ocp

        _hush()
        return ocp.metadata(self._address / str(step)).custom_metadata or {}

    def _load(self, step: int) -> tuple[list[Leaf], dict[str, np.ndarray]]:
        from orbax.checkpoint import v1 as ocp

        metadata = self._metadata(step)
        leaves = [Leaf(*leaf) for leaf in metadata.get("leaves", [])]
        arrays = ocp.load(self._address / str(step))
        if digest(leaves, arrays) != metadata.get("sha256"):
            raise ValueError("its contents differ from those that were saved")
        return leaves, arrays

    def _set_aside(self, step: int) -> str:
        corrupt = self.folder.parent / "corrupt"
        corrupt.mkdir(exist_ok=True)
        kept = (self.folder / str(step)).rename(corrupt / f"{step}-{len(list(corrupt.iterdir()))}")
        self._let_go()
        return f"moved to {kept}"

    def _why(self, error: Exception) -> str:
        cause = error.__cause__ or error
        return f"{type(cause).__name__}: {self._first_line(cause)}"

    def _first_line(self, error: BaseException) -> str:
        line = (str(error).splitlines() or [""])[0].replace(str(self._address), str(self.folder))
        line, *_ = re.split(r" \[\w+=", line)  # without tensorstore's internals
        return line if len(line) <= 240 else f"{line[:80]} ... {line[-150:]}"


def saved_steps(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, in ascending order."""
    # Orbax's own list of steps fails if the metadata of a single checkpoint are damaged.
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(path.name) for path in entries if _STEP.fullmatch(path.name))


class _NewestAndProtected:
    """A policy for Orbax: a save keeps the newest checkpoints and the protected ones."""

    def __init__(self, newest: int | None, protected: Set[int]) -> None:
        self._newest, self._protected = newest, protected

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        newest = steps if self._newest is None else steps[-self._newest :]
        return [step in newest or step in self._protected for step in steps]


_STEP = re.compile("0|[1-9][0-9]*")
_ODD = re.compile(r"[^\w .,=+/-]")
_CLOUD = re.compile(r"(gs|s3|az|hf)/")


def _odd(folder: Path) -> str:
    """Returns the part of a path that makes Orbax read it as a pattern or an address, or ""."""
    path = folder.relative_to(folder.anchor).as_posix() + "/"
    if cloud := _CLOUD.match(path):
        return repr(f"/{cloud[0]}")
    return " ".join(map(repr, dict.fromkeys(_ODD.findall(path))))


def _write_without_locks() -> None:
    """Makes Orbax write without file locks in this process.

    Locks separate several writers of one file, but each file of a checkpoint has only one writer.
    """
    # Orbax has no public setting for this. If a later version has other names, its own error
    # message about the lock is shown.
    with suppress(ImportError, AttributeError):
        from orbax.checkpoint._src.serialization import tensorstore_utils

        for context in (
            tensorstore_utils._BASE_TS_CONTEXT,
            tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT,
        ):
            context["file_io_locking"] = {"mode": "none"}


def _hush() -> None:
    """Silences Orbax's messages about failures, because `CheckpointError` reports them."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_not_of_orbax)  # a second call has no effect
    if getattr(sys.unraisablehook, "func", None) is not _report_unraisable:
        sys.unraisablehook = functools.partial(_report_unraisable, sys.unraisablehook)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    _, error, trace = record.exc_info or (None, None, None)
    if "[tensorstore_spec=" in str(error):  # several reads fail, one is reported
        return False
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace)]
    (home,) = sys.modules["orbax.checkpoint"].__path__
    return not any(file.startswith(home) for file in [record.pathname, *files])


def _report_unraisable(report: Callable[[Any], Any], unraisable: Any) -> None:
    # If one write fails, Orbax closes the event loop that the other writes still use.
    if str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)

"""Checkpoints of a whole state, verified when read. The only module that knows Orbax."""

import functools
import logging
import re
import shutil
import sys
import tempfile
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gan_jax.run.leaves import Leaf, describe, difference, digest, like, to_host
from gan_jax.types import PyTree


class CheckpointError(RuntimeError):
    """A state cannot be saved, or a saved state cannot be restored."""


class Checkpoints:
    """The newest few states of a run, in a folder with one sub-folder for each step.

    What is saved is the host's copy of each array, so that neither the number of devices nor the
    layout of the run that reads need be those of the run that wrote. Each checkpoint carries a
    digest of its contents: a damaged one is never taken for a good one. Each `Checkpoints` reads
    its first checkpoint back, so that storage that cannot be read is noticed early in a run.

    Args:
      folder: a local folder of any name; the first save creates it.
      keep: how many of the newest to keep. None: only to read, as beside a run that goes on:
        nothing is cleaned up, moved or deleted.

    Raises:
      CheckpointError: Orbax takes the folder's name for a pattern or an address, and no link with
        a plain name can be made.
    """

    def __init__(self, folder: Path, *, keep: int | None = 3) -> None:
        self.folder = folder.absolute()
        self._keep = keep
        self._address = self.folder if _is_plain(self.folder) else self._new_link()
        self._pending: tuple[int, Any] | None = None
        self._was_read_back = False

    def _new_link(self) -> Path:
        """A symbolic link to the folder, with a path that Orbax reads as a local folder."""
        try:
            link = Path(tempfile.mkdtemp(prefix="gan_jax-")) / "checkpoints"
            weakref.finalize(self, shutil.rmtree, link.parent, ignore_errors=True)
            link.symlink_to(self.folder, target_is_directory=True)
        except OSError as error:
            why = str(error)
        else:
            if _is_plain(link):
                return link
            why = f"the folder for temporary files, {str(link.parent)!r}, has the same problem"
        raise CheckpointError(
            f"checkpoints cannot be kept in {str(self.folder)!r} because of {_odd(self.folder)} in "
            f"that path, and no link to it can be made ({why}): use a folder whose path has only "
            "letters, digits, spaces and . , = + - _, or set TMPDIR to such a folder"
        )

    @functools.cached_property
    def _checkpointer(self) -> Any:
        # Orbax takes long to import: a new run has begun its training by then.
        from orbax.checkpoint import v1 as ocp

        _hush()
        training = ocp.training
        return training.Checkpointer(
            self._address,
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=training.preservation_policies.LatestN(self._keep),
            cleanup_tmp_directories=self._keep is not None,
        )

    @property
    def steps(self) -> list[int]:
        """The steps saved, in ascending order."""
        # Orbax's own list fails as a whole if the metadata of one checkpoint are damaged.
        entries = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(int(path.name) for path in entries if _STEP.fullmatch(path.name))

    def save(self, step: int, state: PyTree) -> None:
        """Begins to save a state and returns; `wait` or the next `save` waits for the end.

        Raises:
          CheckpointError: the folder already has this step or a later one, or cannot be written to;
            or the save before this one failed, as for `wait`.
          TypeError: a leaf of the state is not an array.
        """
        leaves, arrays = describe(state), to_host(state)
        self.wait()
        pending = None
        with self._saving():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._address.is_dir():  # systems delete old temporary files
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
        """Waits until the pending checkpoint is on disk and, if it is the first, was read back.

        Raises:
          CheckpointError: the checkpoint could not be saved, or cannot be read back. Earlier ones
            remain.
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
                    f"checkpoint {step} was saved in {self.folder} and cannot be read back "
                    f"({problem}): no run could resume from it. Use a folder on another disk"
                )
            self._was_read_back = True

    @contextmanager
    def _saving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a full or failing disk makes its writer raise
            with suppress(Exception):
                self._let_go()  # raises the same error again
            raise CheckpointError(
                f"a checkpoint could not be saved in {self.folder} ({self._first_line(error)}): "
                "make room there; the same command resumes from the last one saved"
            ) from error

    def restore(
        self, template: PyTree, announce: Callable[[str], None] = print
    ) -> tuple[int, PyTree] | None:
        """The newest state that can be read, with its step.

        Checkpoints newer than that one are announced and moved to `corrupt/` beside the folder, and
        so are older ones whose metadata cannot be read: Orbax would not save beside them. None is
        moved if none can be read, as the disk or another version may be the cause, or if the state
        has another structure than the template.

        Args:
          template: a state, or `jax.eval_shape` of one, with the structure that was saved: arrays
            of the same shapes and types in the same places.
          announce: told of each checkpoint passed over, and why.

        Returns:
          None if nothing was ever saved here.

        Raises:
          CheckpointError: no checkpoint can be read; or the newest readable one has another
            structure (the message names the first array that differs).
          TypeError: a leaf of the template has no shape and type.
        """
        self.wait()
        wanted = describe(template)
        steps, unreadable = self.steps, dict[int, str]()
        for step in reversed(steps):
            leaves, arrays, problem = self._try_load(step)
            if problem:
                unreadable[step] = problem
                continue
            if differs := difference(leaves, wanted):
                raise CheckpointError(
                    f"checkpoint {step} in {self.folder} is good, but the state to be restored has "
                    f"another structure: {differs}. The checkpoint is left as it is: build the "
                    "state with the networks and the optimizers that were saved"
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
            self._let_go()

    def _let_go(self) -> None:
        if opened := vars(self).pop("_checkpointer", None):
            opened.close()

    def _try_load(self, step: int) -> tuple[list[Leaf], dict[str, np.ndarray], str]:
        """The saved leaves and arrays, and what is wrong with them, "" if nothing is."""
        try:
            return *self._load(step), ""
        except Exception as error:  # whatever a damaged file makes its reader raise
            return [], {}, self._why(error)

    def _without_metadata(self, steps: list[int]) -> dict[int, str]:
        """Those of the steps whose metadata cannot be read, and why."""
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
            raise ValueError("its contents are not those that were saved")
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


_STEP = re.compile("0|[1-9][0-9]*")
_ODD = re.compile(r"[^\w .,=+/-]")
_CLOUD = re.compile(r"(gs|s3|az|hf)/")


def _odd(folder: Path) -> str:
    """The part of a path that makes Orbax read it as a pattern or an address."""
    path = folder.relative_to(folder.anchor).as_posix() + "/"
    if cloud := _CLOUD.match(path):
        return repr(f"/{cloud[0]}")
    return " ".join(map(repr, dict.fromkeys(_ODD.findall(path))))


def _is_plain(folder: Path) -> bool:
    return not _odd(folder)


def _hush() -> None:
    """Silences what Orbax and its threads print about failures, which `CheckpointError` reports."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_not_of_orbax)  # a second time has no effect
    if getattr(sys.unraisablehook, "func", None) is not _report_unraisable:
        sys.unraisablehook = functools.partial(_report_unraisable, sys.unraisablehook)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    _, error, trace = record.exc_info or (None, None, None)
    if "[tensorstore_spec=" in str(error):  # of a read that failed beside the one that is reported
        return False
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace)]
    (home,) = sys.modules["orbax.checkpoint"].__path__
    return not any(file.startswith(home) for file in [record.pathname, *files])


def _report_unraisable(report: Callable[[Any], Any], unraisable: Any) -> None:
    # When one write fails, Orbax closes the event loop that its other writes report to.
    if str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)

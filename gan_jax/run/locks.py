"""Locks of files: whether a file system has them, and a lock for a whole folder."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gan_jax.errors import UserError

LOCK = ".lock"
"""Lock file. Its presence alone does not mean that the folder is locked."""


def has_locks(folder: Path) -> bool:
    """Returns whether files can be locked in a folder, by both system calls for locks.

    Filelock uses `flock`, and Orbax uses `fcntl`. Some network file systems have only one of them.
    The result is True if the disk is full.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where every file system has locks
        return True
    try:
        for lock in (fcntl.flock, fcntl.lockf):
            with tempfile.TemporaryFile(dir=folder) as file:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # A full disk says nothing about locks. A folder that may not be written to counts as one
        # without locks.
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return True


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Locks a folder against other commands, if its file system has locks.

    Raises:
      UserError: another command has locked the folder.
    """
    if not has_locks(folder):
        yield
        return
    # Filelock's fallback is a marker file, which would remain after a command was killed.
    lock = FileLock(folder / LOCK, fallback_to_soft=False)
    try:
        acquired = lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"another command is at work in {folder}: wait until it is done, or use another folder"
        ) from None
    with acquired:
        yield

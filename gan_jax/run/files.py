"""Atomic writes, which write a file completely or not at all, and a check for writable folders."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gan_jax.errors import UserError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the path to an OSError that has none, such as an error from a write to an open file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Yields an empty file that replaces `path` when the block ends without an error.

    Until then `path` does not change. A killed process may leave a file with the suffix `.tmp`,
    which the next write overwrites.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8 atomically."""
    with whole(path) as file:
        file.write(text.encode())


def check_writable(folder: Path) -> None:
    """Raises `UserError` unless files can be written to a folder, which need not exist yet.

    No file is left behind, and the folder is not created.
    """
    path = folder.absolute()
    try:
        if path.is_symlink() and not path.exists():
            raise FileNotFoundError(errno.ENOENT, "a link to a folder that does not exist")
        existing = next(place for place in (path, *path.parents) if place.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"{path} cannot be written to ({error.strerror}): choose another folder"
        ) from None

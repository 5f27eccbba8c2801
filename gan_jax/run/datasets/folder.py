"""Reads a folder of image files."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from gan_jax.run.datasets import images
from gan_jax.run.datasets.types import Channels, DataError, Examples

SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp")
"""Suffixes of image files. Any other file is an image file if its content is an image."""

_FORMATS = ", ".join(images.FORMATS)
_KINDS = 6  # kinds of skipped entries that the warning counts
_NAMES = 3  # names of each kind in the warning


def read(
    folder: Path,
    size: int | None = None,
    channels: Channels | None = None,
    *,
    announce: Callable[[str], None] = print,
) -> Examples:
    """Reads every image file below a folder, in the order of their relative paths.

    A file counts as an image if its suffix is one of `SUFFIXES` or its content is in one of
    `images.FORMATS`. From an animation only the first frame is read. Links to files and to folders
    are followed. Names that begin with a dot are skipped.

    Three kinds of entries are skipped and announced: other files (counted by suffix), immediate
    subfolders without an image, and links to a folder that contains the link.

    Args:
      folder: The folder.
      size: Side in pixels. Each image is cropped to a centred square and resized to this side.
        None: all images must have one size.
      channels: 1 for grey, 3 for colour. None: 3 if any image is stored in colour, otherwise 1.
      announce: Called with each message.

    Returns:
      The images, with labels if every image is in an immediate subfolder. The classes are the names
      of the subfolders with images, in alphabetical order.

    Raises:
      DataError: A folder cannot be listed, a link leads nowhere, there is no image, images cannot
        be decoded, or images differ in size and no size is given.
    """
    found = defaultdict(list)
    for kind, path in _walk(folder, Path(), frozenset()):
        found[kind].append(path)
    relative, hidden = sorted(found.pop("image", [])), found.pop("hidden", [])
    subfolders = {path for path in found.pop("folder", []) if len(path.parts) == 1}
    if empty := subfolders - {Path(path.parts[0]) for path in relative}:
        found["subfolder without images"] = sorted(empty)
    if not relative:
        rest = f" It holds {', '.join(_summary(found))}." if found else ""
        if hidden:
            rest += f" Names that begin with a dot are skipped ({_names(hidden)})."
        raise DataError(f"--data.dir {_shown(folder)} has no image below it ({_FORMATS}).{rest}")
    if found:
        announce(
            f"data: WARNING: {_shown(folder)} holds {len(relative):,} image files and these, which "
            f"are not read (only {_FORMATS} are; convert others):"
        )
        for kind in _summary(found):
            announce(f"data:   {kind}")
    paths = [folder / path for path in relative]
    channels = channels or (3 if any(map(images.has_colour, paths)) else 1)
    x = images.stack(((_shown(path), path) for path in paths), len(paths), size, channels)
    if all(len(path.parts) == 1 for path in relative):
        return Examples(x)
    if elsewhere := [path for path in relative if len(path.parts) != 2]:
        return Examples(
            x,
            unlabelled=f"{len(elsewhere):,} of {len(relative):,} images are not in an immediate "
            f"subfolder of {_shown(folder)} ({_names(elsewhere)}); move or remove them, or give a "
            "folder with one subfolder for each class",
        )
    names, label = np.unique([path.parts[0] for path in relative], return_inverse=True)
    return Examples(x, label.astype(np.int32), tuple(map(_shown, names.tolist())))


def count(folder: Path) -> int:
    """Returns the number of image files below a folder. Raises DataError as `read` does."""
    return sum(kind == "image" for kind, _ in _walk(folder, Path(), frozenset()))


def _walk(root: Path, relative: Path, above: frozenset[str]) -> Iterator[tuple[str, Path]]:
    """Yields each entry below a folder: its kind ("image", "folder", ...) and path from the root.

    Args:
      root: The folder that paths are relative to.
      relative: The folder to list.
      above: The real paths of the folders that contain `relative`.
    """
    folder = root / relative
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError as error:
        raise DataError(
            f"{_shown(folder)} cannot be listed ({error.strerror}); allow reading it, or move "
            "it out of --data.dir."
        ) from error
    above |= {os.path.realpath(folder)}
    for entry in entries:
        path = relative / entry.name
        if entry.name.startswith("."):
            yield "hidden", path
            continue
        if not os.path.exists(entry):
            raise DataError(
                f"{_shown(entry.path)} is a link that leads nowhere, or where you have no access; "
                "repair or remove it."
            )
        if entry.is_dir():
            if os.path.realpath(entry) in above:
                yield "link to a folder that holds it", path
            else:
                yield "folder", path
                yield from _walk(root, path, above)
        elif not entry.is_file():
            yield "neither file nor folder", path
        elif path.suffix.lower() in SUFFIXES or images.is_image(root / path):
            yield "image", path
        else:
            yield _shown(path.suffix) or "without a suffix", path


def _summary(found: Mapping[str, list[Path]]) -> list[str]:
    """Returns counts and names: ["9 .tif (a.tif, b.tif, c.tif, ...)", "1 .txt (notes.txt)"]."""
    suffixes_last = sorted(found, key=lambda kind: (kind.startswith("."), -len(found[kind]), kind))
    parts = [f"{len(found[kind]):,} {kind} ({_names(found[kind])})" for kind in suffixes_last]
    return parts[:_KINDS] + [f"and {len(parts) - _KINDS:,} more kinds"] * (len(parts) > _KINDS)


def _names(paths: list[Path]) -> str:
    named = [_shown(path) for path in sorted(paths)[:_NAMES]]
    return ", ".join(named + ["..."] * (len(paths) > _NAMES))


def _shown(path: Path | str) -> str:
    """Returns a path as one printable line, even if its name is not valid UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))

"""A folder of image files."""

from pathlib import Path

import numpy as np

from gan_jax.data import images
from gan_jax.data.types import Channels, DataError, Examples

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


def read(folder: Path, size: int | None = None, channels: Channels | None = None) -> Examples:
    """Reads every image file below a folder, in the order of their relative paths.

    Files and folders whose names begin with a dot are passed over, and so is whatever has none of
    `SUFFIXES`. Of an animation the first frame counts.

    Args:
      folder: The folder.
      size: Center-crop to a square and resize it to this side. None: the one size of all images.
      channels: 1 for grey, 3 for colour. None: 3 if any image is stored in colour, else 1.

    Returns:
      Images [N, H, W, C] uint8 in [0, 255]. Labels [N] int32 if every image is in an immediate
      subfolder: the index of that subfolder in alphabetical order; else None.

    Raises:
      DataError: There is no such folder or no image in it, an image cannot be decoded, or images
        differ in size and no size is given.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"--data.dir {folder} {what}; give the folder that holds the images.")
    relative = sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    relative = [path for path in relative if not any(part.startswith(".") for part in path.parts)]
    if not relative:
        raise DataError(f"--data.dir {folder} has no image below it ({', '.join(SUFFIXES)}).")
    paths = [folder / path for path in relative]
    channels = channels or (3 if any(map(images.has_colour, paths)) else 1)
    x = images.stack(((str(path), path) for path in paths), len(paths), size, channels)
    return x, _labels(relative)


def _labels(relative: list[Path]) -> np.ndarray | None:
    if any(len(path.parts) != 2 for path in relative):
        return None
    _, label = np.unique([path.parts[0] for path in relative], return_inverse=True)
    return label.astype(np.int32)

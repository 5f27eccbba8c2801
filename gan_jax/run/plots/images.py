"""Grids of samples, and the history of a run in pictures."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gan_jax.data.pipeline import quantize
from gan_jax.run.files import whole


def grid(images: np.ndarray, *, columns: int | None = None, height: int = 560) -> Image.Image:
    """Returns a picture of images side by side, enlarged by an integer factor.

    Args:
      images: [N, H, W, C], with N, H and W at least 1 and C = 1 or 3. They are uint8, or floats in
        [-1, 1] as `gan_jax.sample` returns. Floats are converted by `data.pipeline.quantize`.
      columns: number of columns, at least 1. None: the grid is as square as N allows.
      height: approximate height of the picture in pixels, at least 1.

    Raises:
      TypeError: the images are neither uint8 nor floats.
      ValueError: the images have the wrong shape, a float is NaN or outside [-1, 1] by more than
        rounding, or `columns` or `height` is below 1.
    """
    images = _bytes(images)
    num, rows_of_one, columns_of_one, channels = images.shape
    columns = math.ceil(math.sqrt(num)) if columns is None else columns
    if columns < 1 or height < 1:
        raise ValueError(f"columns and height must be at least 1, got {columns} and {height}")
    rows = math.ceil(num / columns)
    canvas = np.zeros((rows * columns, rows_of_one, columns_of_one, channels), np.uint8)
    canvas[:num] = images
    canvas = canvas.reshape(rows, columns, *images.shape[1:]).swapaxes(1, 2)
    picture = canvas.reshape(rows * rows_of_one, columns * columns_of_one, channels)
    factor = max(1, round(height / picture.shape[0]))
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return Image.fromarray(picture[:, :, 0] if channels == 1 else picture)


def save_image(picture: Image.Image, file: Path) -> None:
    """Writes a picture as a PNG file, completely or not at all."""
    with whole(file) as opened:
        picture.save(opened, "PNG")


def history(
    grids: Sequence[Path],
    gif: Path,
    strip: Path,
    *,
    most: int = 60,
    announce: Callable[[str], None] = print,
) -> None:
    """Writes the saved grids of a run as an animation, and some of them as one picture.

    Args:
      grids: PNG files of one size, in order.
      gif, strip: the files to write. If no grid can be read, nothing is written.
      most: the largest number of frames in the animation.
      announce: called with a message about each grid that cannot be read and is skipped.
    """
    pictures = list[Image.Image]()
    for path in (grids[i] for i in _spread(len(grids), most)):
        try:
            with Image.open(path, formats=["PNG"]) as picture:
                picture.load()
            if pictures and picture.size != pictures[0].size:
                raise ValueError(f"{picture.size} pixels, not {pictures[0].size}")
            pictures.append(picture)
        except Exception as error:  # Pillow raises exceptions of many kinds for a damaged file
            announce(f"{path} cannot be read ({error}): it is skipped")
    if not pictures:
        return
    animate(pictures, gif)
    shown = [pictures[i] for i in _spread(len(pictures), 6)]
    width, height = shown[0].size
    side_by_side = Image.new(shown[0].mode, ((width + 12) * len(shown) - 12, height), "white")
    for i, each in enumerate(shown):
        side_by_side.paste(each, (i * (width + 12), 0))
    side_by_side.thumbnail((2400, 2400))
    save_image(side_by_side, strip)


def animate(pictures: Sequence[Image.Image], gif: Path) -> None:
    """Writes an animation that repeats for ever and pauses at its last picture.

    Args:
      pictures: the frames: at least one, and all of the same size. Each is shown for 120 ms, and
        the last for 2 s.
      gif: the file to write.

    Raises:
      ValueError: there is no picture, or the pictures differ in size.
    """
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) != 1:
        raise ValueError(f"pictures must be at least one and all of one size, got sizes {sizes}")
    frames = [picture.convert("P", palette=Image.Palette.ADAPTIVE) for picture in pictures]
    durations = [120] * (len(frames) - 1) + [2000]
    with whole(gif) as file:
        frames[0].save(
            file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
        )


def _spread(count: int, most: int) -> list[int]:
    """Returns evenly spaced indices below `count`, no more than `most` of them.

    The first and the last index are included.
    """
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


_HALF_LEVEL = 1 / 255
"""Half the distance between adjacent grey levels in [-1, 1]. Rounding errors are smaller."""


def _bytes(images: np.ndarray) -> NDArray[np.uint8]:
    """Returns images as uint8 [N, H, W, C]. Raises the same errors as `grid`."""
    x = np.asarray(images)
    if x.ndim != 4 or 0 in x.shape or x.shape[3] not in (1, 3):
        raise ValueError(
            f"images must be [N, H, W, C], no size 0 and C = 1 or 3, got shape {list(x.shape)}"
        )
    if x.dtype == np.uint8:
        return x
    if not jnp.issubdtype(x.dtype, jnp.floating):  # np.issubdtype does not know bfloat16
        raise TypeError(
            f"images must be uint8, or floats in [-1, 1], got {x.dtype}: convert numbers in 0..255 "
            "by .astype('uint8')"
        )
    low, high = float(x.min()), float(x.max())
    if not (low >= -1 - _HALF_LEVEL and high <= 1 + _HALF_LEVEL):
        raise ValueError(
            f"float images must be in [-1, 1], got {low:.6g} to {high:.6g}: convert bytes to "
            "uint8, or scale the images"
        )
    return np.asarray(quantize(jnp.asarray(x)))

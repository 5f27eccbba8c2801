"""Grids of samples, and the history of a run in pictures."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gan_jax.files import whole


def grid(images: np.ndarray, *, columns: int | None = None, height: int = 560) -> Image.Image:
    """Images side by side, enlarged by a whole factor to about `height` pixels.

    Args:
      images: uint8 [N, H, W, C], C = 1 or 3.
      columns: by default as square as N allows.
      height: of the picture, roughly, in pixels.
    """
    num, rows_of_one, columns_of_one, channels = images.shape
    columns = columns or math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    canvas = np.zeros((rows * columns, rows_of_one, columns_of_one, channels), np.uint8)
    canvas[:num] = images
    canvas = canvas.reshape(rows, columns, *images.shape[1:]).swapaxes(1, 2)
    picture = canvas.reshape(rows * rows_of_one, columns * columns_of_one, channels)
    factor = max(1, round(height / picture.shape[0]))
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return Image.fromarray(picture[:, :, 0] if channels == 1 else picture)


def save_image(picture: Image.Image, file: Path) -> None:
    """Writes a picture as a PNG file, whole or not at all."""
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
    """Writes the saved grids of a run as an animation, and some of them side by side.

    Args:
      grids: PNG files of one size, in order.
      gif, strip: the files to write; none is written if no grid can be read.
      most: frames in the animation, at the most.
      announce: told of each grid that cannot be read, which is passed over.
    """
    pictures = list[Image.Image]()
    for path in (grids[i] for i in _spread(len(grids), most)):
        try:
            picture = _read(path)
            if pictures and picture.size != pictures[0].size:
                raise ValueError(f"{picture.size} pixels, not {pictures[0].size}")
            pictures.append(picture)
        except Exception as error:  # Pillow raises exceptions of many kinds for a damaged file
            announce(f"{path} cannot be read ({error}): it is passed over")
    if not pictures:
        return
    animate(pictures, gif)
    shown = [pictures[i] for i in _spread(len(pictures), 6)]
    width, height = shown[0].size
    side_by_side = Image.new(shown[0].mode, ((width + 12) * len(shown) - 12, height), "white")
    for i, picture in enumerate(shown):
        side_by_side.paste(picture, (i * (width + 12), 0))
    side_by_side.thumbnail((2400, 2400))
    save_image(side_by_side, strip)


def _read(path: Path) -> Image.Image:
    """The picture in a PNG file, decoded."""
    with Image.open(path, formats=["PNG"]) as picture:
        picture.load()
    return picture


def animate(pictures: Sequence[Image.Image], gif: Path) -> None:
    """Pictures of one size one after the other, the last of them for a while, for ever."""
    frames = [picture.convert("P", palette=Image.Palette.ADAPTIVE) for picture in pictures]
    durations = [120] * (len(frames) - 1) + [2000]
    with whole(gif) as file:
        frames[0].save(
            file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
        )


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spread, the first and last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})

"""Images of any kind, size and mode to one uint8 array."""

import io
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gan_jax.data.types import Channels, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Encoded: TypeAlias = Path | bytes | NDArray[np.uint8]  # a file, its bytes, or pixels [H, W, 1 or 3]

_PROGRESS_FROM = 5_000  # fewer images than this take about a second
# Pillow raises all of these on damaged files, depending on the format and on where the damage is.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def stack(
    images: Iterable[tuple[str, Encoded]], count: int, size: int | None, channels: Channels
) -> NDArray[np.uint8]:
    """Decodes images into one array.

    An image with transparency is laid on white; one with an EXIF orientation is turned upright.

    Args:
      images: Pairs of a name, for messages, and an image.
      count: How many there are: N.
      size: Center-crop to a square and resize it (Lanczos) to this side. None: as the images are.
      channels: C, 1 for grey or 3 for colour.

    Returns:
      [N, H, W, C] uint8 in [0, 255].

    Raises:
      DataError: An image cannot be decoded, or with `size=None` two images differ in size, or
        there are fewer than `count`.
    """
    first, done = "", 0
    x = np.empty((0, 0, 0, channels), np.uint8)
    for name, image in _with_progress(images, count):
        try:
            pixels = _decode(image, size, channels)
        except _UNREADABLE as error:
            raise DataError(
                f"{name} cannot be read as an image ({error}); repair or remove it."
            ) from error
        if done == 0:
            first, x = name, np.empty((count, *pixels.shape), np.uint8)
        elif pixels.shape != x.shape[1:]:
            raise DataError(
                f"The images differ in size: {first} is {_height_by_width(x[0])}, {name} is "
                f"{_height_by_width(pixels)}. Give one size for all, such as --data.size 32."
            )
        x[done] = pixels
        done += 1
    if done < count:
        raise DataError(f"{count:,} images expected, {done:,} found; prepare the data again.")
    return x


def conform(x: NDArray[np.uint8], size: int | None, channels: Channels | None) -> NDArray[np.uint8]:
    """Resizes and recolours [N, H, W, C] images as `stack` does; `x` itself if nothing is to do."""
    wanted = (size or x.shape[1], size or x.shape[2], channels or x.shape[3])
    if wanted == x.shape[1:]:
        return x
    named = ((f"image {i}", image) for i, image in enumerate(x))
    return stack(named, len(x), size, 3 if wanted[2] == 3 else 1)


def has_colour(path: Path) -> bool:
    """Whether an image file stores colour, by its header alone.

    Raises:
      DataError: The file is no image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return not (image.mode in {"1", "L", "LA"} or image.mode.startswith("I"))
    except _UNREADABLE as error:
        raise DataError(
            f"{path} cannot be read as an image ({error}); repair or remove it."
        ) from error


def _decode(encoded: Encoded, size: int | None, channels: Channels) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    if isinstance(encoded, np.ndarray):
        opened = Image.fromarray(encoded[..., 0] if encoded.shape[-1] == 1 else encoded)
    else:
        opened = Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded)
    with opened:
        image = _recolour(ImageOps.exif_transpose(opened), channels)
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _recolour(image: "Image", channels: Channels) -> "Image":
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip rather than scale
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")  # the colour below transparent pixels is arbitrary
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def _with_progress(
    images: Iterable[tuple[str, Encoded]], count: int
) -> Iterable[tuple[str, Encoded]]:
    if count < _PROGRESS_FROM:
        return images
    from tqdm import tqdm

    return tqdm(images, total=count, desc="decoding", unit=" images", leave=False)


def _height_by_width(x: NDArray[np.uint8]) -> str:
    return f"{x.shape[0]}x{x.shape[1]}"

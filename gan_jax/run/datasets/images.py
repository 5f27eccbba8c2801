"""Decodes image files of several formats, sizes and modes into one uint8 array."""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gan_jax.run.datasets.types import Channels, DataError

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose
    from PIL.ImageFile import ImageFile

File: TypeAlias = Path | bytes  # a file, or its content
Encoded: TypeAlias = File | NDArray[np.uint8]  # or pixels [H, W, 1 or 3]
T = TypeVar("T")

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
"""Pillow's names of the formats that are read. The format is found from a file's content. The
file's name does not matter.

Pillow can read many more formats. For some of them, such as EPS, it starts another program.
"""

_MAGIC = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|BM....\0\0\0\0|GIF8[79]a|RIFF....WEBP", re.DOTALL
)
_REPORTED = 10  # unreadable images that one message names
_PROGRESS_FROM = 5_000  # fewer images than this take about a second
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_SCAN = b"\xff\xda"  # the marker of a JPEG's pixels
# The parts of a PNG (chunks) and of a JPEG (APP2 to APP13, APP15, COM) that no pixel depends on.
# Pixels depend on APP1, the orientation, and on APP14, the colour transform.
_METADATA = {
    *b"cHRM gAMA iCCP sBIT sRGB bKGD hIST pHYs sPLT tIME tEXt zTXt iTXt".split(),
    *(bytes([0xFF, marker]) for marker in (*range(0xE2, 0xEE), 0xEF, 0xFE)),
}


def stack(
    images: Iterable[tuple[str, Encoded]], count: int, size: int | None, channels: Channels
) -> NDArray[np.uint8]:
    """Decodes images into one array.

    An image with transparency gets a white background. An image with an EXIF orientation is turned
    upright. Samples of 16 bits are reduced to their upper 8 bits. From an animation only the first
    frame is read. Metadata that cannot be parsed are ignored.

    Args:
      images: Pairs of a name and an image. The names are for messages.
      count: N, the number of images.
      size: Side in pixels. Each image is cropped to a centred square and resized (Lanczos) to this
        side. None: all images must have one size.
      channels: C, 1 for grey or 3 for colour.

    Returns:
      [N, H, W, C] uint8 in [0, 255].

    Raises:
      DataError: Images are damaged, in none of `FORMATS`, or larger than Pillow's limit of 179
        million pixels (twice `PIL.Image.MAX_IMAGE_PIXELS`). The message names up to ten of them.
        DataError is also raised if images differ in size and `size` is None, if there are fewer
        images than `count`, or if the images do not fit into memory.
    """
    first, done, unreadable = "", 0, list[str]()
    x = np.empty((0, 0, 0, channels), np.uint8)
    quick = count < _PROGRESS_FROM
    shown = tqdm(images, "decoding", count, leave=False, unit=" images", disable=quick)
    for name, image in shown:
        if isinstance(image, np.ndarray):
            pixels = _of_pixels(image, size, channels)
        else:
            try:
                pixels = _read(name, image, lambda file: _of_file(file, size, channels))
            except DataError as error:
                unreadable.append(str(error))
                if len(unreadable) == _REPORTED:
                    break
                continue
        if done == 0:
            first, x = name, _room(count, pixels)
        elif pixels.shape != x.shape[1:]:
            raise DataError(
                f"The images differ in size: {first} is {_width_by_height(x[0])}, {name} is "
                f"{_width_by_height(pixels)} (width x height). Give one size for all, such as "
                "--data.size 32."
            )
        x[done] = pixels
        done += 1
    if unreadable:
        rest = "\nThere may be more." if len(unreadable) == _REPORTED else ""
        raise DataError("\n".join(unreadable) + rest)
    if done < count:
        raise DataError(f"{count:,} images expected, {done:,} found; prepare the data again.")
    return x


def conform(x: NDArray[np.uint8], size: int | None, channels: Channels | None) -> NDArray[np.uint8]:
    """Returns images [N, H, W, C] with the given size and number of channels.

    The conversions are those of `stack`. If nothing has to change, the result is `x` itself.
    """
    wanted = (size or x.shape[1], size or x.shape[2], channels or x.shape[3])
    if wanted == x.shape[1:]:
        return x
    named = ((f"image {i}", image) for i, image in enumerate(x))
    return stack(named, len(x), size, 3 if wanted[2] == 3 else 1)


def has_colour(path: Path) -> bool:
    """Returns whether the header of an image file says that it has colour.

    Returns False if the file cannot be read.
    """

    def stores_colour(file: File) -> bool:
        with _open(file) as image:
            grey = image.mode in {"1", "L", "LA"} or image.mode.startswith("I")
            return not grey and _samples(image) != "LA;16B"  # Pillow opens it as RGBA

    try:
        return _read(str(path), path, stores_colour)
    except DataError:  # `stack` reports the error
        return False


def is_image(path: Path) -> bool:
    """Returns whether the first bytes of a file are those of a format in `FORMATS`."""
    try:
        with path.open("rb") as file:
            return _MAGIC.match(file.read(12)) is not None
    except OSError:
        return False


def _read(name: str, file: File, read: Callable[[File], T]) -> T:
    """Returns `read(file)`. If `read` fails, raises a DataError that names the image.

    Pillow documents no list of the exceptions and warnings that a damaged file causes. Pillow also
    refuses some files because of their metadata. A second attempt is therefore made without the
    metadata.
    """
    from PIL import UnidentifiedImageError

    with warnings.catch_warnings(action="ignore"):
        try:
            try:
                return read(file)
            except Exception:
                return read(_without_metadata(file))
        except Exception as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, UnidentifiedImageError):
                reason = f"its content is damaged or in none of the formats {', '.join(FORMATS)}"
            raise DataError(
                f"{name} cannot be read as an image ({reason}); repair or remove it."
            ) from error


def _without_metadata(file: File) -> bytes:
    """Returns the content of a file, without the metadata if it is a PNG or a JPEG."""
    content = file if isinstance(file, bytes) else file.read_bytes()
    for magic, parts in ((_PNG, _chunks), (_JPEG, _segments)):
        if content.startswith(magic):
            return magic + b"".join(part for kind, part in parts(content) if kind not in _METADATA)
    return content


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the type and the bytes of each chunk of a PNG.

    A chunk consists of the length of its data, its type, its data and a checksum.
    """
    start = len(_PNG)
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        yield png[start + 4 : start + 8], png[start:end]
        start = end


def _segments(jpeg: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the marker and the bytes of each segment of a JPEG.

    A segment consists of its marker, its length and its data.
    """
    start = len(_JPEG)
    while start < len(jpeg):
        marker = jpeg[start : start + 2]
        length = int.from_bytes(jpeg[start + 2 : start + 4], "big")
        end = len(jpeg) if marker == _SCAN else start + 2 + length
        yield marker, jpeg[start:end]
        start = end


def _open(file: File) -> "ImageFile":
    from PIL import Image

    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS)


def _samples(image: "ImageFile") -> str:
    """Returns the sample format ("L;4", "RGB;16B", ...) of a PNG that is not yet loaded."""
    return str(image.tile[0][3]) if image.format == "PNG" and image.tile else ""


def _of_pixels(x: NDArray[np.uint8], size: int | None, channels: Channels) -> NDArray[np.uint8]:
    from PIL import Image

    return _fitted(Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x), size, channels)


def _of_file(file: File, size: int | None, channels: Channels) -> NDArray[np.uint8]:
    from PIL import Image

    with _open(file) as opened:
        image = _eight_bits(opened, file)
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")  # the colour below transparent pixels is arbitrary
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        turn = _turn(opened)
        return _fitted(image if turn is None else image.transpose(turn), size, channels)


def _fitted(image: "Image", size: int | None, channels: Channels) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _eight_bits(image: "ImageFile", file: File) -> "Image":
    """Returns the loaded image with 8 bits per sample.

    Pixels are compared with the transparent colour before the conversion, at full precision.
    """
    from PIL import Image

    samples = _samples(image)
    image.load()
    key: Any = image.info.get("transparency")
    transparent = None
    if samples in ("L;2", "L;4") and key is not None:  # Pillow does not scale `key`
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}[samples]
    elif samples in ("I;16B", "RGB;16B") and key is not None:
        del image.info["transparency"]
        transparent = (_sixteen_bits(image, file) == key).all(axis=-1)
    eight: Image.Image = image
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip rather than scale
        eight = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if transparent is not None:
        eight.putalpha(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)))
    return eight


def _sixteen_bits(image: "ImageFile", file: File) -> np.ndarray:
    """Returns the samples [H, W, C] in [0, 65535] of a PNG that has 16 bits of grey or colour."""
    if image.mode.startswith("I"):
        return np.asarray(image)[..., None]
    with _open(file) as again:  # Pillow read one byte of each sample; this reads the other
        again.tile = [(*tile[:3], "RGB;16L") for tile in again.tile]  # type: ignore[misc]
        return np.asarray(image).astype(np.uint16) << 8 | np.asarray(again)


def _turn(image: "ImageFile") -> "Transpose | None":
    """Returns the transposition that turns a loaded image upright, by its EXIF orientation."""
    from PIL.ExifTags import Base
    from PIL.Image import Transpose

    turns: dict[Any, Transpose] = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        return turns.get(image.getexif().get(Base.Orientation))
    except Exception:  # unreadable metadata do not affect the pixels
        return None


def _room(count: int, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    try:
        return np.empty((count, *pixels.shape), np.uint8)
    except MemoryError as error:
        raise DataError(
            f"{count:,} images of {_width_by_height(pixels)} pixels do not fit into memory "
            f"({error}); give a smaller --data.size."
        ) from error


def _width_by_height(x: NDArray[np.uint8]) -> str:
    """Returns the size of images [H, W, C] as image viewers show it, such as 640x480."""
    return f"{x.shape[1]}x{x.shape[0]}"

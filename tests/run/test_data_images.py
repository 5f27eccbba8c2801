"""Decoding of images: every mode, transparency, orientation, damage, and formats in disguise.

The expected pixels are computed with NumPy from the samples that were stored.
"""

import colorsys
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from gan_jax.run.datasets import DataError, images

# Flat blocks of 8 by 8 pixels, because JPEG stores these almost exactly. All differ, so that
# no two orientations look alike.
GREY = np.array([[0, 60, 130], [190, 255, 90]], np.uint8)
COLOUR = np.array(
    [[[255, 0, 0], [0, 200, 30], [20, 40, 250]], [[250, 220, 10], [9, 9, 9], [90, 160, 200]]],
    np.uint8,
)
ALPHA = np.array([[255, 0, 128], [60, 200, 255]], np.uint8)
INDEX = np.arange(6, dtype=np.uint8).reshape(2, 3)
OPAQUE = np.full((2, 3), 255, np.uint8)


def blocks(x: np.ndarray) -> np.ndarray:
    return x.repeat(8, axis=0).repeat(8, axis=1)


def grey_as_colour(x: np.ndarray) -> np.ndarray:
    return np.stack([x] * 3, axis=-1)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def luma(colour: np.ndarray) -> np.ndarray:
    """ITU-R 601-2."""
    return (colour @ np.array([299, 587, 114]) / 1000)[..., None]


def decode(content: bytes, channels: int = 3) -> np.ndarray:
    return images.stack([("it", content)], 1, None, channels)[0]  # type: ignore[arg-type]


def check(content: bytes, colour: np.ndarray, alpha: np.ndarray, tolerance: float) -> None:
    """Compares both readings of a file with the colour [H, W, 3] and alpha [H, W] that it shows.

    The grey level is that of the rounded colours, so half a level more is allowed.
    """
    expected = on_white(colour, alpha)
    assert decode(content).shape == expected.shape
    assert np.abs(decode(content) - expected).max() <= tolerance
    assert np.abs(decode(content, channels=1) - luma(expected)).max() <= tolerance + 0.5


def of_cmyk(x: np.ndarray) -> np.ndarray:
    return (255.0 - x[..., :3]) * (255.0 - x[..., 3:]) / 255


def of_ycbcr(x: np.ndarray) -> np.ndarray:
    """The conversion of the JFIF standard."""
    y, cb, cr = np.moveaxis(x.astype(float), -1, 0) - np.array([0, 128, 128])[:, None, None]
    rgb = [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb]
    return np.stack(rgb, axis=-1).clip(0, 255)


def of_hsv(x: np.ndarray) -> np.ndarray:
    rows = [[colorsys.hsv_to_rgb(*pixel) for pixel in row] for row in x / 255]
    return 255 * np.array(rows)


FOUR = np.concatenate([COLOUR, ALPHA[..., None]], axis=-1)
YCBCR = np.array(
    [[[80, 120, 140], [200, 128, 128], [120, 90, 160]], [[60, 140, 110], [9, 128, 128], [150] * 3]],
    np.uint8,
)
PREMULTIPLIED = np.minimum(FOUR, ALPHA[..., None])
BITS = GREY > 100
DEEP = (GREY.astype(np.uint16) << 8) + 77

# Mode of the image -> its samples, and their colour and alpha.
MODES: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {
    "1": (BITS, grey_as_colour(BITS * 255), OPAQUE),
    "L": (GREY, grey_as_colour(GREY), OPAQUE),
    "P": (INDEX, COLOUR, OPAQUE),
    "RGB": (COLOUR, COLOUR, OPAQUE),
    "RGBX": (FOUR, COLOUR, OPAQUE),
    "RGBA": (FOUR, COLOUR, ALPHA),
    "RGBa": (
        PREMULTIPLIED,
        PREMULTIPLIED[..., :3] / np.maximum(ALPHA, 1)[..., None] * 255.0,
        ALPHA,
    ),
    "LA": (np.stack([GREY, ALPHA], axis=-1), grey_as_colour(GREY), ALPHA),
    "PA": (np.stack([INDEX, ALPHA], axis=-1), COLOUR, ALPHA),
    "CMYK": (FOUR, of_cmyk(FOUR), OPAQUE),
    "YCbCr": (YCBCR, of_ycbcr(YCBCR), OPAQUE),
    "HSV": (COLOUR, of_hsv(COLOUR), OPAQUE),
    "I;16": (DEEP, grey_as_colour(GREY), OPAQUE),
    "I;16B": (DEEP.byteswap(), grey_as_colour(GREY), OPAQUE),
}
# Modes that Pillow stores in each format. It refuses the rest (La, I;16L, ...), or converts them
# before it writes them (I, F, LAB).
WRITTEN = {
    "PNG": ("1", "L", "P", "RGB", "RGBA", "LA", "I;16", "I;16B"),
    "JPEG": ("1", "L", "RGB", "RGBX", "CMYK", "YCbCr"),
    "WEBP": ("1", "L", "P", "RGB", "RGBX", "RGBA", "RGBa", "LA", "PA", "CMYK", "YCbCr", "HSV"),
    "GIF": ("1", "L", "P", "RGB", "RGBA", "LA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True},
}
# Tolerances in 1/255. Each of Pillow's conversions rounds, and JPEG's own conversion rounds too.
TOLERANCE = {"PNG": 1, "JPEG": 3, "WEBP": 2, "GIF": 1, "BMP": 1}
ORIENTED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def image_of(mode: str, samples: np.ndarray) -> Image.Image:
    samples = blocks(samples)
    if mode == "1":
        return Image.fromarray(samples)
    image = Image.frombytes(mode, (samples.shape[1], samples.shape[0]), samples.tobytes())
    if mode.startswith("P"):
        image.putpalette(COLOUR.tobytes())
    return image


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **OPTIONS.get(form, {}), **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("form", "mode"), [(form, mode) for form, modes in WRITTEN.items() for mode in modes]
)
def test_every_mode_and_orientation(form, mode):
    samples, colour, alpha = MODES[mode]
    if form == "GIF":  # transparent or opaque, and nothing between
        samples, alpha = samples.copy(), np.where(alpha == 0, 0, 255)
        if mode in ("LA", "RGBA"):
            samples[..., -1] = alpha
    if form == "BMP" or (form, mode) == ("GIF", "LA"):  # Pillow does not write it
        alpha = OPAQUE
    colour, alpha = blocks(colour), blocks(alpha)
    check(encode(image_of(mode, samples), form), colour, alpha, TOLERANCE[form])
    if form in ("PNG", "JPEG", "WEBP"):
        for orientation, turned in ORIENTED.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            content = encode(image_of(mode, samples), form, exif=exif)
            check(content, turned(colour), turned(alpha), TOLERANCE[form])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth: int, kind: int, samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Returns a PNG made by hand: samples [H, W] or [H, W, C] in [0, 2^depth), and extra chunks."""
    height, width = samples.shape[:2]
    bits = samples.reshape(height, -1, 1) >> np.arange(depth)[::-1] & 1
    rows = np.packbits(bits.reshape(height, -1).astype(bool), axis=1)
    filtered = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(filtered)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


PNG_KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)]
PNG_KINDS += [(3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)]


@pytest.mark.parametrize(("kind", "depth"), PNG_KINDS)
def test_every_kind_of_png_with_and_without_transparency(kind, depth):
    rng = np.random.default_rng(depth + kind)
    bands = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    samples = rng.integers(0, 2**depth, (5, 7, bands))
    samples[-1, -1] = 1
    samples[0, :2] = samples[-1, -1]  # so that the transparent colour occurs in three places
    eight = samples >> 8 if depth == 16 else samples * 255 // (2**depth - 1)
    opaque = np.full((5, 7), 255)
    if kind == 3:
        palette = rng.integers(0, 256, (2**depth, 3), dtype=np.uint8)
        alphas = rng.integers(0, 256, 2**depth, dtype=np.uint8)
        colour, parts = palette[samples[..., 0]], [(b"PLTE", palette.tobytes())]
        check(png(depth, kind, samples, *parts), colour, opaque, 1)
        parts.append((b"tRNS", alphas.tobytes()))
        check(png(depth, kind, samples, *parts), colour, alphas[samples[..., 0]], 1)
    elif kind in (4, 6):
        colour = grey_as_colour(eight[..., 0]) if kind == 4 else eight[..., :3]
        check(png(depth, kind, samples), colour, eight[..., -1], 1)
    else:
        colour = grey_as_colour(eight[..., 0]) if kind == 0 else eight
        check(png(depth, kind, samples), colour, opaque, 1)
        key = samples[-1, -1]
        alpha = np.where((samples == key).all(axis=-1), 0, 255)
        parts = [(b"tRNS", struct.pack(f">{len(key)}H", *key))]
        check(png(depth, kind, samples, *parts), colour, alpha, 1)


def test_transparent_colours_of_16_bits_differ_from_their_neighbours():
    """Two colours with the same upper 8 bits, only one of which is transparent."""
    for kind, key in ((0, [0x1234]), (2, [0x1234, 0x5678, 0x9ABC])):
        samples = np.array([[key, [*key[:-1], key[-1] + 1]]])
        content = png(16, kind, samples, (b"tRNS", struct.pack(f">{len(key)}H", *key)))
        seen = [value >> 8 for value in key] * (1 if kind else 3)
        np.testing.assert_array_equal(decode(content)[0], [[255] * 3, seen])


@pytest.mark.parametrize(("kind", "colour"), [(0, False), (2, True), (4, False), (6, True)])
@pytest.mark.parametrize("depth", [8, 16])
def test_whether_a_file_stores_colour(tmp_path, kind, colour, depth):
    samples = np.zeros((2, 2, {0: 1, 2: 3, 4: 2, 6: 4}[kind]), int)
    (tmp_path / "a.png").write_bytes(png(depth, kind, samples))
    assert images.has_colour(tmp_path / "a.png") is colour


def test_bmp_with_alpha():
    """The BMP is made by hand: a version 4 header with a mask for alpha, and rows bottom up."""
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, 3, 2, 1, 32, 3, 24, 0, 0, 0, 0) + masks + bytes(52)
    pixels = FOUR[::-1][..., [2, 1, 0, 3]].tobytes()
    content = struct.pack("<2sIHHI", b"BM", 122 + len(pixels), 0, 0, 122) + info + pixels
    check(content, COLOUR, ALPHA, 1)


@pytest.mark.parametrize("form", ["GIF", "PNG"])
def test_a_transparent_index_of_a_palette(form):
    content = encode(image_of("P", INDEX), form, transparency=4)
    check(content, blocks(COLOUR), blocks(np.where(INDEX == 4, 0, 255)), 1)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "MPO"])
def test_the_first_frame_of_several(form):
    frames = [Image.new("RGB", (24, 16), name) for name in ("red", "lime")]
    content = encode(frames[0], form, save_all=True, append_images=frames[1:])
    assert np.abs(decode(content) - [255.0, 0, 0]).max() <= 2


# Damage. A warning is an error in the tests.

SMOOTH = (np.add.outer(np.arange(24), np.arange(32)) * 4).astype(np.uint8)
PICTURE = Image.fromarray(np.stack([SMOOTH, SMOOTH[::-1], 255 - SMOOTH], axis=-1))
FILES: dict[str, bytes] = {
    "png": encode(PICTURE, "PNG"),
    "png, palette": encode(PICTURE.quantize(16), "PNG", transparency=b"\x00\x80\xff"),
    "png, 16 bits": png(16, 2, np.asarray(PICTURE, int) * 257, (b"tRNS", bytes(6))),
    "jpeg": encode(PICTURE, "JPEG"),
    "jpeg, progressive": encode(PICTURE, "JPEG", progressive=True, icc_profile=bytes(99)),
    "jpeg, cmyk": encode(PICTURE.convert("CMYK"), "JPEG"),
    "mpo": encode(PICTURE, "MPO", save_all=True, append_images=[PICTURE]),
    "gif": encode(PICTURE.quantize(16), "GIF", transparency=3),
    "gif, animated": encode(PICTURE, "GIF", save_all=True, append_images=[PICTURE.rotate(90)]),
    "bmp": encode(PICTURE, "BMP"),
    "bmp, palette": encode(PICTURE.quantize(16), "BMP"),
    "webp": encode(PICTURE, "WEBP"),
    "webp, alpha": encode(Image.merge("RGBA", [*PICTURE.split(), PICTURE.getchannel(0)]), "WEBP"),
}


@pytest.mark.parametrize("form", ["png", "jpeg", "mpo", "gif", "bmp", "webp"])
def test_500_changes_of_one_byte(tmp_path, form):
    rng = np.random.default_rng(0)
    path = tmp_path / "it"
    kinds = [content for name, content in FILES.items() if name.startswith(form)]
    refused = []
    for i in range(500):
        content = bytearray(kinds[i % len(kinds)])
        content[rng.integers(len(content))] ^= int(rng.integers(1, 256))
        path.write_bytes(content)
        try:
            images.has_colour(path)
            x = images.stack([(str(path), path)], 1, 8, 3)
        except DataError as error:
            refused.append(str(error))
        else:
            assert x.shape == (1, 8, 8, 3)
    assert 0 < len(refused) < 500
    assert all(line.startswith(f"{path} cannot be read as an image (") for line in refused)


def test_too_many_pixels_and_nearly_too_many(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)  # Pillow raises above 2,000
    for form in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        assert decode(encode(Image.new("L", (40, 40)), form)).shape == (40, 40, 3)
        with pytest.raises(DataError, match=r"^it cannot .*\(2500 pixels\) exceeds limit of 2000"):
            decode(encode(Image.new("L", (50, 50)), form))


def test_no_room_for_all():
    with pytest.raises(
        DataError, match=r"images of 32x24 pixels do not fit into memory .*--data\.size"
    ):
        images.stack([("it", FILES["png"])], 2**50, None, 3)


def ifd(*entries: bytes) -> bytes:
    return struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def odd_exif(orientation: bytes) -> bytes:
    """Returns EXIF data with an orientation, and text where the altitude's reference is a byte."""
    place = ifd(struct.pack("<HHI4s", 5, 2, 2, b"0"))
    first = ifd(orientation, struct.pack("<HHII", 0x8825, 4, 1, 38))
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + first + place


TURN = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
BAD_TEXT = b"a\0\0" + zlib.compress(bytes(2**22))  # more than Pillow unpacks
IT = np.asarray(PICTURE).astype(int)
TURNED = np.rot90(IT, -1)
METADATA = {
    "EXIF of odd types": (encode(PICTURE, "JPEG", exif=odd_exif(TURN)), TURNED),
    "EXIF of odd types, PNG": (encode(PICTURE, "PNG", exif=odd_exif(TURN)), TURNED),
    "EXIF of odd types, WebP": (encode(PICTURE, "WEBP", exif=odd_exif(TURN)), TURNED),
    "EXIF orientation 9": (
        encode(PICTURE, "JPEG", exif=odd_exif(struct.pack("<HHIHH", 0x0112, 3, 1, 9, 0))),
        IT,
    ),
    "EXIF that is none": (encode(PICTURE, "JPEG", exif=b"Exif\0\0nonsense"), IT),
    "PNG text": (png(8, 2, IT, (b"zTXt", BAD_TEXT)), IT),
    "PNG text and EXIF": (
        png(8, 2, IT, (b"zTXt", BAD_TEXT), (b"eXIf", odd_exif(TURN)[6:])),
        TURNED,
    ),
    "PNG colour profile": (png(8, 2, IT, (b"iCCP", b"a\0\x01nonsense")), IT),
    "PNG resolution": (png(8, 2, IT, (b"pHYs", b"short")), IT),
    "PNG primaries": (png(8, 2, IT, (b"cHRM", b"short")), IT),
    "PNG animation": (png(8, 2, IT, (b"acTL", bytes(8))), IT),
    "JPEG colour profile": (
        FILES["jpeg"][:2] + b"\xff\xe2\x00\x0eICC_PROFILE\0" + FILES["jpeg"][2:],
        IT,
    ),
    "JPEG of several, index": (FILES["mpo"].replace(b"MPF\0II", b"MPF\0xx"), IT),
}


@pytest.mark.parametrize("name", METADATA)
def test_good_pixels_with_bad_metadata(tmp_path, name):
    content, expected = METADATA[name]
    path = tmp_path / "it"
    path.write_bytes(content)
    assert images.has_colour(path)
    x = images.stack([("it", path)], 1, None, 3)[0]
    assert x.shape == expected.shape
    assert np.abs(x - expected).mean() < 12  # not exact: JPEG and WebP


# Only the documented formats.


OTHERS = {"EPS": "RGB", "TIFF": "RGB", "PPM": "RGB", "ICO": "RGBA", "PCX": "RGB", "TGA": "RGB"}
OTHERS |= {"SGI": "RGB", "DDS": "RGB", "DIB": "RGB", "MSP": "1", "XBM": "1", "SPIDER": "F"}


@pytest.mark.parametrize("form", OTHERS)
def test_other_formats_are_refused_whatever_the_name(tmp_path, monkeypatch, form):
    """Ghostscript is not started either, although Pillow uses it to read EPS."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None, raising=False)  # found earlier
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.new(OTHERS[form], (32, 32)), form))
    message = r"cannot be read as an image \(its content is damaged or in none of the formats PNG, "
    message += r"JPEG, BMP, "
    assert not images.has_colour(path)
    for read in (
        lambda: images.stack([(str(path), path)], 1, None, 3),
        lambda: images.stack([(str(path), path.read_bytes())], 1, 8, 1),
    ):
        with pytest.raises(DataError, match=rf"a\.png {message}"):
            read()
    assert not (tmp_path / "started").exists()

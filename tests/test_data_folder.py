"""Folders of image files, which the tests write with Pillow."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gan_jax.data import Config, DataError, Dataset, load

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (4, 6, 8), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)


def write(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def read(folder: Path, **fields: Any) -> Dataset:
    return load(Config(source="folder", dir=folder, **fields))


@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_round_trip_in_the_order_of_the_paths(tmp_path, pixels):
    names = ["a.png", "b/a.PNG", "b/c/a.bmp", "c.png"]
    for name, image in zip(reversed(names), pixels[::-1], strict=True):
        write(tmp_path / name, image)
    (tmp_path / "readme.txt").write_text("no image")
    (tmp_path / "._a.png").write_text("what macOS leaves on a stick")
    data = read(tmp_path)
    np.testing.assert_array_equal(data.x, pixels.reshape(4, 6, 8, -1))
    assert data.label is None
    assert (data.name, data.source) == (tmp_path.name, "folder")


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "gif", "webp"])
def test_lossy_formats_are_near(tmp_path, suffix):
    smooth = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    write(tmp_path / f"a.{suffix}", smooth, quality=95)
    x = read(tmp_path, channels=1).x[0, ..., 0]
    assert np.abs(x.astype(int) - smooth).max() <= 8


def test_immediate_subfolders_are_labels(tmp_path):
    for i, name in enumerate(["dog/0.png", "cat/0.png", "cat/1.png", "eel/0.png"]):
        write(tmp_path / name, GREY[i])
    data = read(tmp_path)
    np.testing.assert_array_equal(data.label, np.array([0, 0, 1, 2]))
    assert data.label.dtype == np.int32
    np.testing.assert_array_equal(data.x[2, ..., 0], GREY[0])


def test_one_colour_image_makes_all_colour_unless_told(tmp_path):
    write(tmp_path / "a.png", GREY[0])
    write(tmp_path / "b.png", COLOUR[0])
    x = read(tmp_path).x
    np.testing.assert_array_equal(x[0], np.stack([GREY[0]] * 3, axis=-1))
    np.testing.assert_array_equal(x[1], COLOUR[0])
    grey = read(tmp_path, channels=1).x
    assert grey.shape == (2, 6, 8, 1)
    luma = COLOUR[0] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey[1, ..., 0], luma, atol=1)


def test_crop_is_central_and_shrinking_averages(tmp_path):
    wide = np.zeros((8, 16), np.uint8)
    wide[:, 4:12] = np.indices((8, 8)).sum(axis=0) % 2 * 200  # checks of 0 and 200; margins of 0
    write(tmp_path / "a.png", wide)
    x = read(tmp_path, size=4).x
    assert x.shape == (1, 4, 4, 1)
    assert np.abs(x.astype(int) - 100).max() < 30  # nearest-neighbour would leave 0s or 200s


def test_modes_that_pillow_would_mangle(tmp_path):
    deep = np.linspace(0, 65_535, 48, dtype=np.uint16).reshape(6, 8)
    write(tmp_path / "deep/a.png", deep)
    np.testing.assert_array_equal(read(tmp_path / "deep").x[0], (deep >> 8)[..., None])

    veiled = np.stack([GREY[0], np.full_like(GREY[0], 255)], axis=-1)  # grey, with transparency
    write(tmp_path / "veiled/a.png", veiled)
    np.testing.assert_array_equal(read(tmp_path / "veiled").x[0], GREY[0][..., None])

    clear = np.zeros((6, 8, 4), np.uint8)
    clear[0] = (10, 20, 30, 255)
    write(tmp_path / "clear/a.png", clear)
    x = read(tmp_path / "clear").x[0]
    assert (x[0] == (10, 20, 30)).all()
    assert (x[1:] == 255).all()

    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter, clockwise
    write(tmp_path / "turned/a.png", GREY[0], exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "turned").x[0, ..., 0], np.rot90(GREY[0], -1))


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "a.png", transparency=b"\xff\x00")
    np.testing.assert_array_equal(read(tmp_path).x[0, 0], [(255, 0, 0), (255, 255, 255)])


def test_sizes_that_differ(tmp_path):
    write(tmp_path / "a.png", GREY[0])
    write(tmp_path / "b.png", GREY[0, :5])
    message = r"a\.png is 6x8, .*b\.png is 5x8\. .*--data\.size 32"
    with pytest.raises(DataError, match=message):
        read(tmp_path)
    assert read(tmp_path, size=4).x.shape == (2, 4, 4, 1)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp"])
@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("damage", ["half", "empty", "noise"])
def test_damaged_image_is_named(tmp_path, suffix, channels, damage):
    write(tmp_path / "a.png", COLOUR[0])
    path = write(tmp_path / f"b.{suffix}", np.tile(COLOUR[0], (9, 9, 1)))
    whole = path.read_bytes()
    broken = {"half": whole[: len(whole) // 2], "empty": b"", "noise": bytes(99)}[damage]
    path.write_bytes(broken)
    with pytest.raises(DataError, match=rf"b\.{suffix} cannot be read as an image .*repair or rem"):
        read(tmp_path, size=4, channels=channels)


def test_nothing_to_read(tmp_path):
    with pytest.raises(DataError, match=r"--data\.dir .* has no image below it \(\.png, "):
        read(tmp_path)
    with pytest.raises(DataError, match=r"--data\.dir .*absent does not exist"):
        read(tmp_path / "absent")
    with pytest.raises(DataError, match=r"a\.png is a file, not a folder"):
        read(write(tmp_path / "a.png", GREY[0]))


def test_many_images_show_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gan_jax.data.images._PROGRESS_FROM", 2)
    for i in range(2):
        write(tmp_path / f"{i}.png", GREY[i])
    np.testing.assert_array_equal(read(tmp_path).x[..., 0], GREY[:2])
    assert "decoding" in capsys.readouterr().err

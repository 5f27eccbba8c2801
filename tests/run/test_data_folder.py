"""Folders of image files, which the tests write with Pillow."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gan_jax.data.types import Dataset
from gan_jax.run.datasets import Config, DataError, load

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (4, 6, 8), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)


def write(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def read(folder: Path, *, labelled: bool = False, **fields: Any) -> Dataset:
    return load(Config(source="folder", dir=folder, **fields), labelled=labelled)


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
    data = read(tmp_path, labelled=True)
    np.testing.assert_array_equal(data.label, np.array([0, 0, 1, 2]))
    assert data.classes == ("cat", "dog", "eel")
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
    message = r"a\.png is 8x6, .*b\.png is 8x5 \(width x height\)\. .*--data\.size 32"
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


@pytest.mark.parametrize("channels", [None, 1])
def test_all_damaged_images_are_named_at_once(tmp_path, channels):
    for i in range(3):
        write(tmp_path / f"good{i}.png", GREY[i])
        (tmp_path / f"bad{i}.png").write_bytes(b"")
    (tmp_path / "bad\n3.png").write_bytes(b"")
    with pytest.raises(DataError) as stop:
        read(tmp_path, channels=channels)
    lines = str(stop.value).splitlines()
    expected = ["bad\\n3.png", "bad0.png", "bad1.png", "bad2.png"]
    assert [line.split(" cannot be read as an image")[0] for line in lines] == [
        str(tmp_path / name) for name in expected
    ]
    for i in range(30):
        (tmp_path / f"worse{i}.png").write_bytes(b"")
    with pytest.raises(DataError) as stop:
        read(tmp_path, channels=channels)
    assert len(str(stop.value).splitlines()) == 11


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"])
def test_the_content_decides_about_files_of_other_names(tmp_path, form):
    write(tmp_path / "a.png", GREY[0])
    for name in ("b.tiff", "c", "d.dat"):
        write(tmp_path / name, GREY[0], format=form)
    (tmp_path / "e.txt").write_text("BMW and others, a list")
    data, lines = said_of(tmp_path)
    assert (len(data.x), len(lines)) == ((1, 5) if form == "TIFF" else (4, 2))


def said_of(folder: Path) -> tuple[Dataset, list[str]]:
    said: list[str] = []
    return load(Config(source="folder", dir=folder), announce=said.append), said


def test_links_are_followed(tmp_path):
    for name in ("data/cats/0.png", "disk/dogs/0.png", "disk/dogs/1.png", "disk/far.png"):
        write(tmp_path / name, GREY[0])
    (tmp_path / "data/dogs").symlink_to(tmp_path / "disk/dogs")
    (tmp_path / "data/cats/1.png").symlink_to(tmp_path / "disk/far.png")
    (tmp_path / "data/again").symlink_to("dogs")  # a class of its own: its name was given
    (tmp_path / "link").symlink_to("data")
    data, said = said_of(tmp_path / "link")
    np.testing.assert_array_equal(data.label, [0, 0, 1, 1, 2, 2])
    assert said == []


def test_links_in_a_circle_end(tmp_path):
    write(tmp_path / "data/cats/0.png", GREY[0])
    write(tmp_path / "data/dogs/0.png", GREY[1])
    for name, target in (("cats/up", ".."), ("cats/self", "."), ("dogs/all", tmp_path)):
        (tmp_path / "data" / name).symlink_to(target)
    data, (_, line) = said_of(tmp_path / "data")
    assert len(data.x) == 2
    assert "3 link to a folder that holds it (cats/self, cats/up, dogs/all/data)" in line


@pytest.mark.parametrize("target", ["gone", "loop"])
@pytest.mark.parametrize("name", ["b.png", "cats", "c/b.png"])
def test_a_link_that_leads_nowhere_is_an_error(tmp_path, target, name):
    write(tmp_path / "a.png", GREY[0])
    (tmp_path / "loop").symlink_to("loop") if target == "loop" else None
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / target)
    with pytest.raises(
        DataError, match=r"/(loop|b\.png|cats) is a link that leads nowhere.*remove"
    ):
        read(tmp_path)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    """The test patches `scandir`, because a superuser may list any folder."""
    write(tmp_path / "a/a.png", GREY[0])
    write(tmp_path / "b/b.png", GREY[0])
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        DataError, match=r"/b cannot be listed \(Permission denied\); allow reading it"
    ):
        read(tmp_path)


def test_everything_left_out_is_announced_in_a_line_for_each_kind(tmp_path):
    for name in ("cat/0.png", "cat/1.jfif", "dog/0.JPE", "eel/.hidden.png", ".git/a.png"):
        write(tmp_path / name, GREY[0], format="PNG")
    for i in range(4):
        (tmp_path / f"cat/{i}.tif").touch()
    for name in ("readme", "dog/notes.txt", ".DS_Store", "gnu/._a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "dog/pipe.png")
    for name in (b"caf\xe9.txt", b"new\nline.txt"):
        with open(os.path.join(os.fsencode(tmp_path), name), "w"):
            pass
    data, lines = said_of(tmp_path)
    assert len(lines) == 6
    line = "\n".join(lines)
    assert line.count("\n") == 5
    np.testing.assert_array_equal(data.label, [0, 0, 1])  # eel and gnu have no number
    for part in (
        "holds 3 image files and these, which are not read",
        "4 .tif (cat/0.tif, cat/1.tif, cat/2.tif, ...)",
        "3 .txt (caf\\udce9.txt, dog/notes.txt, new\\nline.txt)",
        "1 without a suffix (readme)",
        "1 neither file nor folder (dog/pipe.png)",
        "2 subfolder without images (eel, gnu)",
    ):
        assert part in line
    assert "hidden" not in line
    assert ".git" not in line
    assert "DS_Store" not in line
    print(line)  # which a name that is not UTF-8 would prevent


def test_lines_of_bounded_number_and_length(tmp_path):
    write(tmp_path / "a.png", GREY[0])
    for i in range(300):
        (tmp_path / f"scan.{i}").touch()
    _, lines = said_of(tmp_path)
    assert len(lines) <= 8
    assert max(map(len, lines)) < 300
    assert lines[-1] == "data:   and 294 more kinds"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.png", "cat/b.png", "cat/c.png"], r"1 of 3 images are not in an imm.*\(a\.png\)"),
        (
            ["train/cat/a.png", "train/dog/b.png"],
            r"2 of 2 .*\(train/cat/a\.png, train/dog/b\.png\)",
        ),
    ],
)
def test_images_outside_the_classes_are_named_with_the_remedy(tmp_path, names, said):
    for name in names:
        write(tmp_path / name, GREY[0])
    data, lines = said_of(tmp_path)
    assert (data.label, data.classes) == (None, None)
    (line,) = lines
    said += "; move or remove them, or give a folder with one subfolder for each class"
    assert re.match(f"data: the images have no classes: {said}", line)
    with pytest.raises(DataError, match=f"--conditional needs images with labels: {said}"):
        read(tmp_path, labelled=True)


def test_nothing_is_said_of_images_in_one_folder_unless_they_need_labels(tmp_path):
    for name in ("a.png", "b.png"):
        write(tmp_path / name, GREY[0])
    data, lines = said_of(tmp_path)
    assert (data.label, data.classes, lines) == (None, None, [])
    with pytest.raises(DataError, match=r"needs .* labels: put those of each class into a subf"):
        read(tmp_path, labelled=True)


def test_nothing_to_read(tmp_path):
    with pytest.raises(DataError, match=r"--data\.dir .* has no image below it \(PNG, "):
        read(tmp_path)
    with pytest.raises(DataError, match=r"--data\.dir .*absent does not exist"):
        read(tmp_path / "absent")
    with pytest.raises(DataError, match=r"--data\.dir x+ does not exist"):
        read(Path("x" * 300))  # longer than a name may be
    with pytest.raises(DataError, match=r"--data\.dir ~nobody_at_all/x does not exist"):
        read(Path("~nobody_at_all/x"))
    with pytest.raises(DataError, match=r"a\.png is a file, not a folder"):
        read(write(tmp_path / "a.png", GREY[0]))
    write(tmp_path / "hidden/.a.png", GREY[0])
    with pytest.raises(DataError, match=r"Names that begin with a dot are skipped \(\.a\.png\)\."):
        read(tmp_path / "hidden")
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.tif").touch()
    with pytest.raises(DataError, match=r"no image below it .* It holds 1 \.tif \(a\.tif\)\."):
        read(tmp_path / "only")


def test_many_images_show_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gan_jax.run.datasets.images._PROGRESS_FROM", 2)
    for i in range(2):
        write(tmp_path / f"{i}.png", GREY[i])
    np.testing.assert_array_equal(read(tmp_path).x[..., 0], GREY[:2])
    assert "decoding" in capsys.readouterr().err

"""Plots and image grids."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gan_jax.data.pipeline import dequantize, quantize
from gan_jax.run import plots
from gan_jax.run.plots.images import animate


def pixels(picture, factor):
    return np.asarray(picture)[::factor, ::factor]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_each_image_in_its_cell(channels):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels), dtype=np.uint8)
    picture = plots.grid(images, columns=3, height=24)
    assert picture.size == (3 * 6 * 3, 2 * 4 * 3)  # enlarged three times
    small = pixels(picture, 3).reshape(2 * 4, 3 * 6, channels)
    for i, image in enumerate(images):
        row, column = divmod(i, 3)
        np.testing.assert_array_equal(small[row * 4 :, column * 6 :][:4, :6], image)
    assert not small[4:, 12:].any()  # the unused cell


@pytest.mark.parametrize(("num", "columns"), [(1, 1), (4, 2), (10, 4), (64, 8)])
def test_a_grid_is_as_square_as_its_number_allows(num, columns):
    picture = plots.grid(np.zeros((num, 2, 2, 1), np.uint8), height=1)
    assert picture.width == 2 * columns


def drawn(images):
    """Returns the images [N, H, W, C] that a grid of one row shows."""
    num, height, width, channels = images.shape
    row = np.asarray(plots.grid(images, columns=num, height=1))
    return row.reshape(height, num, width, channels).swapaxes(0, 1)


def test_a_grid_of_floats_shows_the_bytes_they_stand_for():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    for floats in (
        (levels / 127.5 - 1).astype(np.float64),
        np.asarray(dequantize(levels)),
        dequantize(levels),
        dequantize(levels).astype(jnp.float16),
    ):
        np.testing.assert_array_equal(drawn(floats), levels)
    # By hand: -1 is black, 1 is white, and 0 is 127.5, which rounds to 128. Values outside are
    # clipped.
    x = jnp.array([-1.0, 1.0, 0.0, 1.0001, -1.0001, 0.5]).reshape(1, 2, 3, 1)
    assert drawn(x).ravel().tolist() == [0, 255, 128, 255, 0, 191]
    assert drawn(x.astype(jnp.bfloat16)).ravel().tolist() == [0, 255, 128, 255, 0, 191]
    x = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(drawn(x), quantize(x))


@pytest.mark.parametrize(
    ("images", "error", "match"),
    [
        (np.zeros((2, 4, 4), np.uint8), ValueError, r"images must be \[N, H, W, C\].*\[2, 4, 4\]"),
        (np.zeros((2, 4, 4, 2), np.uint8), ValueError, r"C = 1 or 3.*\[2, 4, 4, 2\]"),
        (np.zeros((0, 4, 4, 1), np.uint8), ValueError, r"\[0, 4, 4, 1\]"),
        (np.zeros((2, 0, 4, 1), np.uint8), ValueError, r"\[2, 0, 4, 1\]"),
        (np.zeros((2, 4, 4, 1), np.int32), TypeError, "got int32: convert"),
        (np.zeros((2, 4, 4, 1), bool), TypeError, "got bool"),
        (np.zeros((2, 4, 4, 1), complex), TypeError, "got complex128"),
        (np.full((2, 4, 4, 1), 255.0), ValueError, r"in \[-1, 1\], got 255 to 255"),
        (np.full((2, 4, 4, 1), -1.01, np.float32), ValueError, "got -1.01 to -1.01"),
        (np.full((2, 4, 4, 1), 1e300), ValueError, "got 1e[+]300"),
        (np.full((2, 4, 4, 1), np.nan, np.float32), ValueError, "got nan to nan"),
    ],
)
def test_a_grid_of_anything_else_is_refused(images, error, match):
    with pytest.raises(error, match=match):
        plots.grid(images)


@pytest.mark.parametrize("options", [{"columns": 0}, {"columns": -1}, {"height": 0}])
def test_a_grid_without_room_is_refused(options):
    with pytest.raises(ValueError, match="columns and height must be at least 1"):
        plots.grid(np.zeros((2, 4, 4, 1), np.uint8), **options)


def test_an_animation_of_nothing_or_of_several_sizes_is_refused(tmp_path):
    for pictures, sizes in (
        ([], r"\[\]"),
        ([Image.new("L", (2, 3)), Image.new("L", (3, 3))], r"\[\(2, 3\), \(3, 3\)\]"),
    ):
        with pytest.raises(ValueError, match=f"all of one size, got sizes {sizes}"):
            animate(pictures, tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def save_grids(folder, count):
    paths = [folder / f"{i:04d}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.new("L", (20, 10), i).save(path)
    return paths


@pytest.mark.parametrize(("count", "frames", "strip"), [(1, 1, 1), (3, 3, 3), (200, 60, 6)])
def test_a_history_goes_from_the_first_grid_to_the_last(tmp_path, count, frames, strip):
    gif, png = tmp_path / "a.gif", tmp_path / "a.png"
    plots.history(save_grids(tmp_path, count), gif, png)
    with Image.open(gif) as animation:
        assert animation.n_frames == frames
        assert animation.info.get("loop", 0) == 0
        for frame, grey in ((0, 0), (frames - 1, count - 1)):
            animation.seek(frame)
            assert np.asarray(animation.convert("L")).flat[0] == pytest.approx(grey, abs=1)
    with Image.open(png) as picture:
        assert picture.size == (20 * strip + 12 * (strip - 1), 10)
        assert picture.getpixel((0, 0)) == 0
        assert picture.getpixel((picture.width - 1, 9)) == count - 1


def test_the_curves_of_a_run_change_with_its_records(tmp_path):
    names = "value", "discriminator_loss", "generator_loss", "real_accuracy", "fake_accuracy"
    pictures = []
    for last in (0.5, 0.9):
        file = tmp_path / f"{last}.png"
        records = [{"step": step, **dict.fromkeys(names, y)} for step, y in ((1, 0.5), (2, last))]
        plots.curves(records, file)
        with Image.open(file) as picture:
            pictures.append(np.asarray(picture.convert("L")))
    assert pictures[0].shape == pictures[1].shape == (770, 770)
    assert (pictures[0] != pictures[1]).any()


def cut(whole):
    return whole[: len(whole) // 2]


def flipped(whole):
    return bytes([whole[0], whole[1] ^ 1, *whole[2:]])


def other_size(whole):
    file = io.BytesIO()
    Image.new("L", (5, 5)).save(file, "PNG")
    return file.getvalue()


DAMAGES = {
    "empty": lambda whole: b"",
    "cut": cut,
    "flipped": flipped,
    "no image": lambda whole: b"years of work",
    "other size": other_size,
    "another format": lambda whole: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 10\n",
}
"""Name -> a function from the bytes of a grid to those of a damaged one."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_grid_that_cannot_be_read_is_passed_over_by_name(tmp_path, damage):
    paths = save_grids(tmp_path, 4)
    paths[2].write_bytes(DAMAGES[damage](paths[2].read_bytes()))
    said = []
    plots.history(paths, tmp_path / "a.gif", tmp_path / "a.png", announce=said.append)
    (line,) = said
    assert line.startswith(f"{paths[2]} cannot be read (")
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 3
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (20 * 3 + 12 * 2, 10)


def test_a_grid_with_any_byte_flipped_is_read_or_passed_over(tmp_path):
    paths = save_grids(tmp_path, 2)
    good = paths[1].read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 0x41
        paths[1].write_bytes(bad)
        said = []
        plots.history(paths, tmp_path / "a.gif", tmp_path / "a.png", announce=said.append)
        assert all(str(paths[1]) in line for line in said)


def test_without_a_grid_that_can_be_read_there_is_no_history(tmp_path):
    (path,) = save_grids(tmp_path, 1)
    path.write_bytes(b"")
    said = []
    plots.history([path], tmp_path / "a.gif", tmp_path / "b.png", announce=said.append)
    plots.history([], tmp_path / "a.gif", tmp_path / "b.png", announce=said.append)
    assert len(said) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_curves_are_drawn_of_what_the_records_have(tmp_path):
    records = [{"step": 1, "value": -1.0}, {"step": 2, "discriminator_loss": 1.0}]
    plots.curves(records, tmp_path / "a.png")
    plots.curves([], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()

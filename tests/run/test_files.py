"""Atomic writes of files."""

import resource

import numpy as np
import pytest
from PIL import Image

from gan_jax.run import plots
from gan_jax.run.files import whole, write_text
from gan_jax.run.folder import RunFolder


def test_a_file_is_replaced_when_all_of_it_is_written(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"old")
    with whole(file) as opened:
        opened.write(b"new")
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path, error):
    file = tmp_path / "a.bin"
    file.write_bytes(b"old")

    def write() -> None:
        with whole(file) as opened:
            opened.write(b"ne")
            raise error

    with pytest.raises(error):
        write()
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_disk_that_is_full_names_the_file(tmp_path):
    folder = RunFolder(tmp_path / "run", {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with folder.visit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as on a full disk
        try:
            with pytest.raises(OSError, match=r"too large: '.*a\.txt'"):
                write_text(tmp_path / "a.txt", "x" * 1000)
            with pytest.raises(OSError, match=r"too large: '.*metrics\.jsonl'"):
                folder.log({"step": 1, "long": "x" * 1000})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_text_is_utf8_whatever_the_locale(tmp_path):
    write_text(tmp_path / "a.txt", "−log 4\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xe2\x88\x92log 4\n"


NAMES = {
    "png": "0000001.png",
    "no suffix": "picture",
    "another suffix": "a.jpg",
    "odd": "[%s]*#.pdf",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("kind", ["image", "chart"])
def test_a_picture_is_a_png_under_the_name_given(tmp_path, name, kind):
    if kind == "image":
        plots.save_image(Image.new("L", (3, 2), 7), tmp_path / name)
    else:
        plots.save_chart(plots.chart(size=(1, 1))[0], tmp_path / name)
    with Image.open(tmp_path / name, formats=["PNG"]) as picture:
        assert picture.size == ((3, 2) if kind == "image" else (110, 110))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind", ["image", "chart", "gif"])
def test_a_picture_that_fails_half_way_leaves_the_one_before(tmp_path, kind, monkeypatch):
    from matplotlib.figure import Figure

    def fail(self, file, *args, **options):
        file.write(b"\x89PNG half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    monkeypatch.setattr(Figure, "savefig", fail)
    file = tmp_path / "a"
    file.write_bytes(b"old")
    picture = Image.fromarray(np.zeros((2, 2), np.uint8))
    save = {
        "image": lambda: plots.save_image(picture, file),
        "chart": lambda: plots.save_chart(plots.chart(size=(1, 1))[0], file),
        "gif": lambda: plots.images.animate([picture], file),
    }
    with pytest.raises(OSError, match="No space left"):
        save[kind]()
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]

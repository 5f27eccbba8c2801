"""IDX files, against bytes packed by hand from the format's definition."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from gan_jax.data.types import Dataset
from gan_jax.run.datasets import Config, DataError, load

X = np.random.default_rng(0).integers(0, 256, (5, 3, 4), dtype=np.uint8)  # not square: no transpose
LABEL = np.array([3, 1, 4, 1, 255], np.uint8)


def pack(array: np.ndarray, dtype_code: int = 0x08) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, dtype_code, array.ndim, *array.shape)
    return header + array.tobytes()


def write(folder: Path, images: bytes | None, labels: bytes | None, mark: str, end: str) -> None:
    for stem, data in ((f"train-images{mark}idx3", images), (f"train-labels{mark}idx1", labels)):
        if data is not None:
            encoded = gzip.compress(data) if end else data
            (folder / f"{stem}-ubyte{end}").write_bytes(encoded)


def read(folder: Path, source: str = "idx") -> Dataset:
    return load(Config(source=source, dir=folder))  # type: ignore[arg-type]


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("source", ["idx", "auto"])
def test_round_trip(tmp_path, mark, end, source):
    write(tmp_path, pack(X), pack(LABEL), mark, end)
    data = read(tmp_path, source)
    assert data.x.dtype == np.uint8
    assert data.label is not None
    assert data.label.dtype == np.int32
    np.testing.assert_array_equal(data.x, X[..., None])
    np.testing.assert_array_equal(data.label, LABEL)
    assert (data.name, data.source) == ("mnist", "idx")


def test_labels_are_optional(tmp_path):
    write(tmp_path, pack(X), None, "-", "")
    said = []
    assert load(Config(source="idx", dir=tmp_path), announce=said.append).label is None
    (line,) = said
    assert line.startswith(f"data: the images have no classes: {tmp_path} has no file train-labels")
    with pytest.raises(DataError, match=r"--conditional .* has no file train-labels-idx1-ubyte"):
        load(Config(source="idx", dir=tmp_path), labelled=True)


@pytest.mark.parametrize(
    ("label", "held_out", "said"),
    [
        ([0, 1, 2, 1, 0], 0, None),
        ([0, 3, 4, 3, 0], 0, "none of the 5 training images is of class 1, 2; add images"),
        ([0, 1, 2, 1, 0], 4, "none of the 1 training images is of class .*--data.held-out"),
        ([0, 0, 0, 0, 0], 0, "two classes or more, but all images are of class 0; leave --cond"),
        ([3, 1, 4, 1, 255], 0, "the labels of 5 images go up to 255; number the classes 0, 1"),
    ],
)
def test_every_class_needs_an_image(tmp_path, label, held_out, said):
    write(tmp_path, pack(X), pack(np.array(label, np.uint8)), "-", "")
    config = Config(source="idx", dir=tmp_path, held_out=held_out)
    if said is None:
        assert load(config, labelled=True).classes == ("0", "1", "2")
    else:
        with pytest.raises(DataError, match=said):
            load(config, labelled=True)


@pytest.mark.parametrize("folder", ["fashion-mnist", "kmnist"])
def test_folder_of_a_known_name_names_the_data(tmp_path, folder):
    (tmp_path / folder).mkdir()
    write(tmp_path / folder, pack(X), None, "-", "")
    assert read(tmp_path / folder).name == folder.replace("-", "_")


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_every_truncation_is_an_error_that_names_the_file(tmp_path, kind, end):
    write(tmp_path, pack(X), pack(LABEL), "-", end)
    (path,) = tmp_path.glob(f"train-{kind}*")
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=path.name):
            read(tmp_path)
    path.write_bytes(whole)
    read(tmp_path)


IMAGES = "train-images-idx3-ubyte"
DAMAGE = {
    "no images": (None, f"has no file {IMAGES}, with or without .gz"),
    "empty": (b"", f"{IMAGES} is truncated: 16 bytes of header expected, 0 found"),
    "header": (pack(X)[:10], f"{IMAGES} is truncated: 16 bytes of header expected, 10 found"),
    "magic": (b"\x89PNG" + bytes(20), "wrong magic number: 0x00000803 expected, 0x89504e47"),
    "labels for images": (pack(LABEL), "wrong magic number: 0x00000803 expected, 0x00000801"),
    "dtype": (pack(X, 0x0D), f"{IMAGES} has elements of type 0x0d; only 0x08"),
    "truncated": (pack(X)[:-1], r"76 bytes expected for shape \(5, 3, 4\), 75 found"),
    "trailing": (pack(X) + b"!", r"has trailing bytes: 76 bytes expected .* 77 found"),
    "no examples": (pack(X[:0]), rf"{IMAGES} has no pixels: its shape is \(0, 3, 4\)"),
    "no pixels": (pack(X[:, :0]), rf"{IMAGES} has no pixels: its shape is \(5, 0, 4\)"),
    "count": (pack(X[:4]), f"has 5 labels, .*{IMAGES} 4 images"),
}


@pytest.mark.parametrize(("images", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_images(tmp_path, images, message):
    write(tmp_path, images, pack(LABEL), "-", "")
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_gz_by_name_only(tmp_path):
    (tmp_path / f"{IMAGES}.gz").write_bytes(pack(X))
    with pytest.raises(DataError, match=rf"{IMAGES}\.gz is not gzip data, though its name says so"):
        read(tmp_path)


def test_corrupt_gzip(tmp_path):
    data = bytearray(gzip.compress(pack(X)))
    data[-6] ^= 1  # the checksum of the content
    (tmp_path / f"{IMAGES}.gz").write_bytes(data)
    with pytest.raises(DataError, match=rf"{IMAGES}\.gz is corrupt gzip data \(CRC check failed"):
        read(tmp_path)


def test_dir_must_be_a_folder(tmp_path):
    with pytest.raises(DataError, match=r"--data\.dir .*absent does not exist"):
        read(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"--data\.dir .*file is a file, not a folder"):
        read(tmp_path / "file")


def test_of_several_files_the_one_read_is_announced(tmp_path):
    write(tmp_path, pack(X), pack(LABEL), "-", "")
    write(tmp_path, pack(X[::-1]), None, ".", ".gz")
    said: list[str] = []
    data = load(Config(source="idx", dir=tmp_path), announce=said.append)
    np.testing.assert_array_equal(data.x[..., 0], X)
    (line,) = said
    assert f"{tmp_path}/{IMAGES} is read, not train-images.idx3-ubyte.gz beside it" in line


@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize("source", ["idx", "auto"])
def test_a_link_that_leads_nowhere_is_an_error(tmp_path, kind, source):
    write(tmp_path, pack(X), pack(LABEL), "-", "")
    path = tmp_path / f"train-{kind}-ubyte"
    path.unlink()
    path.symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=rf"{path.name} cannot be read: No such file"):
        read(tmp_path, source)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_changes_of_one_byte(tmp_path, end):
    """The file loads, or an error names it. A compressed file loads only with unchanged pixels."""
    write(tmp_path, pack(X), None, "-", end)
    (path,) = tmp_path.glob("train-images*")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= int(rng.integers(1, 256))
        path.write_bytes(content)
        try:
            data = read(tmp_path)
        except DataError as error:
            message = str(error)
            assert path.name in message
        else:
            assert end == "" or np.array_equal(data.x[..., 0], X)


def test_trailing_garbage_after_gzip_data(tmp_path):
    (tmp_path / f"{IMAGES}.gz").write_bytes(gzip.compress(pack(X)) + b"garbage")
    with pytest.raises(DataError, match=rf"{IMAGES}\.gz is corrupt gzip data"):
        read(tmp_path)

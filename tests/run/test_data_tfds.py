"""TFDS data: prepared by builders in this file or by ours from local files, read back."""

import gzip
import http.server
import importlib.util
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_jax.data.types import Dataset
from gan_jax.run.datasets import Config, DataError, load, prepare

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (30, 28, 28), dtype=np.uint8)
LABEL = RNG.integers(0, 10, 30, dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def default_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))
    return tmp_path / "default"


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Simulates a host that answers with local files."""
    import tensorflow_datasets as tfds

    folder = tmp_path / "mirror"
    folder.mkdir()
    for kind, array in (("images", X), ("labels", LABEL)):
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / prepare.FILES[kind]).write_bytes(gzip.compress(header + array.tobytes()))
    monkeypatch.setattr(prepare, "_silence", lambda url: None)
    monkeypatch.setattr(
        tfds.download.DownloadManager,
        "download",
        lambda self, urls: {kind: folder / url.rsplit("/", 1)[1] for kind, url in urls.items()},
    )
    return folder


def read(name: str, folder: Path | None, source: str = "tfds", **fields) -> Dataset:
    return load(Config(name=name, source=source, dir=folder, **fields), announce=lambda line: None)


def build(folder: Path, title: str, features: dict, examples: list[dict], **options) -> None:
    """Prepares a data set as an official builder would; `options`: split, config, version."""
    import tensorflow_datasets as tfds

    configs = [tfds.core.BuilderConfig(name=options["config"])] if "config" in options else []
    with tfds.core.registered.skip_registration():

        class Builder(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version(options.get("version", "3.0.1"))
            BUILDER_CONFIGS = configs
            name = title

            def _info(self):
                spec = tfds.features.FeaturesDict(features)
                return tfds.core.DatasetInfo(
                    builder=self, description=title, features=spec, disable_shuffling=True
                )

            def _split_generators(self, dl_manager):
                return {options.get("split", "train"): enumerate(examples)}

            def _generate_examples(self):
                raise NotImplementedError

    Builder(data_dir=folder, file_format="array_record").download_and_prepare()


def png(pixels: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    file.seek(0)
    return file


def image_feature(*shape: int | None):
    import tensorflow_datasets as tfds

    return tfds.features.Image(shape=shape)


def as_tfrecord(folder: Path) -> None:
    """Rewrites array_record data in TFRecord framing, as TFDS prepares by default."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.decode import DeserializeMethod

    builder = tfds.builder_from_directory(folder)
    records = builder.as_data_source("train", deserialize_method=DeserializeMethod.RAW_BYTES)
    framed = [struct.pack("<QI", len(record), 0) + record + bytes(4) for record in records]
    (old,) = folder.glob("*.array_record-*")
    new = folder / old.name.replace("array_record", "tfrecord")
    new.write_bytes(b"".join(framed))
    old.unlink()
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (folder / "dataset_info.json").write_text(json.dumps(info))


@pytest.mark.parametrize("read_at_once", [7, 10, 1_024])  # 30 examples: with a rest, without, all
def test_own_builder_round_trip(tmp_path, mirror, monkeypatch, read_at_once):
    monkeypatch.setattr("gan_jax.run.datasets.tfds._READ_AT_ONCE", read_at_once)
    said = []
    config = Config(source="tfds", dir=tmp_path)
    data = load(config, announce=said.append)
    np.testing.assert_array_equal(data.x, X[..., None])
    np.testing.assert_array_equal(data.label, LABEL)
    assert data.label.dtype == np.int32
    assert (data.name, data.source) == ("mnist", "tfds")
    assert "downloading" in said[0]

    shutil.rmtree(mirror)  # the data set is prepared a second time
    again = load(config, announce=said.append)
    assert again.sha256 == data.sha256
    assert len(said) == 1
    assert read("mnist", tmp_path, "auto").source == "tfds"


def test_data_in_the_default_folder_are_found(tmp_path, mirror, default_dir):
    read("kmnist", None)
    assert (default_dir / "gan_jax_kmnist").is_dir()
    shutil.rmtree(mirror)
    np.testing.assert_array_equal(read("kmnist", tmp_path).x[..., 0], X)


def test_prepares_and_reads_without_tensorflow_or_warnings(tmp_path, mirror):
    """Makes the import of TensorFlow fail in this process, even if TensorFlow is installed."""
    script = f"""
import importlib.util, sys
from pathlib import Path

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError("blocked")

sys.meta_path.insert(0, Block())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: name != "tensorflow" and find_spec(name, *rest)

import tensorflow_datasets as tfds
from gan_jax.run.datasets import Config, load, prepare
prepare._silence = lambda url: None
tfds.download.DownloadManager.download = lambda self, urls: {{
    kind: Path({str(mirror)!r}) / url.rsplit("/", 1)[1] for kind, url in urls.items()}}
first, second = (load(Config(source="tfds", dir=Path({str(tmp_path)!r}))) for _ in range(2))
assert first.sha256 == second.sha256
print("sha256", first.sha256)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env=dict(os.environ),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert f"sha256 {read('mnist', tmp_path).sha256}" in done.stdout
    assert "TensorFlow" not in done.stdout + done.stderr  # TFDS's advice to install it


def test_the_urls_are_the_official_ones_with_known_checksums():
    import tensorflow_datasets as tfds

    known = tfds.core.download.checksums.get_all_url_infos()
    urls = {url + file for url in prepare.URLS.values() for file in prepare.FILES.values()}
    assert urls <= set(known)


def test_official_data_are_preferred_and_ours_are_not_theirs(tmp_path, mirror):
    read("mnist", tmp_path)
    assert not (tmp_path / "mnist").exists()
    official = {"image": png(255 - X[0]), "label": 7}
    features = {"image": image_feature(28, 28, 1), "label": np.int64}
    build(tmp_path, "mnist", features, [official])
    data = read("mnist", tmp_path)
    np.testing.assert_array_equal(data.x[..., 0], 255 - X[:1])
    np.testing.assert_array_equal(data.label, [7])


def test_newest_version_is_read(tmp_path):
    for version, value in (("9.0.0", 9), ("10.0.0", 10), ("2.0.0", 2)):
        example = {"image": png(np.full((28, 28), value, np.uint8))}
        build(tmp_path, "mnist", {"image": image_feature(28, 28, 1)}, [example], version=version)
    (tmp_path / "mnist" / "11.0.0.incompleteABC").mkdir()
    (tmp_path / "mnist" / "12.0.0").mkdir()
    assert read("mnist", tmp_path).x.max() == 10


def test_tfrecord_is_read_and_its_truncation_noticed(tmp_path, mirror):
    read("mnist", tmp_path)
    folder = tmp_path / "gan_jax_mnist" / "1.0.0"
    as_tfrecord(folder)
    shutil.rmtree(mirror)
    data = read("mnist", tmp_path)
    np.testing.assert_array_equal(data.x, X[..., None])
    np.testing.assert_array_equal(data.label, LABEL)

    (path,) = folder.glob("*.tfrecord-*")
    whole = path.read_bytes()
    first = 16 + struct.unpack("<Q", whole[:8])[0]
    for length in (1, 11, 12, first - 1, first + 5, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"tfrecord-.* is truncated"):
            read("mnist", tmp_path)
    path.write_bytes(whole[:first])
    with pytest.raises(DataError, match="30 images expected, 1 found"):
        read("mnist", tmp_path)


def test_colour_images_of_several_sizes(tmp_path):
    examples = [{"image": png(COLOUR[0])}, {"image": png(COLOUR[1, :5])}]
    build(tmp_path, "flowers", {"image": image_feature(None, None, 3)}, examples)
    data = read("flowers", tmp_path, size=4)
    assert data.x.shape == (2, 4, 4, 3)
    assert data.label is None
    with pytest.raises(DataError, match=r"--conditional needs .* has no integer feature named lab"):
        load(Config(name="flowers", source="tfds", dir=tmp_path, size=4), labelled=True)
    assert read("flowers", tmp_path, size=4, channels=1).x.shape == (2, 4, 4, 1)
    with pytest.raises(DataError, match=r"Example 0 .*is 8x6, Example 1 .* 8x5 .*--data\.size 32"):
        read("flowers", tmp_path)


def test_configs(tmp_path):
    features = {"image": image_feature(6, 8, 3)}
    build(tmp_path, "emnist", features, [{"image": png(COLOUR[0])}], config="letters")
    np.testing.assert_array_equal(read("emnist", tmp_path).x, COLOUR[:1])
    build(tmp_path, "emnist", features, [{"image": png(COLOUR[1])}], config="digits")
    np.testing.assert_array_equal(read("emnist/letters", tmp_path).x, COLOUR[:1])
    np.testing.assert_array_equal(read("emnist/digits", tmp_path).x, COLOUR[1:2])
    with pytest.raises(DataError, match=r"as digits, letters; say which, .* emnist/digits"):
        read("emnist", tmp_path)


def test_data_of_another_kind(tmp_path):
    build(tmp_path, "words", {"text": np.int64}, [{"text": 1}])
    with pytest.raises(DataError, match="no feature named image"):
        read("words", tmp_path)
    features = {"image": image_feature(6, 8, 3)}
    build(tmp_path, "tests", features, [{"image": png(COLOUR[0])}], split="test")
    with pytest.raises(DataError, match="has no split named train, only test"):
        read("tests", tmp_path)


def test_damaged_data(tmp_path):
    build(tmp_path, "mnist", {"image": image_feature(6, 8, 3)}, [{"image": png(COLOUR[0])}])
    folder = tmp_path / "mnist" / "3.0.1"
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "riegeli"}))
    with pytest.raises(DataError, match="is in the format riegeli; only array_record and tfrecord"):
        read("mnist", tmp_path)
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (path,) = folder.glob("*.array_record-*")
    path.unlink()
    with pytest.raises(DataError, match=r"mnist/3\.0\.1 cannot be read .*; delete that folder"):
        read("mnist", tmp_path)


def test_unknown_names_and_missing_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"--data\.name mnits is no data set TFDS knows"):
        read("mnits", tmp_path)
    with pytest.raises(DataError, match=r"only TensorFlow can prepare it: pip install 'gan-jax\[t"):
        read("cifar10", tmp_path)


def test_with_tensorflow_the_official_builder_prepares(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    class Builder:
        data_path = tmp_path / "cifar10" / "3.0.1"

        def download_and_prepare(self):
            features = {"image": image_feature(6, 8, 3)}
            build(tmp_path, "cifar10", features, [{"image": png(COLOUR[0])}])

    def builder(name, *, data_dir, file_format):
        assert (name, data_dir, file_format) == ("cifar10", tmp_path, "array_record")
        return Builder()

    monkeypatch.setattr(prepare, "_check_tensorflow", lambda name, folder: None)
    monkeypatch.setattr(tfds, "builder", builder)
    np.testing.assert_array_equal(read("cifar10", tmp_path).x, COLOUR[:1])


def test_a_failed_download_says_so_and_leaves_nothing_prepared(tmp_path, mirror):
    (mirror / prepare.FILES["images"]).write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"mnist could not be downloaded .* is not gzip data"):
        read("mnist", tmp_path)
    with pytest.raises(DataError, match="could not be downloaded"):
        read("mnist", tmp_path)
    assert read("mnist", None, "auto").source == "embedded"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200 if self.path.startswith("/here/") else 404)
        self.end_headers()

    def log_message(self, *args):
        pass


def test_a_host_answers_or_the_reason_is_given(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert prepare._silence(f"{url}/here/") is None
        assert prepare._silence(f"{url}/gone/") == "HTTP 404"
        server.shutdown()
    assert "refused" in (prepare._silence(f"{url}/here/") or "")


def test_a_silent_host_costs_seconds_only(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(prepare, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # never answers
        start = time.monotonic()
        reason = prepare._silence(f"http://127.0.0.1:{server.getsockname()[1]}/")
        assert time.monotonic() - start < 30  # a busy machine; TFDS itself retries for minutes
    assert reason is not None
    assert "timed out" in reason or "no answer within 0.2 s" in reason


@pytest.mark.parametrize(
    ("labels", "kept"), [([0, 2**31 - 1], True), ([-1, 0], False), ([0, 2**31], False)]
)
def test_labels_that_are_no_classes_are_refused_if_labels_matter(tmp_path, labels, kept):
    features = {"image": image_feature(6, 8, 3), "label": np.int64}
    examples = [{"image": png(COLOUR[i]), "label": label} for i, label in enumerate(labels)]
    build(tmp_path, "mnist", features, examples)
    said: list[str] = []
    config = Config(source="tfds", dir=tmp_path)
    data = load(config, announce=said.append)
    assert data.classes is None
    expected = f"go up to {labels[1]}" if kept else f"range from {min(labels)} to {max(labels)}"
    if kept:
        np.testing.assert_array_equal(data.label, labels)
        assert said == []
    else:
        assert data.label is None
        (line,) = said
        assert f"data: the images have no classes: the labels {expected}" in line
    with pytest.raises(DataError, match=f"--conditional needs images .* labels .*{expected}"):
        load(config, labelled=True)


def test_the_names_of_classes_are_those_that_tfds_knows(tmp_path):
    import tensorflow_datasets as tfds

    named = tfds.features.ClassLabel(names=["ship", "frog", "gnu"])
    examples = [{"image": png(COLOUR[i]), "label": i} for i in (1, 0)]
    build(tmp_path, "animals", {"image": image_feature(6, 8, 3), "label": named}, examples)
    data = read("animals", tmp_path)
    np.testing.assert_array_equal(data.label, [1, 0])
    assert data.classes == ("ship", "frog", "gnu")
    with pytest.raises(DataError, match=r"none of the 2 training images is of class gnu; add"):
        load(Config(name="animals", source="tfds", dir=tmp_path), labelled=True)


def test_examples_in_other_formats_are_refused(tmp_path):
    file = io.BytesIO()
    Image.fromarray(COLOUR[0]).save(file, "EPS")
    file.seek(0)
    build(tmp_path, "mnist", {"image": image_feature(6, 8, 3)}, [{"image": file}])
    message = r"Example 0 of .*3\.0\.1 cannot be read as an image \(its content .* formats PNG"
    with pytest.raises(DataError, match=message):
        read("mnist", tmp_path)


@pytest.mark.parametrize("nested", [False, True])
def test_data_cannot_name_modules_to_import(tmp_path, monkeypatch, nested):
    (tmp_path / "module_of_strangers.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    build(tmp_path, "mnist", {"image": image_feature(6, 8, 3)}, [{"image": png(COLOUR[0])}])
    path = tmp_path / "mnist" / "3.0.1" / "features.json"
    content = json.loads(path.read_text())
    if nested:
        stranger = json.dumps({"type": "module_of_strangers.Image", "content": "{}"})
        content["featuresDict"]["features"]["other"] = {
            "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
            "jsonFeature": {"json": json.dumps({"other": json.loads(stranger)})},
        }
    else:
        content["featuresDict"]["features"]["image"]["pythonClassName"] = (
            "module_of_strangers.Image"
        )
    path.write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"features\.json names the class module_of_strangers\.Image"
    ):
        read("mnist", tmp_path)


@pytest.mark.parametrize("folder", ["a[1]*?", "gs:", "b\\c", "new\nline", "~"])
def test_folders_of_odd_names(tmp_path, monkeypatch, folder):
    build(
        tmp_path / folder, "mnist", {"image": image_feature(6, 8, 3)}, [{"image": png(COLOUR[0])}]
    )
    np.testing.assert_array_equal(read("mnist", tmp_path / folder).x, COLOUR[:1])
    if folder != "~":
        monkeypatch.chdir(tmp_path)
        np.testing.assert_array_equal(read("mnist", Path(folder)).x, COLOUR[:1])


@pytest.mark.parametrize(
    "name", ["a b", "*", "mnist[1]", "\0", "x" * 300, "new\nline", "mnist:9.9.9"]
)
def test_names_that_no_data_set_has(tmp_path, name):
    with pytest.raises(DataError, match=r"is no data set TFDS knows"):
        read(name, tmp_path)


def test_the_default_folder_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", "~/kept")
    build(
        tmp_path / "kept", "mnist", {"image": image_feature(6, 8, 3)}, [{"image": png(COLOUR[0])}]
    )
    np.testing.assert_array_equal(read("mnist", None).x, COLOUR[:1])


def test_labels_of_another_number_are_not_prepared(tmp_path, mirror):
    header = struct.pack(">HBBI", 0, 8, 1, 31)
    labels = header + LABEL.tobytes() + b"\0"
    (mirror / prepare.FILES["labels"]).write_bytes(gzip.compress(labels))
    with pytest.raises(DataError, match="could not be downloaded and prepared"):
        read("mnist", tmp_path)

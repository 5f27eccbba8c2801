"""Downloads TFDS data and prepares them.

TFDS's own builders need TensorFlow. The builder in this module does not. It is for MNIST and
similar data sets.
"""

import importlib.util
import io
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_jax.run.datasets import idx
from gan_jax.run.datasets.types import DataError

if TYPE_CHECKING:
    import tensorflow_datasets

# The addresses that the official builders use. TFDS verifies the files by their checksums.
URLS = {
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "kmnist": "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
}
FILES = {"images": "train-images-idx3-ubyte.gz", "labels": "train-labels-idx1-ubyte.gz"}
TIMEOUT = 5.0  # seconds for a host to answer; TFDS itself retries for minutes


def prepare(name: str, folder: Path, announce: Callable[[str], None]) -> Path:
    """Downloads a data set and prepares its array_record files.

    Args:
      name: One of `URLS` or, if TensorFlow is installed, any name that TFDS knows.
      folder: The TFDS data folder in which the data are prepared.
      announce: Called with a message before the download.

    Returns:
      The folder of the prepared version.

    Raises:
      DataError: TFDS does not know the name, TensorFlow is needed and not installed, the host does
        not answer, or the builder fails.
    """
    (_check_host if name in URLS else _check_tensorflow)(name, folder)
    announce(f"data: downloading and preparing {name} in {folder}")
    try:
        builder = (_own_builder if name in URLS else _official_builder)(name, folder)
        builder.download_and_prepare()
    except Exception as error:  # errors of network, disk, checksum or builder
        raise DataError(
            f"--data.name {name} could not be downloaded and prepared in {folder}: {error}"
        ) from error
    return Path(builder.data_path)


def own_name(name: str) -> str:
    """Returns our builder's name for a data set.

    It differs from the official name, so that our builder and TFDS's builder do not read each
    other's files.
    """
    return f"gan_jax_{name}"


def _check_tensorflow(name: str, folder: Path) -> None:
    import tensorflow_datasets as tfds

    try:
        tfds.builder_cls(name.split("/")[0])
    except Exception as error:  # DatasetNotFoundError; others for invalid names
        raise DataError(
            f"--data.name {name} is no data set TFDS knows, nor is it prepared in {folder}; "
            "for the names see https://www.tensorflow.org/datasets/catalog."
        ) from error
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            f"--data.name {name} is not prepared in {folder}, and only TensorFlow can prepare it: "
            "pip install 'gan-jax[tfds]', or point --data.dir to where it is prepared."
        )


def _check_host(name: str, folder: Path) -> None:
    if reason := _silence(URLS[name]):
        raise DataError(
            f"--data.name {name} is not prepared in {folder}, and {URLS[name]} does not answer "
            f"({reason}). Connect this machine, or point --data.dir to prepared TFDS data or to "
            "the IDX files" + (", or use --data.source embedded." if name == "mnist" else ".")
        )


def _official_builder(name: str, folder: Path) -> "tensorflow_datasets.core.DatasetBuilder":
    import tensorflow_datasets as tfds

    return tfds.builder(name, data_dir=folder, file_format="array_record")


def _own_builder(name: str, folder: Path) -> "tensorflow_datasets.core.GeneratorBasedBuilder":
    import tensorflow_datasets as tfds
    from PIL import Image

    builder_name = own_name(name)
    with tfds.core.registered.skip_registration():

        class Builder(tfds.core.GeneratorBasedBuilder):
            name = builder_name
            VERSION = tfds.core.Version("1.0.0")

            def _info(self) -> tfds.core.DatasetInfo:
                return tfds.core.DatasetInfo(
                    builder=self,
                    description=f"The training split of {name}, prepared by gan_jax.",
                    features=tfds.features.FeaturesDict(
                        {
                            "image": tfds.features.Image(shape=(28, 28, 1)),
                            "label": tfds.features.ClassLabel(num_classes=10),
                        }
                    ),
                    disable_shuffling=True,  # in the published order, as in the IDX files
                )

            def _split_generators(
                self, dl_manager: tfds.download.DownloadManager
            ) -> dict[str, Any]:
                urls = {kind: URLS[name] + file for kind, file in FILES.items()}
                paths = dl_manager.download(urls)
                return {"train": self._generate_examples(**paths)}

            def _generate_examples(self, images: Path, labels: Path) -> Iterator[tuple[int, Any]]:
                x, label = (idx.read_file(Path(p), d) for p, d in ((images, 3), (labels, 1)))
                for i, (pixels, digit) in enumerate(zip(x, label, strict=True)):
                    png = io.BytesIO()  # TFDS would encode an array, which needs TensorFlow
                    Image.fromarray(pixels).save(png, "png")
                    png.seek(0)
                    yield i, {"image": png, "label": digit}

    return Builder(data_dir=folder, file_format="array_record")


def _silence(url: str) -> str | None:
    """Returns the reason if a host does not answer within `TIMEOUT` seconds, or None if it does."""
    outcome: queue.Queue[str | None] = queue.Queue()

    def ask() -> None:
        request = urllib.request.Request(url + FILES["labels"], method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT):
                outcome.put(None)
        except urllib.error.HTTPError as error:
            error.close()
            outcome.put(f"HTTP {error.code}")
        except Exception as error:  # the reason may be any error
            outcome.put(str(getattr(error, "reason", error)))

    # A thread, because the look-up of the host's address has no time limit.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return outcome.get(timeout=TIMEOUT)
    except queue.Empty:
        return f"no answer within {TIMEOUT:g} s"

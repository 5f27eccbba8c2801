"""Reads TensorFlow Datasets without TensorFlow.

`gan_jax.run.datasets.prepare` prepares the data sets. For some of them this needs TensorFlow.
"""

import contextlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gan_jax.run.datasets import images, prepare
from gan_jax.run.datasets.types import Channels, DataError, Examples

if TYPE_CHECKING:
    import tensorflow_datasets

_READ_AT_ONCE = 1_024  # records; one at a time is five times slower


def default_dir() -> Path:
    """Returns TFDS's default data folder, without importing TFDS."""
    return Path(os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))


def find(name: str, folder: Path | None) -> Path | None:
    """Returns the folder of the newest prepared version of a data set, or None if there is none.

    Data prepared by the official builder are preferred to data prepared by our builder.

    Args:
      name: A name such as "mnist". A TFDS config follows a slash, as in "emnist/letters".
      folder: The TFDS data folder to look in first. After that, TFDS's default folder is
        searched.

    Raises:
      DataError: Several configs are prepared and the name does not say which, or a folder cannot be
        listed.
    """
    for root in [default_dir()] if folder is None else [folder, default_dir()]:
        for prepared in (root / name, root / prepare.own_name(name)):
            if found := _versions(prepared):
                return found[-1]
            configs = sorted(path.name for path in _subfolders(prepared) if _versions(path))
            if len(configs) > 1:
                raise DataError(
                    f"--data.name {name} is prepared in {prepared} as {', '.join(configs)}; "
                    f"say which, such as --data.name {name}/{configs[0]}."
                )
            if configs:
                return _versions(prepared / configs[0])[-1]
    return None


def read(
    name: str,
    folder: Path | None = None,
    size: int | None = None,
    channels: Channels | None = None,
    *,
    announce: Callable[[str], None] = print,
) -> Examples:
    """Reads the training split of a TFDS data set.

    If necessary, the data set is first downloaded and prepared.

    Args:
      name: A name that TFDS knows.
      folder: The TFDS data folder. None: TFDS's default folder.
      size: Side in pixels. Each image is cropped to a centred square and resized to this side.
        None: all images must have one size.
      channels: 1 for grey, 3 for colour. None: as in the images.
      announce: Called with a message before a download.

    Returns:
      The images, and the labels as they are stored if they are integers.

    Raises:
      DataError: There is no such data set, or it cannot be read or prepared.
    """
    prepared = find(name, folder) or prepare.prepare(name, folder or default_dir(), announce)
    try:
        return _read_prepared(prepared, size, channels)
    except DataError:
        raise
    except Exception as error:  # TFDS and array_record document no errors of their own
        raise DataError(
            f"The prepared data in {prepared} cannot be read ({error}); delete that folder."
        ) from error


def _versions(folder: Path) -> list[Path]:
    """Returns the prepared versions in a folder, oldest first.

    Unfinished versions have other names.
    """
    paths = (p for p in _subfolders(folder) if re.fullmatch(r"\d+\.\d+\.\d+", p.name))
    done = (p for p in paths if (p / "dataset_info.json").is_file())
    return sorted(done, key=lambda p: [int(n) for n in p.name.split(".")])


def _subfolders(folder: Path) -> list[Path]:
    if not os.path.isdir(folder):  # `Path.is_dir` raises for an impossible name
        return []
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror}); allow reading.") from error


def _read_prepared(prepared: Path, size: int | None, channels: Channels | None) -> Examples:
    import tensorflow_datasets as tfds

    features_file = prepared / "features.json"
    for name in _classes(json.loads(features_file.read_text())):
        if not name.startswith("tensorflow_datasets."):  # TFDS would import the module
            raise DataError(
                f"{features_file} names the class {name}, which is not part of TFDS and is not "
                "imported; choose another --data.name."
            )
    builder = tfds.builder_from_directory(prepared)
    features, splits = builder.info.features, builder.info.splits
    if "train" not in splits:
        raise DataError(f"{prepared} has no split named train, only {', '.join(splits)}.")
    fields = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = fields.get("image"), fields.get("label")
    if not isinstance(image, tfds.features.Image):
        raise DataError(
            f"{prepared} has no feature named image that is one image, only {features}; "
            "choose another --data.name."
        )
    count = splits["train"].num_examples
    if count == 0:
        raise DataError(f"{prepared} has no examples in its split train; delete that folder.")
    labels: NDArray[np.integer] | None = None
    if label is not None and label.shape == () and np.issubdtype(label.np_dtype, np.integer):
        labels = np.empty(count, label.np_dtype)

    def encoded() -> Iterator[tuple[str, bytes]]:
        for i, example in enumerate(_examples(builder, prepared)):
            if labels is not None:
                labels[i] = example["label"]
            yield f"Example {i} of {prepared}", example["image"]

    grey = image.shape[-1] == 1
    x = images.stack(encoded(), count, size, channels or (1 if grey else 3))
    if labels is None:
        return Examples(x, unlabelled=f"{prepared} has no integer feature named label")
    if isinstance(label, tfds.features.ClassLabel) and label.num_classes:
        return Examples(x, labels, tuple(label.names))
    return Examples(x, labels)


def _classes(value: Any) -> Iterator[str]:
    """Yields the names of Python classes in a features file, also those in strings of JSON."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, dict):
        for key, content in value.items():
            if key in ("pythonClassName", "python_class_name", "type") and isinstance(content, str):
                yield content
            else:
                yield from _classes(content)
    elif isinstance(value, list):
        for content in value:
            yield from _classes(content)


def _examples(
    builder: "tensorflow_datasets.core.DatasetBuilder", prepared: Path
) -> Iterator[dict[str, Any]]:
    """Yields the training examples, with their images still encoded."""
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}  # Pillow is faster than TFDS
    file_format = json.loads((prepared / "dataset_info.json").read_text()).get("fileFormat")
    if file_format == "array_record":
        source = builder.as_data_source("train", decoders=decoders)
        for start in range(0, len(source), _READ_AT_ONCE):
            end = min(start + _READ_AT_ONCE, len(source))
            yield from source.__getitems__(list(range(start, end)))
    elif file_format in (None, "tfrecord"):  # None: prepared before TFDS had other formats
        for path in builder.info.splits["train"].filepaths:
            for record in _records(Path(path)):
                yield builder.info.features.deserialize_example_np(record, decoders=decoders)
    else:
        raise DataError(
            f"{prepared} is in the format {file_format}; only array_record and tfrecord are read. "
            "Delete that folder, or prepare the data elsewhere and point --data.dir there."
        )


def _records(path: Path) -> Iterator[bytes]:
    """Yields the records of a TFRecord file.

    Each record is stored as its length (8 bytes), a checksum of the length (4 bytes), the record,
    and a checksum of the record (4 bytes).
    """
    with path.open("rb") as file:
        while header := file.read(12):
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else 0
            record = file.read(length + 4)
            if len(header) < 12 or len(record) < length + 4:
                raise DataError(f"{path} is truncated; delete its folder and prepare it again.")
            yield record[:-4]

"""Reader of the tensors in a file that `torch.save` wrote. It does not need PyTorch.

Such a file holds a pickle, and an ordinary unpickler runs the functions that a pickle names. This
one accepts the names of ordered dicts and tensors alone. It reads both formats: the zip archive of
PyTorch 1.6 and later, and the older sequence of pickles.
"""

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the older format
_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]
    numel: int


class _Tensor(NamedTuple):
    """A tensor whose values come later in the file. Strides and offset count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state(content: bytes) -> dict[str, NDArray[Any]]:
    """Returns the tensors of a saved state dict, by name, as read-only arrays.

    Args:
      content: the content of the file.

    Raises:
      ValueError: the content is not such a file, is damaged, or holds anything but tensors.
    """
    try:
        state, storages = (_read_zip if content[:2] == b"PK" else _read_sequence)(content)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}, not a dict of tensors")
        return {name: _array(name, value, storages) for name, value in dict.items(state)}
    except Exception as error:  # a damaged pickle can raise almost anything
        raise ValueError(
            f"this is not a state dict saved by PyTorch: {error or type(error).__name__}"
        ) from error


def _read_zip(content: bytes) -> tuple[Any, Callable[[str], bytes]]:
    """Returns the state and a function from a storage's key to its bytes."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    names = archive.namelist()
    (pickled,) = (name for name in names if name.count("/") == 1 and name.endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("a big-endian machine saved it")
    state = _Unpickler(io.BytesIO(archive.read(pickled))).load()
    return state, lambda key: archive.read(f"{folder}data/{key}")


def _read_sequence(content: bytes) -> tuple[Any, Callable[[str], bytes]]:
    """Returns the state and a function from a storage's key to its bytes.

    The file is five pickles (a magic number, the version, the system, the state, the keys of the
    storages) and, for each key, the number of elements and the elements.
    """
    file = io.BytesIO(content)
    if _Unpickler(file).load() != _MAGIC:
        raise ValueError("it does not begin as one")
    _version, system = (_Unpickler(file).load() for _ in range(2))
    if not system["little_endian"]:
        raise ValueError("a big-endian machine saved it")
    unpickler = _Unpickler(file)
    state, keys = unpickler.load(), _Unpickler(file).load()
    storages = {}
    for key in keys:
        (numel,) = struct.unpack("<q", file.read(8))
        storages[key] = file.read(numel * unpickler.storages[key].dtype.itemsize)
    return state, storages.__getitem__


def _array(name: object, tensor: object, storages: Callable[[str], bytes]) -> NDArray[Any]:
    if not isinstance(name, str) or not isinstance(tensor, _Tensor):
        raise ValueError(f"its entry {name!r} is a {type(tensor).__name__}, not a tensor")
    storage, offset, shape, strides = tensor
    size = storage.dtype.itemsize
    data = storages(storage.key)
    if len(data) != storage.numel * size:
        raise ValueError(f"tensor {name} is cut off")
    if math.prod(shape) == 0:
        return np.empty(shape, storage.dtype)
    # NumPy checks that no element lies outside the data.
    return np.ndarray(
        shape, storage.dtype, data, offset * size, [size * stride for stride in strides]
    )


class _Unpickler(pickle.Unpickler):
    """An unpickler of strings, numbers, containers and `_Tensor` alone."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        # Each function is made anew, so a pickle that sets its attributes changes nothing.
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return lambda storage, offset, shape, strides, *_: _Tensor(
                    storage, offset, tuple(shape), tuple(strides)
                )
            case "torch._utils", "_rebuild_parameter":
                return lambda tensor, *_: tensor
            case "torch", _ if name in _DTYPES:
                return name
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no plain tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _location, numel, *view = pid
        if kind != "storage" or any(view):
            raise pickle.UnpicklingError(f"it refers to an unknown object, {kind!r}")
        storage = _Storage(key, np.dtype(_DTYPES[storage_type]), numel)
        return self.storages.setdefault(key, storage)

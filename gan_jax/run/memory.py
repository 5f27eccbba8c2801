"""Functions that make glibc return freed memory to the system. Elsewhere they do nothing."""

import ctypes
import sys
from collections.abc import Callable

_LARGE = 4 << 20
_M_MMAP_THRESHOLD = -3  # of <malloc.h>


def return_large_buffers() -> None:
    """Makes glibc return each buffer above 4 MiB when it is freed: 35 MiB less in `mnist`.

    By default glibc raises this threshold up to 32 MiB. The setting acts on the whole process, so a
    command may change it, and a library should not.
    """
    if mallopt := _function("mallopt"):
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


def release() -> None:
    """Makes glibc return all memory that has been freed so far: 40 MiB less in `mnist`."""
    if trim := _function("malloc_trim"):
        trim(0)


def _function(name: str) -> Callable[..., int] | None:
    """The C library's function of a name, or None where it has none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None

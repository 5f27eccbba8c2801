"""Functions that make glibc return freed memory to the system. Without glibc they do nothing."""

import ctypes
import sys
from collections.abc import Callable

_LARGE = 4 << 20
_M_MMAP_THRESHOLD = -3  # from <malloc.h>


def return_large_buffers() -> None:
    """Makes glibc return each buffer above 4 MiB as soon as it is freed.

    By default glibc may raise this threshold up to 32 MiB. The experiment `mnist` uses 35 MiB less
    memory with the fixed threshold. The threshold affects the whole process, so commands may change
    it but libraries should not.
    """
    if mallopt := _function("mallopt"):
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


def release() -> None:
    """Makes glibc return all memory freed so far. This saves 40 MiB in the experiment `mnist`."""
    if trim := _function("malloc_trim"):
        trim(0)


def _function(name: str) -> Callable[..., int] | None:
    """Returns the function of glibc with this name, or None if there is no such function."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None

"""Functions that make glibc and JAX return memory that nothing uses any more."""

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax

_LARGE = 4 << 20
"""Buffers of more bytes get pages of their own. Those of a small GAN's state are smaller, and the
scratch space of a step is larger."""

_M_MMAP_THRESHOLD = -3  # of <malloc.h>


def return_large_buffers() -> None:
    """Makes glibc return every buffer above 4 MiB to the system as soon as it is freed.

    By default glibc raises this threshold, up to 32 MiB, when it first frees such a buffer, and
    then keeps smaller ones, for each thread that had one. The setting is the whole process's, so
    a command may change it, and a library should not.
    """
    if mallopt := _function("mallopt"):
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


def compiled(function: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[..., Any]:
    """The function compiled for arguments like these. It accepts no others.

    `jax.jit` also keeps what it compiled a function from, at least 1.4 MiB, in case it is called
    with other shapes. This does not, which suits a process that always calls it with the same.

    Args:
      function: a pure function.
      arguments: arrays, or trees of arrays, with the shapes, types and shardings of later calls.
      options: of `jax.jit`.
    """

    @functools.wraps(function)
    def once(*arguments: Any) -> Any:
        return function(*arguments)  # JAX frees what it keeps for a function when that is deleted

    return jax.jit(once, **options).lower(*arguments).compile()


def release() -> None:
    """Makes glibc return to the system all memory that has been freed so far.

    A compilation uses and frees some hundred MiB. glibc keeps this memory although nothing reuses
    it.
    """
    if trim := _function("malloc_trim"):
        trim(0)


def forget() -> None:
    """Clears JAX's caches of traced functions and returns their memory, about ten MiB.

    It acts on the whole process, so it is for a command that has compiled all it needs, not for a
    library. A function under `jax.jit` is then traced again when it is called; one that `compiled`
    returned is not.
    """
    jax.clear_caches()
    release()


def _function(name: str) -> Callable[..., int] | None:
    """The C library's function of a name, or None where it has none (it is not glibc)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None

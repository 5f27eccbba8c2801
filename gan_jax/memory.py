"""What is no longer used is given back: by the C library (glibc) to the system, and by JAX."""

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax

_LARGE = 4 << 20
"""Bytes above which a buffer is worth its own pages: a state's are smaller, a step's scratch space
is larger."""

_M_MMAP_THRESHOLD = -3  # of <malloc.h>


def return_large_buffers() -> None:
    """From now on a buffer above 4 MiB goes back to the system when it is freed.

    By itself glibc does so only until the first is freed, and then keeps them up to 32 MiB, once
    for every thread that had one. It is a setting of the whole process: for a command, not for a
    library to make.
    """
    if mallopt := _function("mallopt"):
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


def compiled(function: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[..., Any]:
    """The function compiled for arguments like these, and for no others.

    Of a function under `jax.jit` JAX keeps, besides the machine's code, what that was made from:
    1.4 MiB for the smallest. Here it is let go, for what a process calls with the same shapes
    throughout.

    Args:
      function: pure.
      arguments: arrays, or trees of them, of the shapes, types and places to come.
      options: of `jax.jit`.
    """

    @functools.wraps(function)
    def once(*arguments: Any) -> Any:
        return function(*arguments)  # JAX forgets what it keeps for a function when that is gone

    return jax.jit(once, **options).lower(*arguments).compile()


def release() -> None:
    """Returns what has been freed so far.

    What a compilation has used and freed, some hundred MiB, is kept for as long as it may be of use
    again, which is never.
    """
    if trim := _function("malloc_trim"):
        trim(0)


def forget() -> None:
    """Has JAX forget what it has traced, and returns that, some ten MiB.

    Of the whole process: for a command that has compiled all it needs, not for a library. What is
    called under `jax.jit` from here on is traced anew; what is `compiled` stays.
    """
    jax.clear_caches()
    release()


def _function(name: str) -> Callable[..., int] | None:
    """glibc's, or None where the C library is another one."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None

"""The C library returns freed memory: ten buffers below one that stays, in a new process."""

import subprocess
import sys

import pytest

from gan_jax.run import memory

SCRIPT = """
import ctypes, sys
from pathlib import Path
from gan_jax.run import memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

def buffer(size):
    address = libc.malloc(size)
    ctypes.memset(address, 1, size)
    return address

exec(sys.argv[1])
libc.free(buffer(8 << 20))  # glibc keeps buffers of this size from here on
before = resident()
buffers = [buffer(8 << 20) for _ in range(10)]
stays = buffer(3 << 20)  # above them
for address in buffers:
    libc.free(address)
exec(sys.argv[2])
print(resident() - before - 3)
"""

pytestmark = pytest.mark.skipif(
    memory._function("mallopt") is None, reason="only glibc has to be asked"
)


def kept(first="", last=""):
    """Returns the MiB, of eighty, that a process still holds after they were freed."""
    command = [sys.executable, "-c", SCRIPT, first, last]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_glibc_keeps_what_is_freed():
    assert kept() > 70


def test_large_buffers_go_back():
    assert kept(first="memory.return_large_buffers()") < 10


def test_a_release_gives_back_all():
    assert kept(last="memory.release()") < 10

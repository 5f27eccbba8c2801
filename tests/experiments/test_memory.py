"""The C library gives freed memory back: ten buffers below one that stays, in a fresh process. JAX
lets go of what a program was made from."""

import gc
import subprocess
import sys
import weakref

import jax
import numpy as np
import pytest
from jax.extend.core import Jaxpr

from gan_jax._cpu import memory

SCRIPT = """
import ctypes, sys
from pathlib import Path
from gan_jax._cpu import memory

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
    """MiB of eighty that a process still has when they are freed."""
    command = [sys.executable, "-c", SCRIPT, first, last]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_glibc_keeps_what_is_freed():
    assert kept() > 70


def test_large_buffers_go_back():
    assert kept(first="memory.return_large_buffers()") < 10


def test_a_release_gives_back_all():
    assert kept(last="memory.release()") < 10


def test_what_is_compiled_ahead_lets_go_of_the_function():
    def double(x):
        return 2 * x

    program = memory.compiled(double, np.float32(1))
    function = weakref.ref(double)
    del double
    gc.collect()
    assert function() is None
    assert program(np.float32(3)) == 6


@pytest.mark.parametrize(
    ("compiled", "kept"),
    [(memory.compiled, 0), (lambda function, x: jax.jit(function).lower(x).compile(), 1)],
    ids=["here", "by JAX alone"],
)
def test_what_a_program_was_made_from_is_let_go_while_the_function_lives(compiled, kept):
    def rare(x):
        return jax.lax.bessel_i0e(x)  # nothing else here has it

    program = compiled(rare, np.float32(1))
    gc.collect()
    found = [thing for thing in gc.get_objects() if isinstance(thing, Jaxpr)]
    names = [equation.primitive.name for jaxpr in found for equation in jaxpr.eqns]
    assert ("bessel_i0e" in names) == kept
    np.testing.assert_allclose(program(np.float32(0)), rare(0.0))


def test_what_is_forgotten_is_traced_anew_and_what_is_compiled_stays():
    """In an interpreter of its own, for it is the whole process that forgets."""
    code = (
        "import jax, jax.numpy as jnp\n"
        "from gan_jax._cpu import memory\n"
        "traced = []\n"
        "def double(x):\n"
        "    traced.append(x)\n"
        "    return 2 * x\n"
        "x = jnp.ones(3)\n"
        "jitted, kept = jax.jit(double), memory.compiled(double, x)\n"
        "jitted(x), jitted(x), kept(x)\n"
        "print(len(traced))\n"
        "memory.forget()\n"
        "print(float(kept(x).sum()), len(traced))\n"
        "print(float(jitted(x).sum()), len(traced))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["2", "6.0", "2", "6.0", "3"]

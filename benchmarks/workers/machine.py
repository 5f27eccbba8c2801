"""Measurements of the machine: matrix products by two libraries, and copies of large arrays.

`gemm_jax` and `gemm_torch` multiply 2048x2048 matrices in float32. `copy` copies 256 MiB with one
thread per core.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.workers.protocol import Loop, Losses, cores, serve

SIDE = 2048
GEMM_FLOPS = 2 * SIDE**3
COPY_BYTES = 2 * 2**28
"""Bytes read and written by one copy. Additional traffic of the caches is not counted."""


def _gemm_jax() -> Callable[[int], object]:
    import jax

    multiply = jax.jit(lambda x, y: x @ y)
    x = jax.numpy.asarray(_matrix())

    def repeat(times: int) -> object:
        y = x
        for _ in range(times):
            y = multiply(x, y)
        return jax.block_until_ready(y)

    return repeat


def _gemm_torch() -> Callable[[int], object]:
    import torch

    torch.set_num_threads(cores())
    x = torch.from_numpy(_matrix())
    made = torch.empty_like(x), torch.empty_like(x)

    def repeat(times: int) -> object:
        y = x
        for i in range(times):
            y = torch.mm(x, y, out=made[i % 2])
        return y

    return repeat


def _matrix() -> np.ndarray:
    """Returns a matrix with spectral radius 1, whose powers neither grow nor vanish."""
    rng = np.random.default_rng(0)
    return rng.normal(0.0, SIDE**-0.5, (SIDE, SIDE)).astype(np.float32)


def _copy() -> Callable[[int], object]:
    threads = cores()
    source = np.ones(COPY_BYTES // 2, np.uint8)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    pool = ThreadPoolExecutor(threads)

    def repeat(times: int) -> object:
        for _ in range(times):
            list(pool.map(lambda part: np.copyto(*part), parts))
        return target

    return repeat


_MAKE = {"gemm_jax": _gemm_jax, "gemm_torch": _gemm_torch, "copy": _copy}


def build(name: str) -> Loop:
    """Returns the loop of one measurement, whose steps are products or copies."""
    repeat = _MAKE[name]()

    def loop(steps: int) -> tuple[int, Losses]:
        repeat(steps)
        return steps, {}

    return loop


if __name__ == "__main__":
    serve(build, {}, read=lambda request: request["contender"])

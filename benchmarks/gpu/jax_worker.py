"""The worker of this library for `benchmarks.gpu.speed`: the usual loop and two others.

`gan_jax` and `gan_jax_N` (N GANs in one program) are those of `benchmarks.workers.jax_library`.
`gan_jax_scan` runs its steps in a `lax.scan`, and `gan_jax_calls` makes one call per step. Both use
one fixed batch, which shows the cost of the loop itself.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.cases import Case
from benchmarks.gpu.request import read
from benchmarks.library import initial_state, library_gan, train_step
from benchmarks.workers import jax_library
from benchmarks.workers.protocol import Loop, Losses, Setting, check, serve
from gan_jax import Batch, mixed_precision, parallel
from gan_jax.types import StepFn, TrainState

SCANNED = 50
"""Number of steps in one `lax.scan`."""

THREADS = 6
"""Number of programs compiled at once."""


def build(setting: Setting) -> Loop:
    """Returns the loop of a contender. Its products have the precision of the setting."""
    precision = "highest" if setting.precision == "float32" else "default"
    with jax.default_matmul_precision(precision):
        bare = setting.contender in ("gan_jax_scan", "gan_jax_calls")
        loop = _bare(setting) if bare else jax_library.build(setting)

    def precise(steps: int) -> tuple[int, Losses]:
        with jax.default_matmul_precision(precision):
            return loop(steps)

    return precise


def training(case: Case, precision: str) -> tuple[TrainState, StepFn]:
    """Returns the initial state and the train step of the library's model."""
    gan = library_gan(case)
    if precision == "bfloat16":
        gan = mixed_precision(gan)
    return jax.jit(partial(initial_state, case, gan))(jax.random.key(0)), train_step(case, gan)


def real(case: Case, batch_size: int) -> Batch:
    """Returns a batch [1, B, ...] of noise on the device."""
    x = np.random.default_rng(0).uniform(-1, 1, (1, batch_size, *case.shape))
    return Batch(jax.device_put(x.astype(np.float32)))


def _bare(setting: Setting) -> Loop:
    state, step = training(setting.case, setting.precision)
    batch = real(setting.case, setting.problem.batch_size)
    one = parallel.jit_step(step)
    many = parallel.jit_step(
        lambda state, batch: jax.lax.scan(lambda s, _: step(s, batch), state, length=SCANNED)
    )

    def loop(steps: int) -> tuple[int, Losses]:
        nonlocal state
        scanned = setting.contender == "gan_jax_scan"
        calls = -(-steps // SCANNED) if scanned else steps
        for _ in range(calls):
            state, metrics = (many if scanned else one)(state, batch)
        names = ("discriminator_loss", "generator_loss")
        last = {name: float(metrics[name][-1] if scanned else metrics[name]) for name in names}
        jax.block_until_ready(state)
        return calls * (SCANNED if scanned else 1), last

    return loop


def warm() -> None:
    """Compiles the programs for the requests on standard input into JAX's cache."""

    def one(request: dict[str, Any]) -> None:
        setting = read(request)
        build(setting)(1)
        if request["checked"]:
            check(build, setting, 1)

    with ThreadPoolExecutor(THREADS) as pool:
        for made in [pool.submit(one, json.loads(line)) for line in sys.stdin]:
            made.exception()  # the worker will report the same error


if __name__ == "__main__":
    if sys.argv[1:] == ["warm"]:
        warm()
    else:
        serve(build, {"jax": jax.__version__}, read)

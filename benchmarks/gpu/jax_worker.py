"""The worker of this library for `benchmarks.gpu.speed`: the usual loop and two others.

`gan_jax` and `gan_jax_N` (N GANs in one program) are those of `benchmarks.workers.jax_library`.
`gan_jax_scan` runs its steps in a `lax.scan`, and `gan_jax_calls` makes one call per step. Both use
one fixed batch, which shows the cost of the loop itself.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gan_jax
from benchmarks import cases
from benchmarks.gpu.request import read, requests
from benchmarks.workers import jax_library
from benchmarks.workers.protocol import Loop, Losses, Setting, serve
from gan_jax import Batch, losses, mixed_precision, parallel
from gan_jax.models import MODELS
from gan_jax.optimizers import adam
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


def training(case: cases.Case, precision: str) -> tuple[TrainState, StepFn]:
    """Returns a DCGAN's initial state and its train step, as a user of this library writes them."""
    gan = MODELS["dcgan"](case.shape, latent=case.latent, width=case.widths[0])
    if precision == "bfloat16":
        gan = mixed_precision(gan)
    tx = adam(cases.LEARNING_RATE, b1=cases.BETA_1, b2=cases.BETA_2)
    step = gan_jax.make_train_step(
        gan_jax.make_discriminator_step(gan, losses.non_saturating, tx),
        gan_jax.make_generator_step(gan, losses.non_saturating, tx),
    )

    @jax.jit
    def first(key: jax.Array) -> TrainState:
        return gan_jax.init(gan, tx, tx, key, Batch(jnp.zeros((1, *case.shape))))

    return first(jax.random.key(0)), step


def real(setting: Setting) -> Batch:
    """Returns a batch [1, B, ...] on the device."""
    x = np.random.default_rng(0).uniform(
        -1, 1, (1, setting.problem.batch_size, *setting.case.shape)
    )
    return Batch(jax.device_put(x.astype(np.float32)))


def _bare(setting: Setting) -> Loop:
    state, step = training(setting.case, setting.precision)
    batch = real(setting)
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
            case = setting.case.without_dropout()
            build(setting._replace(case=case, fixed=True))(1)

    with ThreadPoolExecutor(THREADS) as pool:
        for made in [pool.submit(one, request) for request in requests(sys.stdin)]:
            made.exception()  # the worker will report the same error


if __name__ == "__main__":
    if sys.argv[1:] == ["warm"]:
        warm()
    else:
        serve(build, {"jax": jax.__version__}, read)

"""What a CPU's cores are used for, where XLA's own choice is not the quickest.

All of it is for one program or one process, does nothing on a GPU or TPU, and leaves results as
they are, to rounding. `gan_jax.parallel` has it under its own name.
"""

import os
from collections.abc import Mapping
from contextlib import suppress

import jax

_XLA_FLAG = "xla_force_host_platform_device_count"
_XLA_THREADS = "PJRT_NPROC", "NPROC"

EIGEN: Mapping[str, str] = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""Compiler options that have a CPU take matrix products from Eigen, which spreads one of some
hundred rows and columns over the cores, where by default several run at once, each on one. Faster
where products wait for each other, as in a small MLP at a batch of hundreds; slower elsewhere."""


def use_every_core() -> None:
    """Makes each core of a CPU a device of its own, for members of an ensemble or parts of a batch.

    Whoever has set JAX_NUM_CPU_DEVICES, or XLA's flag of the same effect, has the number they set.
    Too late, and without effect, once JAX has been at work in this process.
    """
    if jax.config.values["jax_num_cpu_devices"] > 0 or _XLA_FLAG in os.environ.get("XLA_FLAGS", ""):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores or 1)


def use_one_core() -> None:
    """Has XLA compute on one thread: for one small GAN, whose operations are too short to share.

    Where a dozen of them could begin, XLA wakes a second thread, which takes longer than they do,
    and what it works out the first one finds in another core's cache. An MLP of 128 features at a
    batch of 64 gains a twentieth; larger ones lose.

    It sets PJRT_NPROC in `os.environ`, for child processes too. Whoever has set that or NPROC has
    the number they set. Too late, and without effect, once JAX has been at work in this process.
    """
    if not any(name in os.environ for name in _XLA_THREADS):
        os.environ[_XLA_THREADS[0]] = "1"

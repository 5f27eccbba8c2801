"""Settings that make small networks faster on a CPU, where XLA's defaults do not suit them.

Each applies to one program or one process, has no effect on a GPU or TPU, and changes results by
rounding only. `gan_jax.parallel` exports them.
"""

import os
from collections.abc import Mapping
from contextlib import suppress

import jax

_XLA_FLAG = "xla_force_host_platform_device_count"
_XLA_THREADS = "PJRT_NPROC", "NPROC"

EIGEN: Mapping[str, str] = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""Compiler options that make a CPU compute matrix products with Eigen, which splits a product of
some hundred rows and columns over the cores. By default several products run at once, each on one
core. Eigen is faster where products depend on each other, as in a small MLP at a batch of hundreds;
it is slower elsewhere."""


def use_every_core() -> None:
    """Makes each core of a CPU a JAX device, for the members of an ensemble or shards of a batch.

    If JAX_NUM_CPU_DEVICES is set, or the flag of XLA that does the same, that number stays. Call
    this before the process first uses JAX; afterwards it has no effect.
    """
    if jax.config.values["jax_num_cpu_devices"] > 0 or _XLA_FLAG in os.environ.get("XLA_FLAGS", ""):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores or 1)


def use_one_core() -> None:
    """Makes XLA compute on one thread, for one small GAN whose operations are very short.

    By default XLA wakes a second thread where a dozen operations could run, which takes longer
    than these operations do and moves their data to another core's cache. An MLP of 128 features
    at a batch of 64 becomes about 5 % faster; larger networks become slower.

    It sets PJRT_NPROC in `os.environ`, for child processes too. If that or NPROC is set already,
    it stays. Call this before the process first uses JAX; afterwards it has no effect.
    """
    if not any(name in os.environ for name in _XLA_THREADS):
        os.environ[_XLA_THREADS[0]] = "1"

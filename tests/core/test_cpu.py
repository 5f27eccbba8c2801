"""What a CPU's cores are used for: devices, one thread, another library's products."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax import parallel

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
SETTINGS = ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "PJRT_NPROC", "NPROC")


def printed(code, environment):
    """What a new process prints that has of the settings those of the environment and no others."""
    unset = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=unset | environment | {"JAX_PLATFORMS": "cpu"},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, CORES),
        ({"JAX_NUM_CPU_DEVICES": "3"}, 3),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3),
    ],
)
def test_every_core_is_a_device_unless_the_user_says_how_many_there_are(environment, expected):
    code = (
        "import jax; from gan_jax import parallel\n"
        "parallel.use_every_core(); print(jax.device_count())"
    )
    assert printed(code, environment) == [str(expected)]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux tells threads' names")
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 1),
        ({"NPROC": "3"}, 3),
        ({"PJRT_NPROC": "3"}, 3),
        ({"PJRT_NPROC": "3", "NPROC": "2"}, 3),
    ],
)
def test_xla_has_one_thread_unless_the_user_says_how_many(environment, expected):
    code = (
        "import jax; from pathlib import Path; from gan_jax import parallel\n"
        "parallel.use_one_core(); jax.block_until_ready(jax.numpy.ones(3))\n"
        "names = [task.read_text() for task in Path('/proc/self/task').glob('*/comm')]\n"
        "print(sum('XLAEigen' in name for name in names))"
    )
    assert printed(code, environment) == [str(expected)]


def test_eigens_products_are_the_default_ones_to_rounding():
    x = jax.random.normal(jax.random.key(0), (512, 128))
    kernel = jax.random.normal(jax.random.key(1), (128, 128))

    def step(state, batch):
        return state, batch @ state

    _, made = parallel.jit_step(step, compiler_options=parallel.EIGEN)(jnp.copy(kernel), x)
    np.testing.assert_allclose(made, np.float64(x) @ np.float64(kernel), atol=1e-4)

"""The use of CPU cores: devices, one thread, and the matrix products of another library."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gan_jax
from gan_jax import _cpu, parallel
from gan_jax.nn.conv import conv

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
SETTINGS = ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "PJRT_NPROC", "NPROC")


def printed(code, environment):
    """Returns the words that a new process prints. Its `SETTINGS` come from `environment` only."""
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
        pytest.param({"PJRT_NPROC": "3"}, 3, marks=pytest.mark.slow),
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


def _program(form):
    """Returns a function of two arrays that uses a form, and arguments for it."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 32))
    kernel = jax.random.normal(jax.random.key(1), (4, 4, 32, 32))
    if form == "convolutions":
        return lambda x, kernel: conv(x, kernel, strides=(2, 2), padding=(1, 1)), (x, kernel)
    if form == "dense":
        layer = gan_jax.nn.Dense(2)
        return layer.apply, (layer.init(jax.random.key(2), x), x)
    if form == "keys":
        step_key = gan_jax.random.for_step(jax.random.key(3))
        return lambda key, x: jax.random.normal(key, x.shape) + x, (step_key, x)
    tx = gan_jax.optimizers.adam(0.1)
    return lambda g, state: tx.update(g, state)[0], (kernel, tx.init(kernel))


@pytest.mark.parametrize("form", _cpu.FORMS)
def test_a_form_changes_the_program_and_not_its_results(form):
    function, arguments = _program(form)
    jitted = jax.jit(function)
    with_all, made = jitted.lower(*arguments).as_text(), jitted(*arguments)
    with _cpu.only():
        with_none, expected = jitted.lower(*arguments).as_text(), jitted(*arguments)
    with _cpu.only(form):
        assert jitted.lower(*arguments).as_text() == with_all
    assert with_all != with_none
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=2e-4)


def test_a_form_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"among .*'adam'.*got \['conv'\]"):
        _cpu.only("conv")

"""Settings and fixtures of all tests: eight CPU devices, no silent rank promotion, a linear GAN.

Most of the tests' time is compiling. XLA compiles twice as fast with the flags below, which exist
in JAX 0.10 only. `XLA_FLAGS= pytest` tests the programs that users get.
"""

import os
from importlib.metadata import version

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
if version("jax").startswith("0.10."):
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags)
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")  # what is compiled here is not kept

import jax
import jax.numpy as jnp
import pytest
from small_runs import compiled_in_a_hurry

from gan_jax import GAN, Network, priors

jax.config.update("jax_numpy_rank_promotion", "raise")


def _record(model_state, array):
    """The last two arrays a network was applied to, for a test to read in its model state."""
    return {"before": model_state["last"], "last": array}


def _linear_generator() -> Network:
    def init(key, z, label=None):
        weights = jax.random.normal(key, (z.shape[1], z.shape[1]), z.dtype)
        blank = jnp.zeros_like(z)
        params = {"A": weights, "b": jnp.zeros(z.shape[1], z.dtype)}
        return params, {"before": blank, "last": jnp.copy(blank)}

    def apply(params, model_state, z, label=None, *, train, key=None):
        return z @ params["A"].T + params["b"][None], _record(model_state, z)

    return Network(init, apply)


def _linear_discriminator() -> Network:
    def init(key, x, label=None):
        blank = jnp.zeros_like(x)
        params = {"w": jax.random.normal(key, x.shape[1:], x.dtype), "c": jnp.zeros((), x.dtype)}
        return params, {"before": blank, "last": jnp.copy(blank)}

    def apply(params, model_state, x, label=None, *, train, key=None):
        return x @ params["w"] + params["c"], _record(model_state, x)

    return Network(init, apply)


@pytest.fixture(scope="session")
def linear_gan() -> GAN:
    """x = A z + b against logit = w.x + c, x and z [B, 2]: bare pairs of functions, no Flax.

    Each network's model state holds the last two arrays it was applied to, so that a test sees
    what a step drew without repeating how it drew it: after a D step, D's are real and fake;
    after a G step, G's last is z.
    """
    return GAN(_linear_generator(), _linear_discriminator(), priors.normal(2))


@pytest.fixture
def quick_compile():
    """Spends less on compiling, for tests that compile much and compute little."""
    with compiled_in_a_hurry():
        yield


@pytest.fixture
def compiled():
    """The names of the programs that were compiled, in order."""
    names = []

    def listen(event, duration, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)

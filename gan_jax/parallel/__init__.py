"""Wrappers that run one pure step on many devices. Only this package uses pmap and meshes.

Every wrapper takes a pure function `(state, batch) -> (state, metrics)`: D's step, G's step, the
train step or a fused loop of train steps. It returns a compiled function with the same signature on
*global* arrays: the whole state and the whole batch. The wrappers are interchangeable, and the
number of devices does not change the result.

The state is donated, so the caller cannot use the passed state after the call. If two leaves of the
state share a buffer, as after `state.replace(ema_params=state.generator.params)`, the wrapper first
copies one of the two.
"""

from gan_jax.buffers import Step
from gan_jax.parallel.arrays import has_explicit_axes, split_alike, spread, spread_like
from gan_jax.parallel.devices import AXIS_NAME, check_batch_size, check_divisible
from gan_jax.parallel.ensemble import ensemble_step
from gan_jax.parallel.gather import gathered
from gan_jax.parallel.jit import jit_step
from gan_jax.parallel.layouts import AXIS_NAMES, describe, make_step, num_devices, place
from gan_jax.parallel.pmap import pmap_step
from gan_jax.parallel.shard import shard_step
from gan_jax.parallel.threads import EIGEN, use_every_core, use_one_core

__all__ = [
    "AXIS_NAME",
    "AXIS_NAMES",
    "EIGEN",
    "Step",
    "check_batch_size",
    "check_divisible",
    "describe",
    "ensemble_step",
    "gathered",
    "has_explicit_axes",
    "jit_step",
    "make_step",
    "num_devices",
    "place",
    "pmap_step",
    "shard_step",
    "split_alike",
    "spread",
    "spread_like",
    "use_every_core",
    "use_one_core",
]

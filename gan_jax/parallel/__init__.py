"""Wrappers that run one pure step on many devices. No other room uses pmap or meshes.

Every wrapper takes a pure `(state, batch) -> (state, metrics)`: D's step, G's step, the whole train
step or a fused chunk of train steps. It returns a compiled function of the same signature on
*global* arrays: whole state in, whole batch in, whole state out. The wrappers are interchangeable,
and the number of devices does not change the result.

The state is donated: the one passed in cannot be used after the call. If two of its leaves share a
buffer, as under `state.replace(ema_params=state.generator.params)`, the second is copied first.
"""

from gan_jax.buffers import Step
from gan_jax.parallel.arrays import has_explicit_axes, split_alike, spread, spread_like
from gan_jax.parallel.devices import AXIS_NAME, check_batch_size, check_divisible
from gan_jax.parallel.ensemble import ensemble_step
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

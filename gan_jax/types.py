"""The contract: what a network, a GAN, a loss, a state and a step are, with their shapes.

A GAN is two pure networks and a prior. A training step is a pure function
`(TrainState, Batch) -> (TrainState, Metrics)`, the carry signature of `lax.scan`, so that
`jit`, `scan`, `vmap`, `pmap`, `shard_map` and `grad` all apply to it as it stands.

Shapes: B examples in a batch, L latent dimensions, `...` the shape of one example
([H, W, C] for images, float in [-1, 1]).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax

type_ = type
Array = jax.Array
PyTree = Any
Params = PyTree
ModelState = PyTree
Metrics = Mapping[str, Array]


class Network(NamedTuple):
    """A neural network as two pure functions; any such pair will do, with Flax or without.

    Attributes:
      init: `(key, x, label=None) -> (params, model_state)`. `x` is an example batch.
      apply: `(params, model_state, x, label=None, *, train, key=None) -> (y, model_state)`.
        `model_state` holds what is not trained by gradients, such as running statistics;
        `key` feeds what is random, such as dropout.
    """

    init: Callable[..., tuple[Params, ModelState]]
    apply: Callable[..., tuple[Array, ModelState]]

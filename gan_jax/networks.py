"""From a neural network library's module to a `Network`."""

import inspect
from typing import Any

import flax.linen as nn

from gan_jax.types import Array, Network, PyTree


def from_linen(module: nn.Module) -> Network:
    """The pure functions of a Flax Linen module.

    The module is called as `module(x)`, with `label=` and `train=` added if its `__call__` takes
    arguments of these names (a catch-all `**kwargs` does not count): a module without `label`
    ignores labels. Every collection but
    `params` is `model_state`. All its random draws come from the step's key.

    `nn.Dropout` draws one mask for the batch it sees, so under a mapped axis every shard would
    repeat that mask: `gan_jax.models.layers.Dropout` draws by the global index instead. Give
    `nn.BatchNorm` its own `axis_name`.
    """
    parameters = inspect.signature(type(module).__call__).parameters

    def accepted(**arguments: Any) -> dict[str, Any]:
        return {
            name: value
            for name, value in arguments.items()
            if value is not None and name in parameters
        }

    def init(key: Array, x: Array, label: Array | None = None) -> tuple[PyTree, PyTree]:
        variables = dict(module.init(key, x, **accepted(label=label, train=True)))
        params = variables.pop("params", {})
        return params, variables

    def apply(
        params: PyTree,
        model_state: PyTree,
        x: Array,
        label: Array | None = None,
        *,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Array, PyTree]:
        y, updated = module.apply(
            {"params": params, **model_state},
            x,
            **accepted(label=label, train=train),
            # Linen falls back on the stream "params" for every stream that is not named.
            rngs=None if key is None else {"params": key},
            mutable=list(model_state) if train else [],
        )
        return y, {**model_state, **updated}

    return Network(init, apply)

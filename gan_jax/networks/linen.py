"""From a Flax Linen module to a `Network`."""

import flax.linen as nn

from gan_jax.networks.arguments import accepted_by
from gan_jax.types import Array, Network, PyTree


def from_linen(module: nn.Module, *, label: str | None = "label") -> Network:
    """The pure functions of a Flax Linen module.

    The module is called as `module(x)`, with further arguments if its `__call__` names them: the
    labels, if the batch has any; `train`, `training` and `is_training`, true in training;
    `deterministic`, `use_running_average` and `inference`, true in evaluation. Nothing is passed to
    a catch-all `**kwargs`. A module that names no further argument ignores labels. Every collection
    but `params` is `model_state`. All its random draws come from the step's key.

    `nn.Dropout` draws one mask for the batch it sees, so under a mapped axis every shard would
    repeat that mask: `gan_jax.nn.Dropout` draws by the global index instead. Give
    `nn.BatchNorm` its own `axis_name`. `nn.Embed` returns NaN for a label that is out of range.

    Args:
      module: any; x is its first argument.
      label: the name of the argument that takes the labels. None: labels are ignored.

    Raises:
      ValueError: `label` is not the default and names no argument of the module; (on a call) the
        batch has labels, and the module has no argument `label`, but another that may be meant for
        them.
    """
    accepted = accepted_by(type(module), label, "from_linen(module")

    def init(key: Array, x: Array, label: Array | None = None) -> tuple[PyTree, PyTree]:
        variables = dict(module.init(key, x, **accepted(label, train=True)))
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
            **accepted(label, train=train),
            # Linen falls back on the stream "params" for every stream that is not named.
            rngs=None if key is None else {"params": key},
            mutable=list(model_state) if train else [],
        )
        return y, {**model_state, **updated}

    return Network(init, apply)

"""From a Flax Linen module to a `Network`."""

import inspect
from typing import Any

import flax.linen as nn

from gan_jax.types import Array, Network, PyTree

_MODES = {
    **dict.fromkeys(("train", "training", "is_training"), True),
    **dict.fromkeys(("deterministic", "use_running_average"), False),
}
"""Names of the mode argument in Linen modules, each with its value in training."""


def from_linen(module: nn.Module, *, label: str | None = "label") -> Network:
    """The pure functions of a Flax Linen module.

    The module is called as `module(x)`, with further arguments if its `__call__` names them: the
    labels, if the batch has any; `train`, `training` and `is_training`, true in training;
    `deterministic` and `use_running_average`, true in evaluation. Nothing is passed to a catch-all
    `**kwargs`. A module that names no further argument ignores labels. Every collection but
    `params` is `model_state`. All its random draws come from the step's key.

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
    called = f"{type(module).__name__}.__call__"
    _, _, *further = inspect.signature(type(module).__call__).parameters.values()
    names = [a.name for a in further if a.kind in (a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY)]
    shown = [str(a.replace(annotation=a.empty)) for a in further if a.name not in _MODES]
    if label not in (None, "label", *names):
        raise ValueError(
            f"label must be the name of an argument of {called}, got {label!r}: besides its input "
            f"and the mode it has {', '.join(shown) or 'none'}"
        )

    def accepted(labels: Array | None, train: bool) -> dict[str, Any]:
        given: dict[str, Any] = {
            name: train == in_training for name, in_training in _MODES.items() if name in names
        }
        if labels is None or label is None:
            return given
        if label in names:
            return {**given, label: labels}
        if shown:
            raise ValueError(
                f"the batch has labels, but {called} has no argument 'label', and nothing is given "
                f"to {', '.join(shown)}: name the argument that takes the labels, "
                "from_linen(module, label=...), or ignore labels, from_linen(module, label=None)"
            )
        return given

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

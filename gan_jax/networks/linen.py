"""From a Flax Linen module to a `Network`."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import flax.linen as nn

from gan_jax import batches
from gan_jax.networks.arguments import accepted_by
from gan_jax.types import Array, Network, PyTree


def _refuse_layers_of_a_part(
    call: Callable[..., Any], arguments: Any, options: Any, context: nn.module.InterceptorContext
) -> Any:
    """Raises ValueError for a layer whose result would depend on how the batch is split."""
    layer, axis_name = context.module, batches.axis()
    if context.method_name == "__call__":
        kind = type(layer).__name__
        if isinstance(layer, nn.BatchNorm) and layer.axis_name is None and axis_name is not None:
            raise ValueError(
                f"{kind} has no axis_name, but the step has axis_name={axis_name!r}, so each "
                f"device would take statistics of its own examples only: use nn.{kind}"
                f"(axis_name={axis_name!r}), or gan_jax.nn.BatchNorm, which learns it from the step"
            )
        off = getattr(layer, "deterministic", False) or options.get("deterministic", False)
        if isinstance(layer, nn.Dropout) and layer.rate > 0 and not off:
            raise ValueError(
                f"{kind} would draw the same mask for each part of the batch (axis_name="
                f"{axis_name!r}, or accumulate above 1): use gan_jax.nn.Dropout, which draws by "
                "the example's index in the whole batch"
            )
    return call(*arguments, **options)


def from_linen(module: nn.Module, *, label: str | None = "label") -> Network:
    """The pure functions of a Flax Linen module.

    The module is called as `module(x)`, with further arguments if its `__call__` names them: the
    labels, if the batch has any; `train`, `training` and `is_training`, true in training;
    `deterministic`, `use_running_average` and `inference`, true in evaluation. Nothing is passed to
    a catch-all `**kwargs`. A module that names no further argument ignores labels. Every collection
    but `params` is `model_state`. All its random draws come from the step's key.

    In a step whose batch is split, `nn.Dropout` is refused, which would draw the same mask for each
    shard and each microbatch, and under a mapped axis (`pmap`, `shard_map`) `nn.BatchNorm` without
    an `axis_name`, which would see one shard only. `gan_jax.nn.Dropout` and `gan_jax.nn.BatchNorm`
    know how the batch is split. `nn.Embed` returns NaN for a label that is out of range.

    Args:
      module: any; x is its first argument.
      label: the name of the argument that takes the labels. None: labels are ignored.

    Raises:
      ValueError: `label` is not the default and names no argument of the module; (on a call) the
        batch has labels, and the module has no argument `label`, but another that may be meant for
        them.
    """
    accepted = accepted_by(type(module), label, "from_linen(module")

    def init(key: Array, x: PyTree, label: PyTree | None = None) -> tuple[PyTree, PyTree]:
        variables = dict(module.init(key, x, **accepted(label, train=True)))
        params = variables.pop("params", {})
        variables.pop("intermediates", None)  # what `sow` collects would grow with each pass
        return params, variables

    def apply(
        params: PyTree,
        model_state: PyTree,
        x: PyTree,
        label: PyTree | None = None,
        *,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Any, PyTree]:
        split = train and batches.is_split()
        with nn.intercept_methods(_refuse_layers_of_a_part) if split else nullcontext():
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

"""The adapter for Flax Linen modules."""

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
                f"{kind} has no axis_name, but the step has axis_name={axis_name!r}. Each device "
                f"would compute statistics of its own examples only: use nn.{kind}"
                f"(axis_name={axis_name!r}), or gan_jax.nn.BatchNorm, which reads it from the step"
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
    """Returns the `Network` of a Flax Linen module.

    The module is called as `module(x)`. It also receives the labels of the batch and the mode, if
    its `__call__` has arguments for them. The mode arguments `train`, `training` and `is_training`
    are True in training. The mode arguments `deterministic`, `use_running_average` and `inference`
    are True in evaluation. Nothing is passed to a catch-all `**kwargs`. A module without further
    arguments ignores labels. All collections except `params` form `model_state`. All random draws
    use the step's key.

    If the batch of a step is split, `nn.Dropout` raises ValueError, because each shard and
    microbatch would draw the same mask. Under a mapped axis (`pmap`, `shard_map`), `nn.BatchNorm`
    without an `axis_name` also raises ValueError, because its statistics would be those of a single
    shard. Use `gan_jax.nn.Dropout` and `gan_jax.nn.BatchNorm`, which handle split batches.
    `nn.Embed` returns NaN for a label out of range.

    Args:
      module: any Linen module whose first argument is x.
      label: the name of the argument for labels. With None, labels are ignored.

    Raises:
      ValueError: `label` is not the default and is not an argument of the module. A module that
        has arguments besides x must have one with the name that `label` gives. If it has none, a
        call with a labelled batch raises ValueError.
    """
    accepted = accepted_by(type(module), label, "from_linen(module")

    def init(key: Array, x: PyTree, label: PyTree | None = None) -> tuple[PyTree, PyTree]:
        variables = dict(module.init(key, x, **accepted(label, train=True)))
        params = variables.pop("params", {})
        variables.pop("intermediates", None)  # the values of `sow` would accumulate
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
                # Linen uses the stream "params" for every stream that is not given.
                rngs=None if key is None else {"params": key},
                mutable=list(model_state) if train else [],
            )
        return y, {**model_state, **updated}

    return Network(init, apply)

"""The adapter for Flax NNX modules."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from gan_jax import batches
from gan_jax.networks.arguments import accepted_by, made_by
from gan_jax.types import Array, Network, PyTree

if TYPE_CHECKING:
    from flax import nnx


def from_nnx(make: "Callable[..., nnx.Module]", *, label: str | None = "label") -> Network:
    """Returns the `Network` of a Flax NNX module.

    Each call first sets the mode with `module.train()` or `module.eval()`, which `nnx.Dropout` and
    `nnx.BatchNorm` follow. Then the module is called as `module(x)`. It also receives the labels,
    the mode and `rngs` (an `nnx.Rngs`), if its `__call__` has arguments for them. The names of the
    mode arguments are those of `from_linen`.

    `params` holds each `nnx.Param`, and `model_state` holds every other Variable. Both are nested
    dictionaries of arrays. Neither holds an `nnx.RngState`, because each call seeds the module's
    random streams with the step's key.

    If the batch of a step is split, `nnx.Dropout` raises ValueError, because each shard and
    microbatch would draw the same mask. Draw masks with the keys of
    `gan_jax.random.per_example(rngs.dropout(), x)` instead. Under a mapped axis (`pmap`,
    `shard_map`) `nnx.BatchNorm` computes statistics of the whole batch.

    Args:
      make: `(rngs) -> module`, such as a class, or `(rngs, x) -> module`, where x is an example
        batch. It is called each time JAX traces the network, because a Variable belongs to one
        trace.
      label: the name of the argument for labels. With None, labels are ignored.

    Raises:
      ValueError: a call raises ValueError in the same cases as for `from_linen`. A call also raises
        ValueError if `nnx.Dropout` runs in training on a split batch.
    """
    from flax import nnx  # the import takes 0.3 s, and few programs need it

    no_state = nnx.Param, nnx.RngState, nnx.Intermediate

    def arguments(module: nnx.Module, *labels: PyTree, **offered: Any) -> dict[str, Any]:
        accepted = accepted_by(type(module), label, "from_nnx(make", others=("rngs",))
        return accepted(*labels, **offered)

    def state_of(module: nnx.Module) -> PyTree:
        return nnx.to_pure_dict(nnx.state(module, nnx.Not(no_state)))

    def over_all_parts(module: nnx.Module) -> None:
        for _, layer in nnx.iter_graph(module):
            if isinstance(layer, nnx.BatchNorm) and layer.axis_name is None:
                layer.axis_name = batches.axis()  # type: ignore[assignment]  # a tuple works
            if isinstance(layer, nnx.Dropout) and layer.rate > 0:
                raise ValueError(
                    "nnx.Dropout would draw the same mask for each part of the batch (axis_name="
                    f"{batches.axis()!r}, or accumulate above 1): draw a mask for each example, "
                    "with keys from gan_jax.random.per_example(rngs.dropout(), x)"
                )

    def init(key: Array, x: PyTree, label: PyTree | None = None) -> tuple[PyTree, PyTree]:
        module = made_by(make, rngs=nnx.Rngs(key), x=x)
        arguments(module, label, train=True)  # raises if no argument takes labels
        return nnx.to_pure_dict(nnx.state(module, nnx.Param)), state_of(module)

    def apply(
        params: PyTree,
        model_state: PyTree,
        x: PyTree,
        label: PyTree | None = None,
        *,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Array, PyTree]:
        module = nnx.eval_shape(lambda: made_by(make, rngs=nnx.Rngs(0), x=x))
        nnx.update(module, params)
        nnx.update(module, model_state)
        streams = [node for _, node in nnx.iter_graph(module) if isinstance(node, nnx.RngStream)]
        offered = {}
        if key is not None:
            offered["rngs"] = nnx.Rngs(jax.random.fold_in(key, len(streams)))
            for number, stream in enumerate(streams):
                own = jax.random.fold_in(key, number)
                stream.key.set_value(jax.random.split(own, stream.key.shape))
                stream.count.set_value(jnp.zeros(stream.key.shape, jnp.uint32))
        module.train() if train else module.eval()
        if train and batches.is_split():
            over_all_parts(module)
        try:
            y = module(x, **arguments(module, label, train=train, **offered))
        except TypeError as error:
            if key is None and streams:
                error.add_note("apply was given no key, so the module's streams have none")
            raise
        return y, state_of(module) if train else model_state

    return Network(init, apply)

"""From a Flax NNX module to a `Network`."""

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
    """The pure functions of a Flax NNX module.

    Each call first sets the mode by `module.train()` or `module.eval()`, which switch `nnx.Dropout`
    and `nnx.BatchNorm`. The module is then called as `module(x)`, with further arguments if its
    `__call__` names them: those that `from_linen` gives, and `rngs`, a `nnx.Rngs`. Each `nnx.Param`
    is in `params`, and each other Variable in `model_state`, both as nested dictionaries of arrays.
    Only `nnx.RngState` is in neither: all random draws come from the step's key, which seeds the
    module's streams anew in each call.

    In a step whose batch is split, `nnx.Dropout` is refused, because it would draw every shard and
    every microbatch the same mask: draw with the keys of
    `gan_jax.random.per_example(rngs.dropout(), x)` instead. Under a mapped axis (`pmap`,
    `shard_map`) `nnx.BatchNorm` takes statistics of the whole batch.

    Args:
      make: `(rngs) -> module` or `(rngs, x) -> module`, such as a class, with x an example batch.
        It is called whenever the network is traced, because a Variable belongs to one trace.
      label: the name of the argument that takes the labels. None: labels are ignored.

    Raises:
      ValueError: (on a call) as from `from_linen`; `nnx.Dropout` in training where the batch is
        split.
    """
    from flax import nnx  # this takes 0.3 s, and few programs need it

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
        arguments(module, label, train=True)  # refuses labels that no argument takes
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

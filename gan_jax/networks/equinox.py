"""The adapter for Equinox modules."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gan_jax import batches
from gan_jax.networks.arguments import accepted_by, made_by
from gan_jax.random import per_example
from gan_jax.types import Array, Network, PyTree


def from_equinox(make: Callable[[Array], Any], *, label: str | None = "label") -> Network:
    """Returns the `Network` of an Equinox module that is called on one example at a time.

    The module is called as `module(x)`, where x [...] has no batch axis. The call runs under
    `jax.vmap` with the axis name "batch", in the mode set by `equinox.nn.inference_mode`. The
    module also receives each of these arguments that its `__call__` names:
    - the label of the example and the mode, as `from_linen` passes them;
    - `key`, the key of the example, which depends on the example's index in the whole batch;
    - `state`, an `equinox.nn.State`. The module then returns `(y, state)`.

    Images arrive as [H, W, C]. Equinox's convolutions expect [C, H, W], so the module must
    transpose them.

    `params` is the module with None in place of everything except its floating arrays. If `make`
    returns a module without state, `equinox.combine(params, make(key))` is the trained module.
    `model_state` is a pair: the module's other arrays, and the `State`. `equinox.nn.BatchNorm` with
    axis_name="batch" computes statistics of the whole batch, also under a mapped axis.

    Args:
      make: `(key) -> module`, such as a class. It is called each time JAX traces the network.
      label: the name of the argument for labels. With None, labels are ignored.

    Raises:
      ImportError: Equinox is not installed.
      ValueError: a call raises ValueError in the same cases as for `from_linen`. A call also raises
        ValueError if the module has a state but no argument `state`.
    """
    try:
        import equinox as eqx
    except ImportError as error:
        raise ImportError("from_equinox needs Equinox: pip install equinox") from error

    make_with_state = eqx.nn.make_with_state(lambda key: made_by(make, key=key))

    def arguments(module: Any) -> Callable[..., dict[str, Any]]:
        return accepted_by(type(module), label, "from_equinox(make", others=("key", "state"))

    def is_norm(node: Any) -> bool:
        return isinstance(node, eqx.nn.BatchNorm)

    def over_all_devices(node: Any) -> Any:
        if not (is_norm(node) and node.axis_name == "batch"):
            return node
        axis = batches.axis()
        over = ("batch", axis) if isinstance(axis, str) else ("batch", *(axis or ()))
        return eqx.tree_at(lambda norm: norm.axis_name, node, over)

    def init(key: Array, x: PyTree, label: PyTree | None = None) -> tuple[PyTree, PyTree]:
        module, state = make_with_state(key)
        given = arguments(module)(
            label, train=True, state=state
        )  # raises if no argument takes labels
        if jax.tree.leaves(state) and "state" not in given:
            raise ValueError(
                f"{type(module).__name__} has layers with a state, but its __call__ has no "
                "argument 'state': take the state, and return (y, state)"
            )
        params, others = eqx.partition(module, eqx.is_inexact_array)
        return params, (eqx.filter(others, eqx.is_array), state)

    def apply(
        params: PyTree,
        model_state: tuple[PyTree, PyTree],
        x: PyTree,
        label: PyTree | None = None,
        *,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Array, PyTree]:
        others, state = model_state
        made, _ = eqx.filter_eval_shape(make_with_state, jax.random.key(0))
        floats, rest = iter(jax.tree.leaves(params)), iter(jax.tree.leaves(others))

        def value(leaf: Any) -> Any:
            if not isinstance(leaf, jax.ShapeDtypeStruct):
                return leaf
            return next(floats if jnp.issubdtype(leaf.dtype, jnp.inexact) else rest)

        # `eqx.combine` would fail here, because functions defined in `make` differ between calls.
        module = eqx.nn.inference_mode(jax.tree.map(value, made), not train)
        module = jax.tree.map(over_all_devices, module, is_leaf=is_norm)
        accepted = arguments(module)

        def one(
            x: PyTree, label: PyTree | None, key: Array | None, state: PyTree
        ) -> tuple[Array, PyTree]:
            given = accepted(label, train=train, key=key, state=state)
            y = module(x, **given)
            return y if "state" in given else (y, state)

        keys = None if key is None else per_example(key, x)
        y, state = jax.vmap(one, in_axes=(0, 0, 0, None), out_axes=(0, None), axis_name="batch")(
            x, label, keys, state
        )
        return y, (others, state) if train else model_state

    return Network(init, apply)

"""From a neural network library's module to a `Network`, and from one `Network` to another."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from gan_jax.types import GAN, Array, Network, PyTree

Apply: TypeAlias = Callable[..., tuple[Array, PyTree]]
"""`Network.apply`."""


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


def mixed_precision(gan: GAN, dtype: Any = jnp.bfloat16) -> GAN:
    """The same GAN, its networks computing in another type.

    Each call casts its parameters and its input to `dtype`, and the result to float32.
    Parameters, optimizer states and gradients, running statistics, logits and losses stay in
    float32 (Micikevicius et al. 2018); bfloat16 has float32's range, and needs no loss scale.

    Args:
      gan: any.
      dtype: a floating type: bfloat16 is what TPUs and recent GPUs multiply fastest.
    """

    def cast(tree: PyTree, to: Any) -> PyTree:
        return jax.tree.map(
            lambda leaf: leaf.astype(to) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
        )

    def lower(apply: Apply) -> Apply:
        def lowered(
            params: PyTree, model_state: PyTree, x: Array, *label: Array | None, **options: Any
        ) -> tuple[Array, PyTree]:
            y, updated = apply(cast(params, dtype), model_state, cast(x, dtype), *label, **options)
            # A network may hand its statistics back in the type of its activations.
            kept = jax.tree.map(lambda new, old: new.astype(old.dtype), updated, model_state)
            return cast(y, jnp.float32), kept

        return lowered

    return _with_apply(gan, lower)


def rematerialised(gan: GAN) -> GAN:
    """The same GAN, its networks' activations computed again for gradients rather than kept.

    For memory: D's activations on real and on fake images, G's and D's, are then never held at
    the same time; for about a third more computing (Chen et al. 2016). Results are the same.
    XLA's compiler for CPUs sees through it, and keeps them after all.
    """

    def forget(apply: Apply) -> Apply:
        def forgetful(*arguments: Any, train: bool, **options: Any) -> tuple[Array, PyTree]:
            # `train` is no array: it decides what is computed.
            return jax.checkpoint(partial(apply, train=train))(*arguments, **options)

        return forgetful

    return _with_apply(gan, forget)


def _with_apply(gan: GAN, change: Callable[[Apply], Apply]) -> GAN:
    """The GAN with `apply` of both networks changed."""
    generator, discriminator = (
        network._replace(apply=change(network.apply))
        for network in (gan.generator, gan.discriminator)
    )
    return gan._replace(generator=generator, discriminator=discriminator)

"""From one `GAN` to another whose networks compute in another way."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gan_jax.types import GAN, Apply, PyTree


def mixed_precision(gan: GAN, dtype: Any = jnp.bfloat16) -> GAN:
    """The same GAN, its networks computing in another type.

    Each call casts its parameters, its input and its floating labels to `dtype`, and the result to
    float32. Parameters, optimizer states and gradients, running statistics, logits and losses stay
    in float32 (Micikevicius et al. 2018); bfloat16 has float32's range, and needs no loss scale.

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
            params: PyTree,
            model_state: PyTree,
            x: PyTree,
            label: PyTree | None = None,
            **options: Any,
        ) -> tuple[Any, PyTree]:
            params, x, label = cast((params, x, label), dtype)
            y, updated = apply(params, model_state, x, label, **options)
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
        def forgetful(*arguments: Any, train: bool, **options: Any) -> tuple[Any, PyTree]:
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

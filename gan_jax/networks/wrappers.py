"""Wrappers that change how the networks of a `GAN` compute."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gan_jax.types import GAN, Apply, PyTree


def mixed_precision(gan: GAN, dtype: Any = jnp.bfloat16) -> GAN:
    """Returns the GAN with networks that compute in the type `dtype`.

    Each call of a network casts the parameters, the input and floating labels to `dtype`. It then
    casts the result to float32. Parameters, optimizer states, gradients, running statistics, logits
    and losses remain float32 (Micikevicius et al. 2018). bfloat16 has the range of float32, so no
    loss scaling is needed.

    Args:
      gan: any GAN.
      dtype: a floating type. TPUs and recent GPUs multiply bfloat16 faster than float32.
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
            # A network may return its statistics in the type of its activations.
            kept = jax.tree.map(lambda new, old: new.astype(old.dtype), updated, model_state)
            return cast(y, jnp.float32), kept

        return lowered

    return _with_apply(gan, lower)


def rematerialised(gan: GAN) -> GAN:
    """Returns the GAN with networks whose activations are not stored, but recomputed for the
    gradients.

    This saves memory, because the activations of three passes are never held at the same time: G, D
    on real samples, and D on fake samples. Recomputation adds about a third to the computation
    (Chen et al. 2016). Results do not change. On a CPU no memory is saved, because XLA's CPU
    compiler removes the recomputation.
    """

    def forget(apply: Apply) -> Apply:
        def forgetful(*arguments: Any, train: bool, **options: Any) -> tuple[Any, PyTree]:
            # `train` must stay a Python value, because it decides which operations are traced.
            return jax.checkpoint(partial(apply, train=train))(*arguments, **options)

        return forgetful

    return _with_apply(gan, forget)


def _with_apply(gan: GAN, change: Callable[[Apply], Apply]) -> GAN:
    """Returns the GAN with `change` applied to the `apply` of both networks."""
    generator, discriminator = (
        network._replace(apply=change(network.apply))
        for network in (gan.generator, gan.discriminator)
    )
    return gan._replace(generator=generator, discriminator=discriminator)

"""Assertions about the shapes and types of what a caller passes to the library.

They run while a function is traced, so a compiled step does not pay for them. Each raises chex's
AssertionError, which names the argument, what was given and the remedy.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from gan_jax.trees import at_least_single
from gan_jax.types import Array, Batch


def check_batch(batch: Batch) -> None:
    """Raises AssertionError unless x [B, ...] is floating and there are B labels, if any."""
    _assert_floating(
        batch.x, "batch.x", "scale images to [-1, 1], such as by gan_jax.data.pipeline.dequantize"
    )
    num = batch.x.shape[:1]
    for label in jax.tree.leaves(batch.label):
        chex.assert_shape(
            label,
            (*num, ...),
            custom_message=f"batch.label has shape {label.shape} for batch.x of shape "
            f"{batch.x.shape}: give one label for each example",
        )


def check_logits(real_logits: Array, fake_logits: Array) -> None:
    """Raises AssertionError unless both are floating and have the same shape [B]."""
    for name, logits in (("real_logits", real_logits), ("fake_logits", fake_logits)):
        _assert_floating(logits, name, "give D's logits as floats")
        chex.assert_rank(
            logits,
            1,
            custom_message=f"{name} must be [B], one logit for each example, got shape "
            f"{jnp.shape(logits)}: drop the other axes, such as by logits[:, 0]",
        )
    chex.assert_equal_shape(
        [real_logits, fake_logits],
        custom_message=f"real_logits has shape {jnp.shape(real_logits)} and fake_logits "
        f"{jnp.shape(fake_logits)}: give as many real examples as fakes",
    )


def check_samples(real: Array, fake: Array) -> None:
    """Raises AssertionError unless both are floating and have the same shape [B, ...]."""
    for name, samples in (("real", real), ("fake", fake)):
        _assert_floating(samples, name, "give samples as floats, as D takes them")
    chex.assert_equal_shape(
        [real, fake],
        custom_message=f"real has shape {jnp.shape(real)} and fake {jnp.shape(fake)}: give as "
        "many real examples as fakes, all of one shape",
    )


def one_each(values: Array, num: int, maker: str) -> Array:
    """The values [num] that `maker` returned for a batch, in float32 at least.

    Raises:
      AssertionError: they are not floating, or not one number for each example.
    """
    _assert_floating(values, f"what {maker} returned", "return floats")
    chex.assert_shape(
        values,
        (num,),
        custom_message=f"{maker} returned shape {jnp.shape(values)} for a batch of {num}: it must "
        f"return one number for each example, shape ({num},), without axes of length 1 and "
        "without a mean over the batch",
    )
    return at_least_single(values)


def _assert_floating(x: Any, name: str, remedy: str) -> None:
    chex.assert_type(
        x, float, custom_message=f"{name} must be floating, got {jnp.result_type(x)}: {remedy}"
    )

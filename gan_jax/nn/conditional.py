"""Class labels as an input of generators and discriminators.

The functions are called inside a compact Linen module. Their layers become layers of that module.
With `num_classes=None` a network is unconditional: it ignores labels.
"""

import math
from typing import Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer

from gan_jax.nn.dense import Dense
from gan_jax.nn.initial import PARAM_DTYPE
from gan_jax.types import Array, Output

Conditional: TypeAlias = Literal["projection", "concat", "acgan", "reacgan"]
"""The ways in which D can use the class of a sample.

- projection: <embedding of the class, features> is added to the logit (Miyato and Koyama 2018, eq.
  3).
- concat: an embedding of the class is concatenated to the input (Mirza and Osindero 2014).
- acgan: the head "label" predicts the class (Odena et al. 2017). Use `terms.classification`.
- reacgan: the heads "embedding" and "proxy" compare a sample with its class (Kang et al. 2021). Use
  `terms.data_to_data`.
"""


def labels_for(num_classes: int | None, label: Array | None) -> Array | None:
    """Returns the labels [B] of a conditional network, or None for an unconditional network.

    Raises:
      ValueError: the network is conditional and there are no labels, or they are not integers [B].
    """
    if num_classes is None:
        return None
    if label is None:
        raise ValueError(
            f"the network has num_classes={num_classes} but no labels: give Batch(x, label) to a "
            "step and label= to sample"
        )
    if jnp.ndim(label) != 1 or not jnp.issubdtype(jnp.result_type(label), jnp.integer):
        raise ValueError(
            f"label must be integers [B] in [0, {num_classes}), got {jnp.result_type(label)} "
            f"{list(jnp.shape(label))}"
        )
    return label


def with_class(z: Array, num_classes: int | None, label: Array | None) -> Array:
    """Returns latents [B, L + num_classes]: z [B, L] and the label as a one-hot vector.

    With `num_classes=None` the result is z.

    Raises:
      ValueError: the network needs labels, and they are missing or not integers [B].
    """
    if num_classes is None:
        return z
    label = labels_for(num_classes, label)
    return jnp.concatenate([z, jax.nn.one_hot(label, num_classes, dtype=z.dtype)], axis=1)


def with_class_channel(
    x: Array, num_classes: int | None, label: Array | None, conditional: Conditional
) -> Array:
    """Returns D's input [B, ..., C + 1] with a learned image of the class as a further channel.

    A vector x [B, C] becomes [B, 2 C]. The input x is returned unchanged unless `conditional` is
    "concat" and `num_classes` is a number. The classes are `label` [B].

    Raises:
      ValueError: the network needs labels, and they are missing or not integers [B].
    """
    if num_classes is None or conditional != "concat":
        return x
    label = labels_for(num_classes, label)
    shape = x.shape[1:-1] if x.ndim > 2 else x.shape[1:]
    picture = nn.Embed(num_classes, math.prod(shape), embedding_init=nn.initializers.normal(1.0))(
        label
    )
    if x.ndim > 2:
        picture = picture.reshape(-1, *shape, 1)
    return jnp.concatenate([x, picture.astype(x.dtype)], axis=-1)


def judged(
    features: Array,
    num_classes: int | None = None,
    label: Array | None = None,
    conditional: Conditional = "projection",
    *,
    kernel_init: Initializer = nn.initializers.lecun_normal(),  # noqa: B008
) -> Array | Output:
    """Returns D's result for features [B, F]: logits [B], or an `Output` with heads.

    Args:
      features: the last features of D.
      num_classes: number of classes K, or None for an unconditional D.
      label: integers [B].
      conditional: how D uses the class. "acgan" adds the head "label", class logits [B, K].
        "reacgan" adds the heads "embedding", the features, and "proxy", the embedding of the class.
        Both are [B, F] and have length 1.
      kernel_init: the initialiser of the dense layers.

    Raises:
      ValueError: the network needs labels, and they are missing or not integers [B].
    """
    label = labels_for(num_classes, label)
    logits = Dense(1, kernel_init=kernel_init, param_dtype=PARAM_DTYPE)(features)[:, 0]
    if num_classes is None or label is None or conditional == "concat":
        return logits
    if conditional == "acgan":
        classes = Dense(num_classes, kernel_init=kernel_init, param_dtype=PARAM_DTYPE)(features)
        return Output(logits, {"label": classes})
    of_class = nn.Embed(num_classes, features.shape[-1])(label)
    if conditional == "projection":
        return logits + jnp.sum(of_class * features, axis=-1)
    return Output(logits, {"embedding": _unit(features), "proxy": _unit(of_class)})


def _unit(x: Array) -> Array:
    """Returns vectors [B, F] scaled to length 1. The derivative is finite for vectors of length
    0."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)

"""A case's layers as a Flax Linen module with given weights instead of initial ones."""

import itertools
from collections import defaultdict
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks import cases
from benchmarks.problem import Weights


class Player(nn.Module):
    """The layers in sequence, as Linen layers. The class of dense layers is an option."""

    layers: tuple[cases.Layer, ...]
    dense: type[nn.Dense] = nn.Dense

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = True) -> jax.Array:
        for layer in self.layers:
            match layer:
                case cases.Dense(features, bias):
                    x = self.dense(features, use_bias=bias)(x)
                case cases.Conv(features, bias):
                    x = nn.Conv(features, (4, 4), strides=(2, 2), use_bias=bias)(x)
                case cases.ConvTranspose(features):
                    x = nn.ConvTranspose(features, (4, 4), strides=(2, 2), use_bias=False)(x)
                case cases.BatchNorm():
                    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
                case cases.LeakyReLU(slope):
                    x = nn.leaky_relu(x, slope) if slope else nn.relu(x)
                case cases.Tanh(scale):
                    x = jnp.tanh(x * scale)
                case cases.Maxout(pieces):
                    x = x.reshape(x.shape[0], -1, pieces).max(axis=-1)
                case cases.Dropout(rate):
                    x = nn.Dropout(rate, deterministic=not train)(x)
                case cases.Reshape(shape):
                    x = x.reshape(x.shape[0], *shape)
        return x


def fill(
    params: Any, layers: tuple[cases.Layer, ...], weights: list[Weights], *, flip: bool
) -> Any:
    """Returns a module's parameters with the given weights as values.

    Args:
      params: parameters of a module that names its layers as Linen does, by type and count.
      layers, weights: the layers of a player and their weights.
      flip: whether the module has Linen's transposed convolutions. Their kernels are [kh, kw, I, O]
        and rotated by 180 degrees.
    """
    filled, counts, rest = dict(params), defaultdict[str, Any](itertools.count), iter(weights)
    for layer in layers:
        kind = type(layer).__name__
        if not isinstance(layer, cases.Dense | cases.Conv | cases.ConvTranspose | cases.BatchNorm):
            continue
        given = next(rest)
        if flip and isinstance(layer, cases.ConvTranspose):
            given = {"kernel": given["kernel"][::-1, ::-1].swapaxes(2, 3)}
        name = f"{kind}_{next(counts[kind])}"
        filled[name] = jax.tree.map_with_path(
            lambda path, leaf, given=given: jnp.asarray(given[path[-1].key]).reshape(leaf.shape),
            params[name],
        )
    return filled

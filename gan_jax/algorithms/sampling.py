"""Samples of a trained generator."""

import jax
import jax.numpy as jnp

from gan_jax.algorithms.player import check_at_least_one
from gan_jax.contract import check_gan
from gan_jax.random import draw, threefry
from gan_jax.trees import cast_like
from gan_jax.types import GAN, Array, PyTree, TrainState


def sample(
    gan: GAN,
    state: TrainState,
    key: Array,
    num: int,
    label: PyTree | None = None,
    *,
    ema: bool = True,
) -> PyTree:
    """x [num, ...] = G(z), z ~ p_z, with G in evaluation mode.

    Args:
      gan: the networks and the prior.
      state: of which only the generator is read.
      key: a single key; example i depends on it and on i, not on `num`.
      num: the number of samples, at least 1.
      label: [num] integers for a conditional generator, or a tree of arrays [num, ...].
      ema: whether to use the moving averages of G's parameters and model state, or those of the
        last update.

    Raises:
      ValueError: `num` < 1; the number of labels is not `num`.
    """
    check_at_least_one(num=num)
    for leaf in jax.tree.leaves(label):
        if jnp.shape(leaf)[:1] != (num,):
            raise ValueError(
                f"num = {num}, but label has shape {jnp.shape(leaf)}: give one label for each "
                f"sample, an array of shape ({num},)"
            )
    check_gan(gan)
    key_z, key_generator = jax.random.split(threefry(key))
    z = draw(gan.prior, key_z, num)
    return generate(gan, state, z, label, key=key_generator, ema=ema)


def generate(
    gan: GAN,
    state: TrainState,
    z: PyTree,
    label: PyTree | None = None,
    *,
    key: Array | None = None,
    ema: bool = True,
) -> PyTree:
    """x [B, ...] = G(z) of latents of your own, with G in evaluation mode.

    Args:
      gan, state, ema: as for `sample`.
      z: [B, L], such as points between two latents, or a tree as the prior draws it.
      label: as for `sample`.
      key: a single key for what is random in G itself, if anything is.
    """
    check_gan(gan)
    params, model_state = state.generator.params, state.generator.model_state
    if ema:
        params = cast_like(state.ema_params, params)
        model_state = cast_like(state.ema_model_state, model_state)
    return gan.generator.apply(params, model_state, z, label, train=False, key=key)[0]

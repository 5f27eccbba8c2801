"""Samples from a trained generator."""

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
    """Returns samples x [num, ...] = G(z) for z ~ p_z, with G in evaluation mode.

    Args:
      gan: the networks and the prior.
      state: the training state. Only the generator is used.
      key: a single key. Example i depends on the key and on i, but not on `num`.
      num: number of samples, at least 1.
      label: [num] integers for a conditional generator, or a tree of arrays [num, ...].
      ema: if True, use the moving averages of G's parameters and model state. If False, use the
        latest values.

    Raises:
      ValueError: `num` < 1, the number of labels is not `num`, or the prior does not return one
        draw for each sample.
      TypeError: `gan` is not a `GAN` of two networks and a prior.
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
    """Returns x [B, ...] = G(z) for given latents z, with G in evaluation mode.

    Args:
      gan, state, ema: as for `sample`.
      z: latents [B, L], such as points between two latents, or a tree with the structure of the
        prior's draws.
      label: as for `sample`.
      key: a single key for random layers in G.

    Raises:
      TypeError: `gan` is not a `GAN` of two networks and a prior.
    """
    check_gan(gan)
    params, model_state = state.generator.params, state.generator.model_state
    if ema:
        params = cast_like(state.ema_params, params)
        model_state = cast_like(state.ema_model_state, model_state)
    return gan.generator.apply(params, model_state, z, label, train=False, key=key)[0]

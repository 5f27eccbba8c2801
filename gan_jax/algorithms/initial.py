"""The initial training state."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gan_jax.algorithms.weighted import first_memory
from gan_jax.buffers import unshared
from gan_jax.contract import check_batch, check_gan, check_made_like, check_tx, num_examples
from gan_jax.random import draw, threefry
from gan_jax.trees import first_difference, widened
from gan_jax.types import (
    GAN,
    Array,
    Augment,
    Augmentation,
    Batch,
    Network,
    PlayerState,
    PyTree,
    TrainState,
    WeightedPenalty,
    WeightedTerm,
)


def init(
    gan: GAN,
    generator_tx: optax.GradientTransformation,
    discriminator_tx: optax.GradientTransformation,
    key: Array,
    batch: Batch,
    *,
    penalties: Sequence[WeightedPenalty] = (),
    discriminator_terms: Sequence[WeightedTerm] = (),
    generator_terms: Sequence[WeightedTerm] = (),
    augmentation: Augment | Augmentation | None = None,
) -> TrainState:
    """Returns the state before the first step.

    Args:
      gan: the networks and the prior.
      generator_tx, discriminator_tx: the optimizers of the steps.
      key: a single key, `jax.random.key(seed)`. The state's key always has JAX's default
        implementation, threefry2x32: see `random.threefry`.
      batch: [B, ...]. Only its shapes and types are read.
      penalties, discriminator_terms, generator_terms, augmentation: the ones given to the steps.
        Their initial memories become part of the state.

    Raises:
      ValueError: the generator's samples and the data differ in shape, or the prior does not return
        one draw for each example.
      TypeError: `gan` is not a `GAN`, an optimizer is not one of optax, or `batch` is not a
        `Batch`.
      AssertionError: the data are not floating, or the number of labels is not B.
    """
    check_gan(gan)
    for name, tx in (("generator_tx", generator_tx), ("discriminator_tx", discriminator_tx)):
        check_tx(tx, name)
    check_batch(batch)
    key_state, key_z, key_generator, key_discriminator = jax.random.split(threefry(key), 4)
    z = draw(gan.prior, key_z, num_examples(batch.x))
    generator = _init_player(gan.generator, generator_tx, key_generator, z, batch.label)
    made, _ = jax.eval_shape(
        lambda player: gan.generator.apply(
            player.params, player.model_state, z, batch.label, train=False, key=key_z
        ),
        generator,
    )
    check_made_like(made, batch.x)
    discriminator = _init_player(
        gan.discriminator, discriminator_tx, key_discriminator, batch.x, batch.label
    )
    of_discriminator = first_memory([*penalties, *discriminator_terms], augmentation)
    state = TrainState(
        key=key_state,
        generator=dataclasses.replace(generator, memory=first_memory(generator_terms)),
        discriminator=dataclasses.replace(discriminator, memory=of_discriminator),
        ema_params=widened(generator.params),
        ema_model_state=widened(generator.model_state),
    )
    return unshared(state, apart_from=(key, batch))


def _init_player(
    network: Network,
    tx: optax.GradientTransformation,
    key: Array,
    x: PyTree,
    label: PyTree | None,
) -> PlayerState:
    made = network.init(key, x, label)
    # An update returns no weak types. If the first state had weak types, the step would be compiled
    # twice.
    params, model_state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), made)
    return PlayerState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=tx.init(params),
    )


def warm_start(
    state: TrainState,
    *,
    generator: PyTree | None = None,
    discriminator: PyTree | None = None,
    ema: PyTree | None = None,
) -> TrainState:
    """Returns the state with copies of the given parameters, which may be from another run.

    Optimizer states and step counts do not change. In a state from `init` they are those of a new
    run. If the optimizer's state contains parameters, as with `optimizers.lookahead`, initialise it
    again with `player.replace(opt_state=tx.init(player.params))`.

    Args:
      state: the result of `init`, or the state of a run in progress.
      generator, discriminator: the players' parameters, as arrays of JAX or NumPy, with the
        structure and shapes of the state's parameters. They are cast to the state's types.
      ema: the average of G's parameters. The default is the argument `generator`, if it is given.

    Raises:
      ValueError: the parameters differ from the state's in structure or shape. The message names
        the first path that differs.
    """

    def player(own: PlayerState, params: PyTree | None, name: str) -> PlayerState:
        given = own.params if params is None else _copy_like(params, own.params, name)
        return dataclasses.replace(own, params=given)

    ema = generator if ema is None else ema
    warm = dataclasses.replace(
        state,
        generator=player(state.generator, generator, "generator"),
        discriminator=player(state.discriminator, discriminator, "discriminator"),
        ema_params=state.ema_params if ema is None else _copy_like(ema, state.ema_params, "ema"),
    )
    return unshared(warm)


def _copy_like(params: PyTree, like: PyTree, name: str) -> PyTree:
    remedy = "give parameters of the same structure and shapes as the state's"
    if difference := first_difference(params, like):
        raise ValueError(f"{name}{difference}: {remedy}")

    def copy(path: Any, leaf: Array, own: Array) -> Array:
        if jnp.shape(leaf) != own.shape:
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, not {own.shape}: "
                f"{remedy}"
            )
        return jnp.array(leaf, own.dtype)

    return jax.tree.map_with_path(copy, params, like)

"""The two scalars the players descend, from a GAN, a loss and penalties.

Both are functions of the player's own parameters, with the other player's state as data: D is
frozen in G's objective and G in D's. Nothing is cut by `stop_gradient`, so that derivatives
through a step (unrolled GANs, hyper-gradients) are right.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gan_jax.keys import per_example
from gan_jax.types import (
    GAN,
    AdversarialLoss,
    Array,
    AxisName,
    Batch,
    Critic,
    Metrics,
    Network,
    Penalty,
    PenaltyWithMemory,
    PlayerState,
    PyTree,
    TrainState,
    WeightedPenalty,
)

LOG_4 = math.log(4.0)

Objective = Callable[[PyTree, PlayerState, PlayerState, Batch, Array], tuple[Array, Any]]
"""`(params, player, opponent, batch, key) -> (loss, (metrics, model_state, memory))`, the last
two the player's own; everything averaged over the batch."""


def penalty_name(penalty: Penalty | PenaltyWithMemory) -> str:
    """The name a penalty has in the metrics: its function's, through `functools.partial`."""
    if isinstance(penalty, PenaltyWithMemory):
        return penalty.name
    while isinstance(penalty, partial):
        penalty = penalty.func
    return getattr(penalty, "__name__", type(penalty).__name__)


def first_memory(penalties: Sequence[WeightedPenalty]) -> dict[str, PyTree]:
    """What the penalties remember before the first update, by their names."""
    return {
        penalty.name: penalty.init()
        for penalty, _ in penalties
        if isinstance(penalty, PenaltyWithMemory)
    }


def draw_latents(
    gan: GAN, key: Array, batch: Array | int, axis_name: AxisName | None = None
) -> Array:
    """z [B, L] ~ p_z for a batch [B, ...] or for B examples, each from the key of its index in the
    global batch: `keys.per_example`."""
    return jax.vmap(lambda k: gan.prior(k, 1)[0])(per_example(key, batch, axis_name))


def _logits(
    discriminator: Network,
    params: PyTree,
    model_state: PyTree,
    x: Array,
    label: Array | None,
    key: Array,
) -> tuple[Array, PyTree]:
    logits, model_state = discriminator.apply(params, model_state, x, label, train=True, key=key)
    if logits.shape != (x.shape[0],):
        raise ValueError(
            f"the discriminator returned shape {logits.shape} for a batch of {x.shape[0]}: "
            f"it must return one logit for each example, shape ({x.shape[0]},)"
        )
    return logits, model_state


def _measure(
    penalty: Penalty | PenaltyWithMemory, critic: Critic, real: Array, fake: Array, key: Array
) -> Callable[[dict[str, PyTree]], tuple[Array, dict[str, PyTree]]]:
    """From the memory of all penalties to this one's mean over the batch and the memory after."""

    def measured(memory: dict[str, PyTree]) -> tuple[Array, dict[str, PyTree]]:
        if not isinstance(penalty, PenaltyWithMemory):
            return jnp.mean(penalty(critic, real, fake, key)), memory
        if penalty.name not in memory:
            raise ValueError(
                f"the penalty {penalty.name!r} finds no memory in the discriminator's state: give "
                "init the same penalties as the step"
            )
        values, remembered = penalty.apply(critic, real, fake, key, memory[penalty.name])
        return jnp.mean(values), {**memory, penalty.name: remembered}

    return measured


def _names(axis_name: AxisName | None) -> tuple[str | None, ...]:
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def _over_axis(penalty: Callable[..., Any], axis_name: AxisName | None) -> Callable[..., Any]:
    """The penalty, over the step's mapped axis: an `axis_name` parameter left open is filled in.

    Raises:
      ValueError: it is bound to another axis.
    """
    if axis_name is None:
        return penalty
    try:
        parameter = inspect.signature(penalty).parameters.get("axis_name")
    except (TypeError, ValueError):  # some callables written in C have no signature
        return penalty
    if parameter is None:
        return penalty
    bound = parameter.default
    if bound is None or bound is inspect.Parameter.empty:
        return partial(penalty, axis_name=axis_name)
    if _names(bound) != _names(axis_name):
        raise ValueError(
            f"the penalty {penalty_name(penalty)!r} is over the axis {bound!r}, but the step is "
            f"over {axis_name!r}: give both the same axis_name, or leave the penalty's to the step"
        )
    return penalty


def _check_axes(
    loss: Callable[[Array, Array], Array], axis_name: AxisName | None
) -> Callable[[Array, Array], Array]:
    """The player's loss; a ValueError if it compares examples over other axes than the step's."""
    others = {axis for axis in getattr(loss, "axes", ()) if _names(axis) != _names(axis_name)}
    if axis_name is not None and others:
        raise ValueError(
            f"the loss compares the examples of a batch over axis_name={others.pop()!r}, but the "
            f"step splits its batch over {axis_name!r}: make the loss with axis_name={axis_name!r}"
        )
    return loss


def discriminator_objective(
    gan: GAN,
    loss: AdversarialLoss,
    penalties: Sequence[WeightedPenalty] = (),
    axis_name: AxisName | None = None,
) -> Objective:
    """D's loss on a real batch and as many fresh fakes, plus the weighted penalties.

    Metrics: `discriminator_loss` (without penalties); `value`, the estimate of V(D, G);
    `jsd_lower_bound` = (value + log 4) / 2; `real_accuracy` and `fake_accuracy`, the shares of
    logits on the right side of 0; and each penalty's mean, unweighted, by its name, 0 if its
    schedule left it out. (Of `least_squares` the border is 1/2, of `f_kl` 1, and Wasserstein's
    logits have none: there the two accuracies say less.)
    """
    names = [penalty_name(penalty) for penalty, _ in penalties]
    if len(set(names)) < len(names):
        raise ValueError(f"penalties must have different names, got {names}")
    adversarial_loss = _check_axes(loss.discriminator, axis_name)
    over_axis = [
        penalty._replace(apply=_over_axis(penalty.apply, axis_name))
        if isinstance(penalty, PenaltyWithMemory)
        else _over_axis(penalty, axis_name)
        for penalty, _ in penalties
    ]
    weights = [weight for _, weight in penalties]

    def objective(
        params: PyTree, player: PlayerState, opponent: PlayerState, batch: Batch, key: Array
    ) -> tuple[Array, tuple[Metrics, PyTree, PyTree]]:
        key_z, key_fake, *keys = jax.random.split(key, 4 + 2 * len(penalties))
        z = draw_latents(gan, key_z, batch.x, axis_name)
        fake, _ = gan.generator.apply(
            opponent.params, opponent.model_state, z, batch.label, train=True, key=key_fake
        )
        critic = partial(_logits, gan.discriminator, params)
        real_logits, model_state = critic(player.model_state, batch.x, batch.label, keys[0])
        fake_logits, model_state = critic(model_state, fake, batch.label, keys[1])

        value = -jnp.mean(jax.nn.softplus(-real_logits)) - jnp.mean(jax.nn.softplus(fake_logits))
        adversarial = jnp.mean(adversarial_loss(real_logits, fake_logits))
        metrics = {
            "discriminator_loss": adversarial,
            "value": value,
            "jsd_lower_bound": (value + LOG_4) / 2,
            "real_accuracy": jnp.mean(real_logits > 0, dtype=real_logits.dtype),
            "fake_accuracy": jnp.mean(fake_logits < 0, dtype=fake_logits.dtype),
        }
        total, memory = adversarial, dict(player.memory)
        nothing = jnp.zeros_like(adversarial)
        for i, (penalty, weight) in enumerate(zip(over_axis, weights, strict=True)):
            key_network, key_penalty = keys[2 + 2 * i : 4 + 2 * i]

            def critic_of(x: Array, key: Array = key_network) -> Array:
                return critic(player.model_state, x, batch.label, key)[0]

            measured = _measure(penalty, critic_of, batch.x, fake, key_penalty)
            factor = weight(player.step) if callable(weight) else weight
            if callable(weight) and isinstance(factor, jax.Array):
                mean, memory = jax.lax.cond(
                    factor != 0, measured, lambda memory: (nothing, memory), memory
                )
            else:
                mean, memory = measured(memory)
            metrics[names[i]] = mean
            total = total + factor * mean
        return total, (metrics, model_state, memory)

    return objective


def generator_objective(
    gan: GAN, loss: AdversarialLoss, axis_name: AxisName | None = None
) -> Objective:
    """G's loss on fresh fakes, as many as the batch is large. Metrics: `generator_loss`."""
    adversarial_loss = _check_axes(loss.generator, axis_name)

    def objective(
        params: PyTree, player: PlayerState, opponent: PlayerState, batch: Batch, key: Array
    ) -> tuple[Array, tuple[Metrics, PyTree, PyTree]]:
        key_z, key_generator, key_real, key_fake = jax.random.split(key, 4)
        z = draw_latents(gan, key_z, batch.x, axis_name)
        fake, model_state = gan.generator.apply(
            params, player.model_state, z, batch.label, train=True, key=key_generator
        )
        critic = partial(_logits, gan.discriminator, opponent.params, opponent.model_state)
        # Only relativistic losses read the real logits: for the others the compiler drops them.
        real_logits, _ = critic(batch.x, batch.label, key_real)
        fake_logits, _ = critic(fake, batch.label, key_fake)
        adversarial = jnp.mean(adversarial_loss(real_logits, fake_logits))
        return adversarial, ({"generator_loss": adversarial}, model_state, player.memory)

    return objective


def player_losses(
    gan: GAN,
    loss: AdversarialLoss,
    state: TrainState,
    batch: Batch,
    key: Array,
    *,
    penalties: Sequence[WeightedPenalty] = (),
) -> tuple[Callable[[PyTree, PyTree], Array], Callable[[PyTree, PyTree], Array]]:
    """Both objectives as functions `(generator_params, discriminator_params) -> []`.

    The game around a point of training, for `gan_jax.theory`: its vector field, the eigenvalues
    of that field's Jacobian. Generator's first; batch, noise and model state are held fixed.
    """
    of_generator = generator_objective(gan, loss)
    of_discriminator = discriminator_objective(gan, loss, penalties)

    def at(theta: PyTree, psi: PyTree) -> tuple[PlayerState, PlayerState]:
        return (
            dataclasses.replace(state.generator, params=theta),
            dataclasses.replace(state.discriminator, params=psi),
        )

    def generator_loss(theta: PyTree, psi: PyTree) -> Array:
        generator, discriminator = at(theta, psi)
        return of_generator(theta, generator, discriminator, batch, key)[0]

    def discriminator_loss(theta: PyTree, psi: PyTree) -> Array:
        generator, discriminator = at(theta, psi)
        return of_discriminator(psi, discriminator, generator, batch, key)[0]

    return generator_loss, discriminator_loss

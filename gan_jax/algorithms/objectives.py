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

from gan_jax.contract import check_batch, one_each
from gan_jax.random import per_example
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
) -> PyTree:
    """z [B, L] ~ p_z for a batch [B, ...] or for B examples, with the keys of `keys.per_example`.

    A prior may draw a tree of arrays [B, ...], such as noise and a code.
    """

    def draw(key: Array) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[0], gan.prior(key, 1))

    return jax.vmap(draw)(per_example(key, batch, axis_name))


def _logits(
    discriminator: Network,
    params: PyTree,
    model_state: PyTree,
    x: Array,
    label: Array | None,
    key: Array,
) -> tuple[Array, PyTree]:
    """D's logits [B] and model state. Logits, and so losses and metrics, are float32 at least."""
    logits, model_state = discriminator.apply(params, model_state, x, label, train=True, key=key)
    return one_each(logits, x.shape[0], "the discriminator"), model_state


def _measure(
    penalty: Penalty | PenaltyWithMemory,
    critic: Critic,
    real: Array,
    fake: Array,
    key: Array,
    dtype: Any,
) -> Callable[[dict[str, PyTree]], tuple[Array, dict[str, PyTree]]]:
    """A function from the memory of all penalties to this one's batch mean and the new memory.

    The mean has the type `dtype`, also if the critic or the penalty computes in another.
    """

    def mean(values: Array) -> Array:
        maker = f"the penalty {penalty_name(penalty)!r}"
        return jnp.mean(one_each(values, real.shape[0], maker)).astype(dtype)

    def measured(memory: dict[str, PyTree]) -> tuple[Array, dict[str, PyTree]]:
        if not isinstance(penalty, PenaltyWithMemory):
            return mean(penalty(critic, real, fake, key)), memory
        if penalty.name not in memory:
            raise ValueError(
                f"the penalty {penalty.name!r} finds no memory in the discriminator's state: give "
                "init the same penalties as the step"
            )
        values, remembered = penalty.apply(critic, real, fake, key, memory[penalty.name])
        return mean(values), {**memory, penalty.name: remembered}

    return measured


def _names(axis_name: AxisName | None) -> tuple[str | None, ...]:
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def _over_axis(
    penalty: Penalty | PenaltyWithMemory, axis_name: AxisName | None
) -> Penalty | PenaltyWithMemory:
    """The penalty, with its argument `axis_name` bound to the step's if it is not yet set.

    Raises:
      ValueError: the penalty's `axis_name` is set to another axis.
    """
    function: Callable[..., Any] = (
        penalty.apply if isinstance(penalty, PenaltyWithMemory) else penalty
    )
    if axis_name is None:
        return penalty
    try:
        parameter = inspect.signature(function).parameters.get("axis_name")
    except (TypeError, ValueError):  # a callable may have no signature
        parameter = None
    if parameter is None:
        return penalty
    if parameter.default not in (None, inspect.Parameter.empty):
        if _names(parameter.default) != _names(axis_name):
            raise ValueError(
                f"the penalty {penalty_name(penalty)!r} has axis_name={parameter.default!r}, but "
                f"the step has axis_name={axis_name!r}: omit the penalty's axis_name to "
                "use the step's"
            )
        return penalty
    bound: Callable[..., Any] = partial(function, axis_name=axis_name)
    return penalty._replace(apply=bound) if isinstance(penalty, PenaltyWithMemory) else bound


def _check_axes(loss: Callable[[Array, Array], Array], axis_name: AxisName | None) -> None:
    """Raises ValueError for a loss that compares examples over another axis than the step's."""
    for axis in getattr(loss, "axes", ()):
        if axis_name is not None and _names(axis) != _names(axis_name):
            raise ValueError(
                f"the loss compares the examples of a batch with axis_name={axis!r}, but the step "
                f"has axis_name={axis_name!r}: make the loss with the same axis_name, as in "
                f"relativistic_average(axis_name={axis_name!r})"
            )


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
    schedule left it out. All are float32 at least. (The boundary is 1/2 for `least_squares` and 1
    for `f_kl`, and `wasserstein` has none: for these the accuracies mean less.)

    Raises:
      ValueError: two penalties of one name; a penalty or a loss bound to another axis than
        `axis_name`; (from the objective) a memory is missing.
      AssertionError: (from the objective) the batch's x is not floating or its labels are of
        another number; D, the loss or a penalty returned anything but one floating number for each
        example.
    """
    names = [penalty_name(penalty) for penalty, _ in penalties]
    if len(set(names)) < len(names):
        raise ValueError(f"penalties must have different names, got {names}")
    penalties = [(_over_axis(penalty, axis_name), weight) for penalty, weight in penalties]
    _check_axes(loss.discriminator, axis_name)

    def objective(
        params: PyTree, player: PlayerState, opponent: PlayerState, batch: Batch, key: Array
    ) -> tuple[Array, tuple[Metrics, PyTree, PyTree]]:
        check_batch(batch)
        num = batch.x.shape[0]
        key_z, key_fake, *keys = jax.random.split(key, 4 + 2 * len(penalties))
        z = draw_latents(gan, key_z, batch.x, axis_name)
        fake, _ = gan.generator.apply(
            opponent.params, opponent.model_state, z, batch.label, train=True, key=key_fake
        )
        critic = partial(_logits, gan.discriminator, params)
        real_logits, model_state = critic(player.model_state, batch.x, batch.label, keys[0])
        fake_logits, model_state = critic(model_state, fake, batch.label, keys[1])

        value = -jnp.mean(jax.nn.softplus(-real_logits)) - jnp.mean(jax.nn.softplus(fake_logits))
        losses = loss.discriminator(real_logits, fake_logits)
        adversarial = jnp.mean(one_each(losses, num, "the discriminator's loss"))
        metrics = {
            "discriminator_loss": adversarial,
            "value": value,
            "jsd_lower_bound": (value + LOG_4) / 2,
            "real_accuracy": jnp.mean(real_logits > 0, dtype=real_logits.dtype),
            "fake_accuracy": jnp.mean(fake_logits < 0, dtype=fake_logits.dtype),
        }
        total, memory = adversarial, dict(player.memory)
        nothing = jnp.zeros_like(adversarial)
        for i, (penalty, weight) in enumerate(penalties):
            key_network, key_penalty = keys[2 + 2 * i : 4 + 2 * i]

            def critic_of(x: Array, key: Array = key_network) -> Array:
                return critic(player.model_state, x, batch.label, key)[0]

            measured = _measure(penalty, critic_of, batch.x, fake, key_penalty, adversarial.dtype)
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
    """G's loss on as many fresh fakes as the batch has examples. Metrics: `generator_loss`.

    Raises:
      ValueError: the loss compares examples over another axis than `axis_name`.
      AssertionError: (from the objective) as for `discriminator_objective`.
    """
    _check_axes(loss.generator, axis_name)

    def objective(
        params: PyTree, player: PlayerState, opponent: PlayerState, batch: Batch, key: Array
    ) -> tuple[Array, tuple[Metrics, PyTree, PyTree]]:
        check_batch(batch)
        num = batch.x.shape[0]
        key_z, key_generator, key_real, key_fake = jax.random.split(key, 4)
        z = draw_latents(gan, key_z, batch.x, axis_name)
        fake, model_state = gan.generator.apply(
            params, player.model_state, z, batch.label, train=True, key=key_generator
        )
        critic = partial(_logits, gan.discriminator, opponent.params, opponent.model_state)
        # Only relativistic losses read the real logits: for the others the compiler drops them.
        real_logits, _ = critic(batch.x, batch.label, key_real)
        fake_logits, _ = critic(fake, batch.label, key_fake)
        losses = loss.generator(real_logits, fake_logits)
        adversarial = jnp.mean(one_each(losses, num, "the generator's loss"))
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

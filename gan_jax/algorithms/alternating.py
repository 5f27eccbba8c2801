"""The update steps of Algorithm 1: pure functions `(TrainState, Batch) -> (TrainState, Metrics)`.

Unjitted and free of side effects, so that the caller composes: `jax.jit(step)`,
`jax.lax.scan(step, state, batches)`, `jax.vmap(step)` for an ensemble, or the wrappers of
`gan_jax.parallel` for several devices.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gan_jax.algorithms.initial import init
from gan_jax.algorithms.objectives import (
    FakeLabels,
    discriminator_objective,
    generator_objective,
)
from gan_jax.algorithms.player import EMA_DECAY, Decay, check_at_least_one, make_player_step
from gan_jax.algorithms.sampling import generate, sample
from gan_jax.types import (
    GAN,
    AdversarialLoss,
    Algorithm,
    Array,
    Augment,
    Augmentation,
    AxisName,
    Batch,
    Metrics,
    StepFn,
    TrainState,
    WeightedPenalty,
    WeightedTerm,
)


def make_discriminator_step(
    gan: GAN,
    loss: AdversarialLoss,
    tx: optax.GradientTransformation,
    *,
    penalties: Sequence[WeightedPenalty] = (),
    terms: Sequence[WeightedTerm] = (),
    augmentation: Augment | Augmentation | None = None,
    fake_labels: FakeLabels | None = None,
    accumulate: int = 1,
    axis_name: AxisName | None = None,
) -> StepFn:
    """One update of D on a real batch [B, ...] and B fresh fakes, G frozen.

    Args:
      gan: the networks and the prior.
      loss: the adversarial loss.
      tx: D's optimizer, the one given to `init`.
      penalties: pairs of a penalty and its weight: a number (traced, if need be), or a schedule, a
        function of the number of D's updates made before this one, such as optax's or
        `penalties.lazy`. Where a schedule is 0 the penalty is not computed: its metric is 0, and
        it remembers nothing new.
      terms: pairs of a term `(Pass) -> [B]` and its weight, as for penalties.
      augmentation: a random change `(key, x [...]) -> x [...]` of each sample that D is shown, real
        or fake, in its step and in G's: give both the same. Penalties see D behind it.
      fake_labels: `(key, num) -> labels [num]`, the labels of the fakes. None: the real batch's.
      accumulate: in how many parts the batch is taken, one after the other, their gradients
        averaged: the memory of a part, the update of the whole. All draws are those of the whole
        batch. What compares examples sees its part only: batch norm, a loss of batch means.
      axis_name: the mapped axis (of `pmap` or `shard_map`) the batch is split over; gradients,
        metrics and model state are averaged over it. B is then the number on one device.

    Returns:
      A pure step. Metrics: those of `objectives.discriminator_objective` and
      `discriminator_gradient_norm`, all measured before the update.

    Raises:
      ValueError: two penalties have one name; `accumulate` < 1; (from the step) `accumulate` does
        not divide the batch, the state lacks the memory a penalty needs, `tx` is not the one given
        to `init`, or `tx` needs arguments that a step does not have.
    """
    objective = discriminator_objective(
        gan, loss, penalties, terms=terms, augmentation=augmentation, fake_labels=fake_labels
    )
    return make_player_step(
        "discriminator", objective, tx, accumulate=accumulate, axis_name=axis_name
    )


def make_generator_step(
    gan: GAN,
    loss: AdversarialLoss,
    tx: optax.GradientTransformation,
    *,
    terms: Sequence[WeightedTerm] = (),
    augmentation: Augment | Augmentation | None = None,
    fake_labels: FakeLabels | None = None,
    ema_decay: Decay = EMA_DECAY,
    accumulate: int = 1,
    axis_name: AxisName | None = None,
) -> StepFn:
    """One update of G on B fresh fakes, D frozen, then of the moving average of its weights.

    Args:
      gan, loss, terms, augmentation, fake_labels, accumulate, axis_name: as for
        `make_discriminator_step`.
      tx: G's optimizer, the one given to `init`.
      ema_decay: in [0, 1): ema <- ema_decay * ema + (1 - ema_decay) * params after each update;
        or a schedule, a function of the number of updates made before this one. The default rises
        to .999: see `rising_decay`. The average is kept in float32 at least.

    Returns:
      A pure step. It reads the real batch [B, ...] for its size, its labels and, if the loss is
      relativistic, its logits. Metrics: `generator_loss`, `generator_gradient_norm`.

    Raises:
      ValueError: `accumulate` < 1; `ema_decay` is a number outside of [0, 1); (from the step)
        `accumulate` does not divide the batch, `tx` is not the one given to `init`, or `tx` needs
        arguments that a step does not have.
    """
    objective = generator_objective(
        gan, loss, terms=terms, augmentation=augmentation, fake_labels=fake_labels
    )
    return make_player_step(
        "generator",
        objective,
        tx,
        ema_decay=ema_decay,
        accumulate=accumulate,
        axis_name=axis_name,
    )


def make_train_step(
    discriminator_step: StepFn, generator_step: StepFn, *, n_critic: int = 1
) -> StepFn:
    """Algorithm 1 (Goodfellow et al. 2014): `n_critic` updates of D, then one of G.

    Args:
      discriminator_step, generator_step: any steps on a batch [B, ...].
      n_critic: the number of D's updates, the k of Algorithm 1.

    Returns:
      A pure step on a batch [n_critic, B, ...], one real minibatch for each update of D; G's
      update is given the last. Metrics: of D's last update and of G's.

    Raises:
      ValueError: `n_critic` < 1; `discriminator_step` is G's; (from the step) another leading
        dimension than `n_critic`.
    """
    check_at_least_one(n_critic=n_critic)
    if getattr(discriminator_step, "role", None) == "generator":
        raise ValueError(
            "discriminator_step is G's: call make_train_step(discriminator_step, generator_step)"
        )

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if any(jnp.shape(leaf)[:1] != (n_critic,) for leaf in jax.tree.leaves(batch)):
            raise ValueError(
                f"the batch has shape {_shapes(batch)}, but n_critic = "
                f"{n_critic}: stack one minibatch for each update of D, shape [{n_critic}, B, ...]"
            )
        state, metrics = jax.lax.scan(discriminator_step, state, batch)
        last = jax.tree.map(lambda leaf: leaf[-1], (batch, metrics))
        state, generator_metrics = generator_step(state, last[0])
        return state, {**last[1], **generator_metrics}

    train_step.batch_axis = 1  # type: ignore[attr-defined]  # for the wrappers of `parallel`
    return train_step


def _shapes(batch: Batch) -> str:
    x, label = (jax.tree.map(jnp.shape, tree) for tree in batch)
    return f"{x}" if label is None else f"{x} with labels {label}"


def adversarial(
    gan: GAN,
    loss: AdversarialLoss,
    *,
    generator_tx: optax.GradientTransformation,
    discriminator_tx: optax.GradientTransformation,
    penalties: Sequence[WeightedPenalty] = (),
    discriminator_terms: Sequence[WeightedTerm] = (),
    generator_terms: Sequence[WeightedTerm] = (),
    augmentation: Augment | Augmentation | None = None,
    fake_labels: FakeLabels | None = None,
    n_critic: int = 1,
    ema_decay: Decay = EMA_DECAY,
    accumulate: int = 1,
    axis_name: AxisName | None = None,
) -> Algorithm:
    """A GAN with its loss, optimizers and terms, ready to train by Algorithm 1.

    Args:
      gan, loss, penalties, augmentation, fake_labels, accumulate, axis_name: as for
        `make_discriminator_step`.
      generator_tx, discriminator_tx: the optimizers.
      discriminator_terms, generator_terms: pairs of a term `(Pass) -> [B]` and its weight.
      n_critic: the number of D's updates for each of G's.
      ema_decay: as for `make_generator_step`.

    Raises:
      ValueError: as for `make_discriminator_step`, `make_generator_step` and `make_train_step`.
    """
    in_common: dict[str, Any] = {
        "augmentation": augmentation,
        "fake_labels": fake_labels,
        "accumulate": accumulate,
        "axis_name": axis_name,
    }
    discriminator_step = make_discriminator_step(
        gan, loss, discriminator_tx, penalties=penalties, terms=discriminator_terms, **in_common
    )
    generator_step = make_generator_step(
        gan, loss, generator_tx, terms=generator_terms, ema_decay=ema_decay, **in_common
    )

    def begin(key: Array, batch: Batch) -> TrainState:
        return init(
            gan,
            generator_tx,
            discriminator_tx,
            key,
            batch,
            penalties=penalties,
            discriminator_terms=discriminator_terms,
            generator_terms=generator_terms,
            augmentation=augmentation,
        )

    return make_algorithm(gan, begin, discriminator_step, generator_step, n_critic=n_critic)


def make_algorithm(
    gan: GAN,
    init: Callable[[Array, Batch], TrainState],
    discriminator_step: StepFn,
    generator_step: StepFn,
    *,
    n_critic: int = 1,
) -> Algorithm:
    """Algorithm 1 with steps of your own, such as those of `make_player_step`.

    Args:
      gan: draws the samples.
      init: `(key, batch [B, ...]) -> state`.
      discriminator_step, generator_step, n_critic: as for `make_train_step`.

    Raises:
      ValueError: as for `make_train_step`.
    """
    return Algorithm(
        init=init,
        step=make_train_step(discriminator_step, generator_step, n_critic=n_critic),
        discriminator_step=discriminator_step,
        generator_step=generator_step,
        sample=partial(sample, gan),
        generate=partial(generate, gan),
    )

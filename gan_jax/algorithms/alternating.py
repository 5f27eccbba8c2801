"""The steps of Algorithm 1 as pure functions `(TrainState, Batch) -> (TrainState, Metrics)`.

The steps are not jitted and have no side effects, so the caller can transform them: with
`jax.jit(step)`, with `jax.lax.scan(step, state, batches)`, with `jax.vmap(step)` for an ensemble of
GANs, or with the wrappers of `gan_jax.parallel` for several devices.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gan_jax.algorithms.initial import init
from gan_jax.algorithms.objectives import discriminator_objective, generator_objective
from gan_jax.algorithms.passes import FakeLabels
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
    """Returns a step that updates D once, on a real batch [B, ...] and B fresh fakes.

    G does not change.

    Args:
      gan: the networks and the prior.
      loss: the adversarial loss.
      tx: D's optimizer, the same as in `init`.
      penalties: pairs of a penalty and its weight. A weight is a number (traced or not) or a
        schedule. A schedule is a function of the number of D's earlier updates. `penalties.lazy`
        and optax make such functions. If a schedule returns 0, the penalty is not computed: the
        metric is 0, and the memory does not change.
      terms: pairs of a term `(Pass) -> [B]` and its weight. Weights have the same form as for
        penalties.
      augmentation: a function `(key, x [...]) -> x [...]` that randomly changes each real and fake
        sample before D receives it. Give D's step and G's step the same augmentation. Penalties
        receive a critic that includes the augmentation.
      fake_labels: `(key, num) -> labels [num]`, the labels of the fakes. By default the fakes get
        the labels of the real batch.
      accumulate: number of microbatches per update. Their gradients are averaged. An update needs
        memory for only one microbatch at a time. The random draws do not depend on this number.
        Operations across examples, such as batch norm and losses of batch means, see only one
        microbatch.
      axis_name: the mapped axis (of `pmap` or `shard_map`) over which the batch is split.
        Gradients, metrics and model state are averaged over this axis. B is then the number of
        examples on one device.

    Returns:
      A pure step. Its metrics are computed before the update. They are
        `discriminator_gradient_norm` and the metrics of `objectives.discriminator_objective`.

    Raises:
      ValueError: two penalties have the same name, or `accumulate` < 1. The step raises ValueError
        if the real examples and G's samples differ in shape, `accumulate` does not divide the
        batch, the state lacks the memory of a penalty, `tx` differs from the one given to `init`,
        or `tx` needs arguments that a step does not pass to it.
      TypeError: one of these: `gan` is not a `GAN`; `loss` is not an `AdversarialLoss`; `tx` is not
        an optax optimizer; `penalties` or `terms` contain something other than pairs of a function
        and its weight; a function does not take the arguments of a penalty or term. The step raises
        TypeError if it does not receive a `Batch`.
      AssertionError: raised by the step in the cases that `objectives.discriminator_objective`
        lists.
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
    """Returns a step that updates G once on B fresh fakes, and then G's moving averages.

    D does not change.

    Args:
      gan, loss, terms, augmentation, fake_labels, accumulate, axis_name: as for
        `make_discriminator_step`.
      tx: G's optimizer, the same as in `init`.
      ema_decay: number d in [0, 1). After each update the average becomes d * average + (1 - d) *
        params. The decay may also be a schedule, which is a function of the number of earlier
        updates. The default schedule rises to 0.999: see `rising_decay`. The average is stored in
        at least float32.

    Returns:
      A pure step. It uses the size and the labels of the real batch [B, ...]. With a relativistic
        loss it also uses D's logits for this batch. Its metrics are `generator_loss` and
        `generator_gradient_norm`.

    Raises:
      ValueError: two terms have the same name, `accumulate` < 1, or `ema_decay` is a number outside
        [0, 1). The step raises ValueError if the real examples and G's samples differ in
        shape, `accumulate` does not divide the batch, the state lacks the memory of a term, `tx`
        differs from the one given to `init`, or `tx` needs arguments that a step does not pass to
        it.
      TypeError, AssertionError: as for `make_discriminator_step`.
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
    """Returns the step of Algorithm 1 (Goodfellow et al. 2014): `n_critic` updates of D, then one
    of G.

    Args:
      discriminator_step, generator_step: any steps on a batch [B, ...].
      n_critic: number of D's updates per step. This number is called k in Algorithm 1.

    Returns:
      A pure step. Its batch [n_critic, B, ...] contains one real minibatch for each update of D.
        G's update uses the last minibatch. The metrics of the step are those of D's last update and
        of G's update.

    Raises:
      ValueError: `n_critic` < 1, or `discriminator_step` is a generator step. The train step raises
        ValueError if the first dimension of the batch is not `n_critic`.
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

    train_step.batch_axis = 1  # type: ignore[attr-defined]  # read by the wrappers of `parallel`
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
    """Returns Algorithm 1 for a GAN with the given loss, optimizers, penalties and terms.

    Args:
      gan, loss, penalties, augmentation, fake_labels, accumulate, axis_name: as for
        `make_discriminator_step`.
      generator_tx, discriminator_tx: the optimizers.
      discriminator_terms, generator_terms: pairs of a term `(Pass) -> [B]` and its weight.
      n_critic: number of D's updates for each update of G.
      ema_decay: as for `make_generator_step`.

    Raises:
      ValueError: as for `make_discriminator_step`, `make_generator_step` and `make_train_step`.
      TypeError, AssertionError: as for `make_discriminator_step`.
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
    """Returns Algorithm 1 with custom steps, such as those of `make_player_step`.

    Args:
      gan: the GAN from which samples are drawn.
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

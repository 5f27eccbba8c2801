"""The objectives of the two players: scalar functions built from a GAN, a loss and terms.

Each objective is a function of one player's parameters, the states of both players, a batch and a
key. The objectives do not use `stop_gradient`, so derivatives through a whole step are correct.
Unrolled GANs and hyper-gradients need such derivatives.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gan_jax.algorithms.passes import AUGMENTATION, FakeLabels, play
from gan_jax.algorithms.weighted import add_terms, as_term, term_name
from gan_jax.contract import check_gan, check_loss, check_weighted, one_each
from gan_jax.trees import is_inexact
from gan_jax.types import (
    GAN,
    AdversarialLoss,
    Array,
    Augment,
    Augmentation,
    Batch,
    Metrics,
    Pass,
    PlayerState,
    PyTree,
    TrainState,
    WeightedPenalty,
    WeightedTerm,
)

LOG_4 = math.log(4.0)


class Aux(NamedTuple):
    """The second result of an objective. All values are averaged over the batch.

    Attributes:
      metrics: scalars [] by name.
      model_state, memory: the player's model state and memories after the pass.
    """

    metrics: Metrics
    model_state: PyTree
    memory: dict[str, PyTree]


Objective: TypeAlias = Callable[[PyTree, PlayerState, PlayerState, Batch, Array], tuple[Array, Aux]]
"""`(params, player, opponent, batch, key) -> (loss [], Aux)`: the loss of a player as a function of
its parameters. The objective uses `params` instead of `player.params`."""


def _adversarial(loss: Callable[[Array, Array], Array], seen: Pass, maker: str) -> Array:
    """Returns the batch mean of a loss on D's logits.

    If D returns maps of logits, each logit counts as one example.
    """
    real, fake = seen.real_output.logits, seen.fake_output.logits
    losses = loss(real.reshape(-1), fake.reshape(-1))
    return jnp.mean(one_each(losses, real.size, maker))


def _scalars(memory: PyTree) -> Metrics:
    """Returns the floating scalars of the augmentation's memory as metrics."""
    return {
        AUGMENTATION + "".join(f"_{entry.key}" for entry in path): leaf
        for path, leaf in jax.tree.leaves_with_path(memory)
        if leaf.ndim == 0 and is_inexact(leaf) and all(hasattr(e, "key") for e in path)
    }


def _check(gan: GAN, loss: AdversarialLoss, **weighted: Any) -> None:
    check_gan(gan)
    check_loss(loss)
    for name, pairs in weighted.items():
        check_weighted(pairs, name)


def _check_names(names: Sequence[str]) -> None:
    if len({*names, AUGMENTATION}) <= len(names):
        raise ValueError(f"penalties and terms must have different names, got {list(names)}")


def discriminator_objective(
    gan: GAN,
    loss: AdversarialLoss,
    penalties: Sequence[WeightedPenalty] = (),
    *,
    terms: Sequence[WeightedTerm] = (),
    augmentation: Augment | Augmentation | None = None,
    fake_labels: FakeLabels | None = None,
) -> Objective:
    """Returns D's objective: its loss on a real batch and fresh fakes, plus weighted terms.

    There are as many fakes as real examples.

    Metrics:
      discriminator_loss: the loss without penalties and terms.
      value: the estimate of V(D, G).
      jsd_lower_bound: (value + log 4) / 2.
      real_accuracy, fake_accuracy: the shares of logits on the correct side of 0. The correct
        boundary is 1/2 for `least_squares` and 1 for `f_kl`, and `wasserstein` has no boundary. For
        these three losses the accuracies mean less.
      augmentation_p and similar: the scalars in the augmentation's memory.
      NAME, for each penalty: the mean of the penalty without its weight. It is 0 if a schedule
        skipped the penalty.
      discriminator_NAME, for each term: the mean of the term without its weight. It is 0 if a
        schedule skipped the term.

    Args:
      gan, loss: the GAN and its loss.
      penalties, terms, augmentation, fake_labels: as for `make_discriminator_step`.

    Raises:
      ValueError: two penalties or terms have the same name. The objective raises ValueError if the
        memory of a penalty, a term or the augmentation is missing, or if the real examples and G's
        samples differ in shape.
      TypeError: one of these: `gan` is not a `GAN`; `loss` is not an `AdversarialLoss`; `penalties`
        or `terms` contain something other than pairs of a function and its weight; a function does
        not take the arguments of a penalty or term. The objective raises TypeError if it does not
        receive a `Batch`.
      AssertionError: raised by the objective if the batch's x is not floating, the number of labels
        is not B, D's logits are not [B] or [B, ...], or the loss, a penalty or a term does not
        return one floating number for each example.
    """
    _check(gan, loss, penalties=penalties, terms=terms)
    named: list[tuple[str, Any, Any]] = [
        (term_name(penalty), as_term(penalty), weight) for penalty, weight in penalties
    ]
    named += [(f"discriminator_{term_name(term)}", term, weight) for term, weight in terms]
    _check_names([term_name(term) for _, term, _ in named])

    def objective(
        params: PyTree, player: PlayerState, opponent: PlayerState, batch: Batch, key: Array
    ) -> tuple[Array, Aux]:
        played = play(
            gan,
            opponent,
            dataclasses.replace(player, params=params),
            batch,
            key,
            augmentation=augmentation,
            fake_labels=fake_labels,
            num_terms=len(named),
            moving=True,
        )
        seen, memory = played.seen, dict(player.memory)
        real, fake = seen.real_output.logits, seen.fake_output.logits
        adversarial = _adversarial(loss.discriminator, seen, "the discriminator's loss")
        value = -jnp.mean(jax.nn.softplus(-real)) - jnp.mean(jax.nn.softplus(fake))
        metrics = {
            "discriminator_loss": adversarial,
            "value": value,
            "jsd_lower_bound": (value + LOG_4) / 2,
            "real_accuracy": jnp.mean(real > 0, dtype=real.dtype),
            "fake_accuracy": jnp.mean(fake < 0, dtype=fake.dtype),
        }
        total, of_terms, memory = add_terms(named, played, player, adversarial, memory)
        if isinstance(augmentation, Augmentation):
            known = memory[AUGMENTATION]
            metrics |= _scalars(known)
            memory[AUGMENTATION] = augmentation.update(known, seen.real_output)
        return total, Aux(metrics | of_terms, played.discriminator_state, memory)

    return objective


def generator_objective(
    gan: GAN,
    loss: AdversarialLoss,
    *,
    terms: Sequence[WeightedTerm] = (),
    augmentation: Augment | Augmentation | None = None,
    fake_labels: FakeLabels | None = None,
) -> Objective:
    """Returns G's objective: its loss on fresh fakes, plus weighted terms.

    There are as many fakes as examples in the batch.

    The metrics are `generator_loss`, which does not include terms, and `generator_NAME` for each
    term. `generator_NAME` is the mean of the term without its weight.

    Args:
      gan, loss: the GAN and its loss.
      terms, augmentation, fake_labels: as for `make_generator_step`.

    Raises:
      ValueError, TypeError, AssertionError: as for `discriminator_objective`.
    """
    _check(gan, loss, terms=terms)
    named = [(f"generator_{term_name(term)}", term, weight) for term, weight in terms]
    _check_names([term_name(term) for term, _ in terms])

    def objective(
        params: PyTree, player: PlayerState, opponent: PlayerState, batch: Batch, key: Array
    ) -> tuple[Array, Aux]:
        played = play(
            gan,
            dataclasses.replace(player, params=params),
            opponent,
            batch,
            key,
            augmentation=augmentation,
            fake_labels=fake_labels,
            num_terms=len(named),
            moving=False,
        )
        adversarial = _adversarial(loss.generator, played.seen, "the generator's loss")
        total, of_terms, memory = add_terms(named, played, player, adversarial, dict(player.memory))
        metrics = {"generator_loss": adversarial} | of_terms
        return total, Aux(metrics, played.generator_state, memory)

    return objective


def player_losses(
    gan: GAN,
    loss: AdversarialLoss,
    state: TrainState,
    batch: Batch,
    key: Array,
    *,
    penalties: Sequence[WeightedPenalty] = (),
    augmentation: Augment | Augmentation | None = None,
) -> tuple[Callable[[PyTree, PyTree], Array], Callable[[PyTree, PyTree], Array]]:
    """Returns G's and D's losses as functions `(generator_params, discriminator_params) -> []`.

    G's loss comes first. Batch, noise and model state are fixed. From the two losses,
    `gan_jax.theory` can compute the game's vector field and the eigenvalues of the field's Jacobian
    at any point of training.
    """
    of_generator = generator_objective(gan, loss, augmentation=augmentation)
    of_discriminator = discriminator_objective(gan, loss, penalties, augmentation=augmentation)

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

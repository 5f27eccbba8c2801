"""The objectives of the two players: scalar functions built from a GAN, a loss and terms.

Each objective is a function of one player's parameters, and the other player's state is data.
Neither uses `stop_gradient`, so derivatives through a whole step are correct. Unrolled GANs and
hyper-gradients need them.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gan_jax.contract import (
    check_batch,
    check_gan,
    check_loss,
    check_output,
    check_weighted,
    num_examples,
    one_each,
)
from gan_jax.random import Stream, draw, per_example
from gan_jax.trees import is_inexact
from gan_jax.types import (
    GAN,
    AdversarialLoss,
    Apply,
    Array,
    Augment,
    Augmentation,
    Batch,
    Bound,
    Metrics,
    Network,
    Output,
    Pass,
    PlayerState,
    PyTree,
    TrainState,
    WeightedPenalty,
    WeightedTerm,
    WithMemory,
)

LOG_4 = math.log(4.0)

AUGMENTATION = "augmentation"
"""The key of the augmentation's memory in D's memory."""


class Aux(NamedTuple):
    """The second result of an objective. All values are averaged over the batch.

    Attributes:
      metrics: scalars [] by name.
      model_state, memory: those of the player after the pass.
    """

    metrics: Metrics
    model_state: PyTree
    memory: dict[str, PyTree]


Objective: TypeAlias = Callable[[PyTree, PlayerState, PlayerState, Batch, Array], tuple[Array, Aux]]
"""`(params, player, opponent, batch, key) -> (loss [], Aux)`: the loss of a player as a function of
its parameters. `params` replaces `player.params`."""

FakeLabels: TypeAlias = Callable[[Array, int], PyTree]
"""`(key, num) -> labels [num]`. Fakes get these labels instead of those of the real batch."""


def term_name(term: Any) -> str:
    """Returns the name of the function of a penalty or term, also inside `functools.partial`."""
    if isinstance(term, WithMemory):
        return term.name
    while isinstance(term, partial):
        term = term.func
    return getattr(term, "__name__", type(term).__name__)


def first_memory(
    terms: Sequence[WeightedPenalty | WeightedTerm],
    augmentation: Augment | Augmentation | None = None,
) -> dict[str, PyTree]:
    """Returns the initial memories of a player's terms and of its augmentation."""
    memory = {term.name: term.init() for term, _ in terms if isinstance(term, WithMemory)}
    if isinstance(augmentation, Augmentation):
        memory[AUGMENTATION] = augmentation.init()
    return memory


@dataclasses.dataclass(frozen=True)
class _Critic:
    """The critic passed to penalties: x [B, ...] -> logits [B]. A map of logits is averaged."""

    discriminator: Bound
    label: PyTree | None
    fake_label: PyTree | None

    def __call__(self, x: PyTree) -> Array:
        logits = self.discriminator(x, self.label).logits
        return jnp.mean(logits, axis=tuple(range(1, logits.ndim)))

    @property
    def on_fake(self) -> "_Critic":
        return dataclasses.replace(self, label=self.fake_label)


def as_term(penalty: Callable[..., Any] | WithMemory) -> Callable[..., Any] | WithMemory:
    """Returns the penalty `(critic, real, fake, key) -> [B]` as a term `(Pass) -> [B]`."""
    function = penalty.apply if isinstance(penalty, WithMemory) else penalty

    def term(seen: Pass, *memory: PyTree) -> Any:
        critic = _Critic(seen.discriminator, seen.real_label, seen.fake_label)
        return function(critic, seen.real, seen.fake, seen.key, *memory)

    if isinstance(penalty, WithMemory):
        return penalty._replace(apply=term)
    term.__name__ = term_name(penalty)
    return term


def _judge(
    discriminator: Network, augmentation: Augment | Augmentation | None, of: PlayerState
) -> Apply:
    """Returns D's `apply` preceded by the augmentation.

    It returns an `Output`. `of` is D's state.
    """

    def judge(
        params: PyTree,
        model_state: PyTree,
        x: PyTree,
        label: PyTree | None = None,
        /,
        *,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Output, PyTree]:
        num = num_examples(x)
        if augmentation is not None:
            assert key is not None
            key, key_augmentation = jax.random.split(key)
            keys = per_example(key_augmentation, x)
            if isinstance(augmentation, Augmentation):
                known = of.memory[AUGMENTATION]
                x = jax.vmap(lambda key, x: augmentation.apply(key, x, known, of.step))(keys, x)
            else:
                x = jax.vmap(augmentation)(keys, x)
        output, model_state = discriminator.apply(
            params, model_state, x, label, train=train, key=key
        )
        return check_output(output, num, "the discriminator"), model_state

    return judge


class _Played(NamedTuple):
    """The result of one pass through both networks.

    Attributes:
      seen: the arguments of the terms.
      keys: two keys for each term, the first for D and the second for the term.
      generator_state, discriminator_state: the model states after the pass.
    """

    seen: Pass
    keys: Sequence[Array]
    generator_state: PyTree
    discriminator_state: PyTree


def _play(
    gan: GAN,
    generator: PlayerState,
    discriminator: PlayerState,
    batch: Batch,
    key: Array,
    *,
    augmentation: Augment | Augmentation | None,
    fake_labels: FakeLabels | None,
    num_terms: int,
    moving: bool,
) -> _Played:
    """Returns fresh fakes together with D's outputs for them and for the real batch.

    If `moving` is True, as in D's update, D's second pass starts from the model state after its
    first.
    """
    check_batch(batch)
    if isinstance(augmentation, Augmentation) and AUGMENTATION not in discriminator.memory:
        raise ValueError(
            "the augmentation has no memory in the discriminator's state: give init the same "
            "augmentation as the step"
        )
    key_z, key_generator, key_real, key_fake, *keys = jax.random.split(key, 4 + 2 * num_terms)
    z = draw(gan.prior, key_z, batch.x)
    label = batch.label
    if fake_labels is not None:
        label = draw(fake_labels, jax.random.fold_in(key, Stream.LABELS), batch.x)
    fake, generator_state = gan.generator.apply(
        generator.params, generator.model_state, z, label, train=True, key=key_generator
    )
    judge = _judge(gan.discriminator, augmentation, discriminator)
    params, first = discriminator.params, discriminator.model_state
    # In G's update only relativistic losses and some terms read D's output for real samples. In the
    # other cases the compiler removes this pass.
    real_output, second = judge(params, first, batch.x, batch.label, train=True, key=key_real)
    fake_output, last = judge(
        params, second if moving else first, fake, label, train=True, key=key_fake
    )
    seen = Pass(
        real=batch.x,
        fake=fake,
        z=z,
        real_label=batch.label,
        fake_label=label,
        real_output=real_output,
        fake_output=fake_output,
        generator=Bound(
            gan.generator.apply, generator.params, generator.model_state, key_generator
        ),
        discriminator=Bound(judge, params, first, key_fake),
        step=(discriminator if moving else generator).step,
        key=key,
    )
    return _Played(seen, keys, generator_state, last)


def _adversarial(loss: Callable[[Array, Array], Array], seen: Pass, maker: str) -> Array:
    """Returns the batch mean of a loss on D's logits.

    For maps, each logit counts as one example.
    """
    real, fake = seen.real_output.logits, seen.fake_output.logits
    losses = loss(real.reshape(-1), fake.reshape(-1))
    return jnp.mean(one_each(losses, real.size, maker))


def _terms_added(
    terms: Sequence[tuple[str, Callable[..., Any] | WithMemory, Any]],
    played: _Played,
    player: PlayerState,
    total: Array,
    memory: dict[str, PyTree],
) -> tuple[Array, Metrics, dict[str, PyTree]]:
    """Returns the loss plus weighted terms, each term's mean by name, and the new memories."""
    metrics, nothing = {}, jnp.zeros_like(total)
    for i, (name, term, weight) in enumerate(terms):
        key_network, key = played.keys[2 * i : 2 * i + 2]
        seen = played.seen._replace(
            discriminator=dataclasses.replace(played.seen.discriminator, key=key_network), key=key
        )
        measured = partial(_measure, term, seen, total.dtype)
        factor = weight(player.step) if callable(weight) else weight
        if callable(weight) and isinstance(factor, jax.Array):
            mean, memory = jax.lax.cond(
                factor != 0, measured, lambda memory: (nothing, memory), memory
            )
        else:
            mean, memory = measured(memory)
        metrics[name] = mean
        total = total + factor * mean
    return total, metrics, memory


def _measure(
    term: Callable[..., Any] | WithMemory, seen: Pass, dtype: Any, memory: dict[str, PyTree]
) -> tuple[Array, dict[str, PyTree]]:
    """Returns the term's batch mean in `dtype` and the memories of all terms after it."""
    name, num = term_name(term), num_examples(seen.real)
    if not isinstance(term, WithMemory):
        values = term(seen)
    elif name in memory:
        values, remembered = term.apply(seen, memory[name])
        memory = {**memory, name: remembered}
    else:
        raise ValueError(
            f"{name!r} has no memory in the player's state: give init the same penalties and "
            "terms as the step"
        )
    return jnp.mean(one_each(values, num, repr(name))).astype(dtype), memory


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
    """Returns D's objective: its loss on a real batch and as many fresh fakes, plus weighted terms.

    Metrics, all at least float32:
      discriminator_loss: the loss without penalties and terms.
      value: the estimate of V(D, G).
      jsd_lower_bound: (value + log 4) / 2.
      real_accuracy, fake_accuracy: the shares of logits on the correct side of 0. The boundary for
        `least_squares` is 1/2 and that for `f_kl` is 1, and `wasserstein` has no boundary. The
        accuracies mean less for these losses.
      augmentation_p and similar: the scalars in the augmentation's memory.
      NAME, for each penalty: its unweighted mean. It is 0 if a schedule skipped the penalty.
      discriminator_NAME, for each term: its unweighted mean, as for penalties.

    Args:
      gan, loss: the GAN and its loss.
      penalties, terms, augmentation, fake_labels: as for `make_discriminator_step`.

    Raises:
      ValueError: two penalties or terms have the same name. The objective raises it if a memory is
        missing.
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
        played = _play(
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
        total, of_terms, memory = _terms_added(named, played, player, adversarial, memory)
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
    """Returns G's objective: its loss on as many fresh fakes as the batch has examples, plus terms.

    Metrics: `generator_loss`, which excludes terms, and the unweighted mean of each term, named
    `generator_` plus the term's name.

    Args:
      gan, loss: the GAN and its loss.
      terms, augmentation, fake_labels: as for `make_generator_step`.

    Raises:
      ValueError, AssertionError: as for `discriminator_objective`.
    """
    _check(gan, loss, terms=terms)
    named = [(f"generator_{term_name(term)}", term, weight) for term, weight in terms]
    _check_names([term_name(term) for term, _ in terms])

    def objective(
        params: PyTree, player: PlayerState, opponent: PlayerState, batch: Batch, key: Array
    ) -> tuple[Array, Aux]:
        played = _play(
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
        total, of_terms, memory = _terms_added(
            named, played, player, adversarial, dict(player.memory)
        )
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

    `gan_jax.theory` uses them to compute the vector field of the game at a point of training, and
    the eigenvalues of that field's Jacobian. G's loss comes first. Batch, noise and model state are
    fixed.
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

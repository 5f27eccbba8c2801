"""The two scalars the players descend, from a GAN, a loss and terms.

Both are functions of the player's own parameters, with the other player's state as data: D is
frozen in G's objective and G in D's. Nothing is cut by `stop_gradient`, so that derivatives
through a step (unrolled GANs, hyper-gradients) are right.
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
"""The key of the augmentation's memory in D's."""


class Aux(NamedTuple):
    """The second result of an objective. Everything is averaged over the batch.

    Attributes:
      metrics: numbers [] by their names.
      model_state, memory: the player's own, after the pass.
    """

    metrics: Metrics
    model_state: PyTree
    memory: dict[str, PyTree]


Objective: TypeAlias = Callable[[PyTree, PlayerState, PlayerState, Batch, Array], tuple[Array, Aux]]
"""`(params, player, opponent, batch, key) -> (loss [], Aux)`: the loss of a player as a function
of its own parameters, which stand in for `player.params`."""

FakeLabels: TypeAlias = Callable[[Array, int], PyTree]
"""`(key, num) -> labels [num]`, like a prior. Fakes have them in place of the real batch's."""


def term_name(term: Any) -> str:
    """The name of a penalty or a term: its function's, through `functools.partial`."""
    if isinstance(term, WithMemory):
        return term.name
    while isinstance(term, partial):
        term = term.func
    return getattr(term, "__name__", type(term).__name__)


def first_memory(
    terms: Sequence[WeightedPenalty | WeightedTerm],
    augmentation: Augment | Augmentation | None = None,
) -> dict[str, PyTree]:
    """The memories of a player's terms and of its augmentation before the first update."""
    memory = {term.name: term.init() for term, _ in terms if isinstance(term, WithMemory)}
    if isinstance(augmentation, Augmentation):
        memory[AUGMENTATION] = augmentation.init()
    return memory


@dataclasses.dataclass(frozen=True)
class _Critic:
    """The critic that penalties are given: x [B, ...] -> logits [B], the mean of a map."""

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
    """The penalty `(critic, real, fake, key) -> [B]` as a term `(Pass) -> [B]`."""
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
    """D's `apply` with the augmentation before it, in the state `of` D. It returns an `Output`."""

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
    """One pass of both networks.

    Attributes:
      seen: what terms read.
      keys: two for each term: of D, and of the term.
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
    """Fresh fakes, and what D says of them and of the real batch.

    `moving` is whether D's model state moves on between its two passes, as it does in D's update.
    """
    check_batch(batch)
    if isinstance(augmentation, Augmentation) and AUGMENTATION not in discriminator.memory:
        raise ValueError(
            "the augmentation finds no memory in the discriminator's state: give init the same "
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
    # Only relativistic losses and some terms read D's output for real samples in G's update: for
    # the others the compiler drops it.
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
    """The batch mean of a loss on D's logits; maps of logits count number by number."""
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
    """The loss with the weighted terms, each term's mean by its name, and what they remember."""
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
    """The term's batch mean, in `dtype`, and the memory of all terms after it."""
    name, num = term_name(term), num_examples(seen.real)
    if not isinstance(term, WithMemory):
        values = term(seen)
    elif name in memory:
        values, remembered = term.apply(seen, memory[name])
        memory = {**memory, name: remembered}
    else:
        raise ValueError(
            f"{name!r} finds no memory in the player's state: give init the same penalties and "
            "terms as the step"
        )
    return jnp.mean(one_each(values, num, repr(name))).astype(dtype), memory


def _scalars(memory: PyTree) -> Metrics:
    """The floating numbers [] of the augmentation's memory, as metrics."""
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
    """D's loss on a real batch and as many fresh fakes, plus the weighted penalties and terms.

    Metrics: `discriminator_loss` (without penalties and terms); `value`, the estimate of V(D, G);
    `jsd_lower_bound` = (value + log 4) / 2; `real_accuracy` and `fake_accuracy`, the shares of
    logits on the right side of 0; the numbers that an augmentation keeps in a dictionary, such as
    `augmentation_p`; and the unweighted mean of each penalty by its name and of each
    term by `discriminator_` and its name, 0 if its schedule left it out. All are float32 at least.
    (The boundary is 1/2 for `least_squares` and 1 for `f_kl`, and `wasserstein` has none: for these
    the accuracies mean less.)

    Args:
      gan, loss: the GAN and its loss.
      penalties, terms, augmentation, fake_labels: as for `make_discriminator_step`.

    Raises:
      ValueError: two penalties or terms of one name; (from the objective) a memory is missing.
      AssertionError: (from the objective) the batch's x is not floating or its labels are of
        another number; D's logits are not [B] or [B, ...]; the loss, a penalty or a term returned
        anything but one floating number for each example.
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
    """G's loss on as many fresh fakes as the batch has examples, plus the weighted terms.

    Metrics: `generator_loss` (without terms), and each term's unweighted mean by `generator_` and
    its name.

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
    """Both objectives as functions `(generator_params, discriminator_params) -> []`.

    The game around a point of training, for `gan_jax.theory`: its vector field, the eigenvalues
    of that field's Jacobian. Generator's first; batch, noise and model state are held fixed.
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

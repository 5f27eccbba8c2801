"""Weighted penalties and terms of a player's loss, and their memories."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gan_jax.algorithms.passes import AUGMENTATION, Played
from gan_jax.contract import num_examples, one_each
from gan_jax.types import (
    Array,
    Augment,
    Augmentation,
    Bound,
    Metrics,
    Pass,
    PlayerState,
    PyTree,
    WeightedPenalty,
    WeightedTerm,
    WithMemory,
)


def term_name(term: Any) -> str:
    """Returns the name of the function that computes a penalty or term.

    For a `functools.partial` this is the name of the function inside it.
    """
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
    """The critic passed to penalties: x [B, ...] -> logits [B].

    If D returns a map of logits, its mean is used.
    """

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


def add_terms(
    terms: Sequence[tuple[str, Callable[..., Any] | WithMemory, Any]],
    played: Played,
    player: PlayerState,
    total: Array,
    memory: dict[str, PyTree],
) -> tuple[Array, Metrics, dict[str, PyTree]]:
    """Returns the loss plus weighted terms, the mean of each term by name, and the new memories."""
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
    """Returns the term's batch mean in `dtype`, and all memories after this term's update."""
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

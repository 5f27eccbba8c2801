"""Adaptive discriminator augmentation: feedback control of an augmentation's strength."""

from collections.abc import Callable

import jax.numpy as jnp

from gan_jax.types import Array, Augmentation, Output, PyTree


def adaptive(
    augment: Callable[[Array, PyTree, Array], PyTree], *, rate: float, target: float = 0.6
) -> Augmentation:
    """ADA: an augmentation whose probability p rises while D overfits (Karras et al. 2020, section
    3.1).

    r_t = E[sign(logit)] over real samples measures how much D overfits. Each update of D changes p
    by `rate`, within [0, 1]: up if the r_t of the previous update is above the target, and down if
    it is below. p starts at 0. It is stored in D's memory, as
    `state.discriminator.memory["augmentation"]["p"]`, so a resumed run continues with it.

    Args:
      augment: `(key, x [...], p []) -> x [...]`, which changes one example with probability p.
      rate: the change of p per update, above 0. It is the batch size divided by the number of
        images in which p may rise from 0 to 1. The paper uses 500,000 images.
      target: the desired r_t, in (-1, 1).

    Raises:
      ValueError: a rate or a target out of range.
    """
    if not rate > 0:
        raise ValueError(f"rate must be above 0, got {rate}: batch size / 500,000 is usual")
    if not -1 < target < 1:
        raise ValueError(f"target must be between -1 and 1, got {target}: 0.6 is usual")

    def init() -> dict[str, Array]:
        # No update precedes the first one. r_t starts at the target, so p does not change.
        return {"p": jnp.zeros(()), "r_t": jnp.full((), target, float)}

    def apply(key: Array, x: PyTree, memory: dict[str, Array], step: Array) -> PyTree:
        del step
        return augment(key, x, memory["p"])

    def update(memory: dict[str, Array], real_output: Output) -> dict[str, Array]:
        # Devices and microbatches sum r_t in a different order, so its last digits differ. Rounding
        # removes them.
        towards = jnp.sign(jnp.round(memory["r_t"] - target, 5))
        return {
            "p": jnp.clip(memory["p"] + rate * towards, 0.0, 1.0),
            "r_t": jnp.mean(jnp.sign(real_output.logits)).astype(memory["r_t"].dtype),
        }

    return Augmentation(init, apply, update)

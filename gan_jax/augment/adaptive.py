"""Adaptive discriminator augmentation: a feedback on the strength of an augmentation."""

from collections.abc import Callable

import jax.numpy as jnp

from gan_jax.types import Array, Augmentation, Output, PyTree


def adaptive(
    augment: Callable[[Array, PyTree, Array], PyTree], *, rate: float, target: float = 0.6
) -> Augmentation:
    """ADA: the probability p of an augmentation rises while D overfits (Karras et al. 2020, 3.1).

    r_t = E[sign(logit)] over the real samples says how far D overfits. In each update of D, p moves
    by `rate` towards more augmentation if r_t of the update before is above the target, else
    towards less, within [0, 1]. p begins at 0 and is kept in D's memory, so that a resumed run
    goes on with it: `state.discriminator.memory["augmentation"]["p"]`.

    Args:
      augment: `(key, x [...], p []) -> x [...]`, a change of one example with probability p.
      rate: above 0, the change of p in one update: the batch size over the number of images in
        which p may go from 0 to 1, 500,000 in the paper.
      target: in (-1, 1), the r_t to hold.

    Raises:
      ValueError: a rate or a target out of range.
    """
    if rate <= 0:
        raise ValueError(f"rate must be above 0, got {rate}: batch size / 500,000 is usual")
    if not -1 < target < 1:
        raise ValueError(f"target must be between -1 and 1, got {target}: 0.6 is usual")

    def init() -> dict[str, Array]:
        # The update before the first had nothing to say: at the target, p stays.
        return {"p": jnp.zeros(()), "r_t": jnp.full((), target, float)}

    def apply(key: Array, x: PyTree, memory: dict[str, Array], step: Array) -> PyTree:
        del step
        return augment(key, x, memory["p"])

    def update(memory: dict[str, Array], real_output: Output) -> dict[str, Array]:
        # Devices and microbatches average r_t in parts, which round it in another way.
        towards = jnp.sign(jnp.round(memory["r_t"] - target, 5))
        return {
            "p": jnp.clip(memory["p"] + rate * towards, 0.0, 1.0),
            "r_t": jnp.mean(jnp.sign(real_output.logits)),
        }

    return Augmentation(init, apply, update)

"""Control of an augmentation's probability p: by feedback, as ADA does, or by a schedule."""

from collections.abc import Callable

import jax.numpy as jnp

from gan_jax.types import Array, Augmentation, Output, PyTree


def adaptive(
    augment: Callable[[Array, PyTree, Array], PyTree], *, rate: float, target: float = 0.6
) -> Augmentation:
    """Returns ADA, an augmentation whose probability p rises while D overfits.

    The method is that of Karras et al. 2020, section 3.1.

    r_t = E[sign(logit)] over real samples measures how much D overfits. Each update of D raises or
    lowers p by `rate`, but p stays in [0, 1]. p rises if the r_t of the previous update is above
    the target, and falls if that r_t is below the target. p starts at 0. D's memory stores p, as
    `state.discriminator.memory["augmentation"]["p"]`, so a resumed run continues with this p.

    Args:
      augment: `(key, x [...], p []) -> x [...]`, which changes one example with probability p.
        For images, use `ada.pipe`.
      rate: the change of p per update, above 0. The paper uses the batch size divided by 500,000,
        so p needs at least 500,000 images to rise from 0 to 1.
      target: the desired r_t, in (-1, 1).

    Raises:
      ValueError: `rate` or `target` is out of range.
    """
    if not rate > 0:
        raise ValueError(f"rate must be above 0, got {rate}: batch size / 500,000 is usual")
    if not -1 < target < 1:
        raise ValueError(f"target must be between -1 and 1, got {target}: 0.6 is usual")

    def init() -> dict[str, Array]:
        # r_t starts at the target, so that the first update does not change p.
        return {"p": jnp.zeros(()), "r_t": jnp.full((), target, float)}

    def apply(key: Array, x: PyTree, memory: dict[str, Array], step: Array) -> PyTree:
        del step
        return augment(key, x, memory["p"])

    def update(memory: dict[str, Array], real_output: Output) -> dict[str, Array]:
        # The last digits of r_t depend on the numbers of devices and microbatches, which change the
        # order of a sum. Rounding removes these digits.
        towards = jnp.sign(jnp.round(memory["r_t"] - target, 5))
        return {
            "p": jnp.clip(memory["p"] + rate * towards, 0.0, 1.0),
            "r_t": jnp.mean(jnp.sign(real_output.logits)).astype(memory["r_t"].dtype),
        }

    return Augmentation(init, apply, update)


def scheduled(
    augment: Callable[[Array, PyTree, Array], PyTree], p: Callable[[Array], Array]
) -> Augmentation:
    """Returns an augmentation whose probability p is a function of the number of D's updates.

    R3GAN (Huang et al. 2024) raises p in this way: see `gan_jax.schedules.half_cosine`.

    Args:
      augment: as for `adaptive`.
      p: `step [] -> p []`, where `step` is the number of updates D has made.
    """

    def apply(key: Array, x: PyTree, memory: PyTree, step: Array) -> PyTree:
        del memory
        return augment(key, x, p(step))

    return without_memory(apply)


def without_memory(apply: Callable[[Array, PyTree, PyTree, Array], PyTree]) -> Augmentation:
    """Returns an augmentation with an empty memory, from `(key, x, memory, step) -> x`."""
    return Augmentation(tuple, apply, lambda memory, _: memory)

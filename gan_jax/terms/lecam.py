"""LeCam regularisation: D's logits stay near their moving averages."""

import jax.numpy as jnp

from gan_jax.contract import CheckedCritic, checked
from gan_jax.types import Array, PyTree, WithMemory


def lecam(decay: float = 0.99) -> WithMemory:
    """(D(x) - a_F)^2 + (D(G(z)) - a_R)^2 (Tseng et al. 2021, equations 4 and 5).

    a_R and a_F are moving averages of D's mean logit on real and on fake samples; the penalty
    pulls each kind's logits to the other's average.

    The averages are those of the updates before this one, so that no part of a batch and no device
    needs to know of the others; they are freed of their start at 0, as in the authors' code, and
    the first update, which has none, has no penalty. (That code counts this update's mean too, and
    takes the square of the positive part of D(x) - a_F and of a_R - D(G(z)); the paper does not.)

    Args:
      decay: in [0, 1), the gamma of equation 5.

    Raises:
      ValueError: a decay out of range.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}: 0.99 is usual")

    def init() -> dict[str, Array]:
        return {name: jnp.zeros(()) for name in ("real", "fake", "weight")}

    @checked
    def apply(
        critic: CheckedCritic, real: PyTree, fake: PyTree, key: Array, memory: dict[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        del key
        of_real, of_fake = critic(real), critic.on_fake(fake)
        known = memory["weight"] > 0
        weight = jnp.where(known, memory["weight"], 1.0)
        far = jnp.square(of_real - memory["fake"] / weight)
        far += jnp.square(of_fake - memory["real"] / weight)
        now = {"real": jnp.mean(of_real), "fake": jnp.mean(of_fake), "weight": jnp.ones(())}
        after = {name: decay * memory[name] + (1 - decay) * now[name] for name in memory}
        return jnp.where(known, far, 0.0), after

    return WithMemory(init, apply, "lecam")

"""LeCam regularisation: pulls D's logits towards their moving averages."""

import jax.numpy as jnp

from gan_jax.contract import CheckedCritic, checked
from gan_jax.types import Array, PyTree, WithMemory


def lecam(decay: float = 0.99) -> WithMemory:
    """Returns the penalty (D(x) - a_F)^2 + (D(G(z)) - a_R)^2 (Tseng et al. 2021, equations 4 and
    5).

    a_R is the moving average of D's mean logit on real samples, and a_F is the moving average of
    its mean logit on fake samples. The penalty pulls the real logits towards a_F and the fake
    logits towards a_R.

    The averages include only earlier updates, so they are the same for all devices and
    microbatches. Both averages start at 0 and are corrected for this start, as in the authors'
    code. The first update has no averages and therefore no penalty. The authors' code differs from
    this function in two ways: its averages include the current update, and it squares only the
    positive parts of D(x) - a_F and a_R - D(G(z)). The paper does neither.

    Args:
      decay: decay of the averages, in [0, 1), called gamma in equation 5.

    Raises:
      ValueError: `decay` is out of range.
      AssertionError: raised by the penalty if samples or logits have a wrong shape or type. See
        `gan_jax.penalties`.
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

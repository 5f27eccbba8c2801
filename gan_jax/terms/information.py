"""InfoGAN: a head of D recovers a code from G's input."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import optax

from gan_jax.terms.classification import head_of
from gan_jax.types import Array, Pass, PyTree, Term


def information(
    code: Callable[[PyTree], Array],
    head: str = "code",
    *,
    posterior: Literal["categorical", "normal"] = "categorical",
) -> Term:
    """Returns the term -log q(c | G(z)) in nats, where the code c is part of z (Chen et al. 2016,
    eq. 5).

    The mutual information between code and samples is at least the entropy of the code minus the
    mean of this term. Give the term to both players with the same weight, so that D's head and G
    both raise this lower bound.

    Args:
      code: a function from the latents z to their code. The code is [B] integers for "categorical",
        or [B, K] numbers for "normal".
      head: the name of D's head. For "categorical" the head contains class logits [B, K]. For
        "normal" it contains the means [B, K] of normal distributions with variance 1. The term then
        leaves out the constant log(2 pi) / 2 of each number.
      posterior: the type of the distribution q, "categorical" or "normal".

    Raises:
      ValueError: `posterior` is neither of these names. The term raises ValueError if D has no such
        head.
    """
    if posterior not in ("categorical", "normal"):
        raise ValueError(f"posterior must be categorical or normal, got {posterior!r}")

    def information(seen: Pass) -> Array:
        given, recovered = code(seen.z), head_of(seen.fake_output, head)
        if posterior == "categorical":
            return optax.softmax_cross_entropy_with_integer_labels(recovered, given)
        return jnp.sum(jnp.square(recovered - given), axis=-1) / 2

    return information

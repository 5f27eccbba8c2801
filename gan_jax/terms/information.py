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

    The entropy of the code minus the mean of this term is a lower bound of the mutual information
    between code and samples. Give the term to both players with the same weight, so that both D's
    head and G raise the bound.

    Args:
      code: returns the code of the latents z: [B] integers, or [B, K] numbers for "normal".
      head: the name of D's head. For "categorical" the head contains class logits [B, K]. For
        "normal" it contains the means [B, K] of normal distributions with unit variance, and the
        constant log(2 pi) / 2 per number is left out.
      posterior: the family of q.

    Raises:
      ValueError: another posterior. The term raises it if D has no such head.
    """
    if posterior not in ("categorical", "normal"):
        raise ValueError(f"posterior must be categorical or normal, got {posterior!r}")

    def information(seen: Pass) -> Array:
        given, recovered = code(seen.z), head_of(seen.fake_output, head)
        if posterior == "categorical":
            return optax.softmax_cross_entropy_with_integer_labels(recovered, given)
        return jnp.sum(jnp.square(recovered - given), axis=-1) / 2

    return information

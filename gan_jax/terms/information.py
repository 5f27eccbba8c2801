"""InfoGAN: a head of D recovers a code that G was given."""

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
    """-log q(c | G(z)) in nats, c a code that is a part of z (Chen et al. 2016, equation 5).

    The entropy of the code minus this term's mean is a lower bound of the mutual information of the
    code and the samples. Give it to both players with one weight: D's head and G raise the bound.

    Args:
      code: the code of the latents z: [B] integers, or [B, K] numbers for "normal".
      head: the name of D's head: class logits [B, K] for "categorical"; for "normal" the means
        [B, K] of unit normal distributions, whose constant log 2 pi / 2 a number is left out.
      posterior: the family of q.

    Raises:
      ValueError: another posterior; (from the term) D has no such head.
    """
    if posterior not in ("categorical", "normal"):
        raise ValueError(f"posterior must be categorical or normal, got {posterior!r}")

    def information(seen: Pass) -> Array:
        given, recovered = code(seen.z), head_of(seen.fake_output, head)
        if posterior == "categorical":
            return optax.softmax_cross_entropy_with_integer_labels(recovered, given)
        return jnp.sum(jnp.square(recovered - given), axis=-1) / 2

    return information

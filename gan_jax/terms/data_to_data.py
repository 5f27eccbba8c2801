"""ReACGAN: a sample should resemble its class more than samples of other classes."""

from typing import Literal

import jax
import jax.numpy as jnp

from gan_jax import batches
from gan_jax.parallel import split_alike
from gan_jax.terms.classification import head_of
from gan_jax.types import Array, Pass, Term


def data_to_data(
    of: Literal["real", "fake"],
    embedding: str = "embedding",
    proxy: str = "proxy",
    *,
    temperature: float = 0.5,
    margin: float = 0.98,
) -> Term:
    """Returns the data-to-data cross-entropy of ReACGAN (Kang et al. 2021, equation 7).

    With the cosine s_i between a sample's embedding and the proxy of its class, and the cosines
    s_ij between embeddings, the term of sample i is

        -log(exp(min(s_i - margin, 0) / t) / (exp(min(s_i - margin, 0) / t)
             + sum_j exp(max(s_ij - (1 - margin), 0) / t)))

    The sum is over the samples j of other classes in the batch of all devices. The margins stop the
    gradient of samples that are easy to classify. AC-GAN's cross-entropy has no such limit, and
    fails with many classes.

    Usual weight: 0.5 for both players. Give D the term of the real samples, and G that of the
    fakes.

    Args:
      of: whether the term is that of the real samples or that of the fakes.
      embedding, proxy: names of D's heads [B, F] with vectors of length 1, such as those of
        `gan_jax.nn.judged`.
      temperature: t, above 0.
      margin: the cosine above which a sample is close enough to its class.

    Raises:
      ValueError: `of` is neither name, or `temperature` is not above 0. The term raises ValueError
        if D has no such heads or the batch has no labels.
    """
    if of not in ("real", "fake"):
        raise ValueError(f"of must be 'real' or 'fake', got {of!r}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}: 0.5 is usual")

    def data_to_data(seen: Pass) -> Array:
        output = seen.real_output if of == "real" else seen.fake_output
        label = seen.real_label if of == "real" else seen.fake_label
        if label is None:
            raise ValueError("data_to_data needs labels: give Batch(x, label)")
        of_sample, of_class = head_of(output, embedding), head_of(output, proxy)
        others, other_label = batches.gather(of_sample), batches.gather(label)
        return split_alike(contrast, of_sample, of_class, label, others, other_label)

    def contrast(
        of_sample: Array, of_class: Array, label: Array, others: Array, other_label: Array
    ) -> Array:
        own = jnp.minimum(jnp.sum(of_sample * of_class, axis=1) - margin, 0) / temperature
        between = jnp.maximum(of_sample @ others.T - (1 - margin), 0) / temperature
        between = jnp.where(label[:, None] != other_label[None], between, -jnp.inf)
        return jax.nn.logsumexp(jnp.concatenate([own[:, None], between], axis=1), axis=1) - own

    return data_to_data

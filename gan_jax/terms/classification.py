"""An auxiliary classifier: a head of D predicts the class of a sample."""

import optax

from gan_jax.types import Array, Output, Pass, PyTree, Term


def classification(head: str = "label", *, real: bool = True, fake: bool = True) -> Term:
    """Returns AC-GAN's term: the cross-entropy of D's class logits and the labels.

    The term is defined by Odena et al. 2017, equation 2.

    Give D the term with the defaults. Give G the term with `real=False`, because the real samples
    do not depend on G.

    Args:
      head: the name of the head with class logits [B, K].
      real, fake: whether the term includes the real samples, and whether it includes the fake
        samples. If both are True, the two cross-entropies are added.

    Raises:
      ValueError: `real` and `fake` are both False. The term raises ValueError if D has no such head
        or the batch has no labels.
    """
    if not (real or fake):
        raise ValueError("real and fake are both False: set at least one to True")

    def classification(seen: Pass) -> Array:
        of_real = _cross_entropy(seen.real_output, head, seen.real_label)
        of_fake = _cross_entropy(seen.fake_output, head, seen.fake_label)
        return of_real * real + of_fake * fake

    return classification


def _cross_entropy(output: Output, head: str, label: PyTree | None) -> Array:
    if label is None:
        raise ValueError("classification needs labels: give Batch(x, label)")
    logits = head_of(output, head)
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def head_of(output: Output, head: str) -> PyTree:
    """Returns the head of D's output with this name.

    Raises:
      ValueError: D has no head with this name.
    """
    if head not in output.heads:
        raise ValueError(
            f"head {head!r} is not one of D's heads, which are {sorted(output.heads) or 'none'}: "
            "return gan_jax.Output(logits, {name: array}) from D"
        )
    return output.heads[head]

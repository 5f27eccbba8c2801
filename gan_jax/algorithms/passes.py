"""One pass through both networks. The terms of both players read its results."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gan_jax.contract import check_batch, check_made_like, check_output, num_examples
from gan_jax.random import Stream, draw, per_example
from gan_jax.types import (
    GAN,
    Apply,
    Array,
    Augment,
    Augmentation,
    Batch,
    Bound,
    Network,
    Output,
    Pass,
    PlayerState,
    PyTree,
)

AUGMENTATION = "augmentation"
"""The key of the augmentation's memory in D's memory."""

FakeLabels: TypeAlias = Callable[[Array, int], PyTree]
"""`(key, num) -> labels [num]`. Fakes get these labels instead of those of the real batch."""


def _judge(
    discriminator: Network, augmentation: Augment | Augmentation | None, of: PlayerState
) -> Apply:
    """Returns D's `apply` function with the augmentation in front of it.

    The returned function gives an `Output`. The argument `of` is D's state.
    """

    def judge(
        params: PyTree,
        model_state: PyTree,
        x: PyTree,
        label: PyTree | None = None,
        /,
        *,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Output, PyTree]:
        num = num_examples(x)
        if augmentation is not None:
            assert key is not None
            key, key_augmentation = jax.random.split(key)
            keys = per_example(key_augmentation, x)
            if isinstance(augmentation, Augmentation):
                known = of.memory[AUGMENTATION]
                x = jax.vmap(lambda key, x: augmentation.apply(key, x, known, of.step))(keys, x)
            else:
                x = jax.vmap(augmentation)(keys, x)
        output, model_state = discriminator.apply(
            params, model_state, x, label, train=train, key=key
        )
        return check_output(output, num, "the discriminator"), model_state

    return judge


class Played(NamedTuple):
    """The result of one pass through both networks.

    Attributes:
      seen: the arguments of the terms.
      keys: two keys for each term, the first for D and the second for the term.
      generator_state, discriminator_state: the model states after the pass.
    """

    seen: Pass
    keys: Sequence[Array]
    generator_state: PyTree
    discriminator_state: PyTree


def play(
    gan: GAN,
    generator: PlayerState,
    discriminator: PlayerState,
    batch: Batch,
    key: Array,
    *,
    augmentation: Augment | Augmentation | None,
    fake_labels: FakeLabels | None,
    num_terms: int,
    moving: bool,
) -> Played:
    """Returns fresh fakes together with D's outputs for the fakes and for the real batch.

    If `moving` is True, D's second pass starts from the model state after D's first pass. D's
    objective needs True, and G's objective needs False.
    """
    check_batch(batch)
    if isinstance(augmentation, Augmentation) and AUGMENTATION not in discriminator.memory:
        raise ValueError(
            "the augmentation has no memory in the discriminator's state: give init the same "
            "augmentation as the step"
        )
    key_z, key_generator, key_real, key_fake, *keys = jax.random.split(key, 4 + 2 * num_terms)
    z = draw(gan.prior, key_z, batch.x)
    label = batch.label
    if fake_labels is not None:
        label = draw(fake_labels, jax.random.fold_in(key, Stream.LABELS), batch.x)
    try:
        fake, generator_state = gan.generator.apply(
            generator.params, generator.model_state, z, label, train=True, key=key_generator
        )
    except Exception as error:
        shapes = jax.tree.map(jnp.shape, (batch.x, label))
        error.add_note(
            "raised by the generator in an update of one player, for batch.x of shape "
            f"{shapes[0]} and labels of shape {shapes[1]}. The update takes [B, ...]"
        )
        raise
    check_made_like(fake, batch.x)
    judge = _judge(gan.discriminator, augmentation, discriminator)
    params, first = discriminator.params, discriminator.model_state
    # In G's update only relativistic losses and some terms read D's output for real samples. In the
    # other cases the compiler removes this pass.
    real_output, second = judge(params, first, batch.x, batch.label, train=True, key=key_real)
    fake_output, last = judge(
        params, second if moving else first, fake, label, train=True, key=key_fake
    )
    seen = Pass(
        real=batch.x,
        fake=fake,
        z=z,
        real_label=batch.label,
        fake_label=label,
        real_output=real_output,
        fake_output=fake_output,
        generator=Bound(
            gan.generator.apply, generator.params, generator.model_state, key_generator
        ),
        discriminator=Bound(judge, params, first, key_fake),
        step=(discriminator if moving else generator).step,
        key=key,
    )
    return Played(seen, keys, generator_state, last)

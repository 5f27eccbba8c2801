"""PacGAN: a discriminator that judges several samples at once and so can detect missing modes."""

from typing import Any

import jax
import jax.numpy as jnp

from gan_jax.types import GAN, Array, Network, PyTree


def packed(gan: GAN, size: int) -> GAN:
    """Returns a GAN whose D judges packs of `size` samples (Lin et al. 2018, section 3).

    D receives the samples of a pack joined along the last axis: the channels of images, or the
    features of vectors. D returns one logit for the pack. G makes each sample of a pack from
    separate noise. G's parameters are those of the original G, so `sample(gan, state, ...)` draws
    single samples. Losses and penalties treat a pack as one example. If G itself is random, for
    example through dropout, its samples depend on the number of microbatches.

    Args:
      gan: any GAN. The `init` of its D must adapt to `size` times as many channels.
      size: number of samples in a pack, called m in the paper. With 1, only the shapes change.

    Returns:
      A GAN. Its prior draws z [num, size, L], its G maps z to x [num, size, ...], and its D maps x
        to logits [num]. If the prior draws a tree, each array [num, ...] becomes [num, size, ...].
        Batches are [B, size, ...], and a label [B] applies to all samples of a pack.

    Raises:
      ValueError: `size` is below 1. A call raises ValueError if the batch does not consist of packs
        of `size` or the labels are not [B].
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")

    def prior(key: Array, num: int) -> PyTree:
        return jax.tree.map(
            lambda leaf: leaf.reshape(num, size, *leaf.shape[1:]), gan.prior(key, num * size)
        )

    def of_each(z: PyTree, label: Array | None) -> tuple[PyTree, Array | None]:
        """Returns z [num * size, L] and labels [num * size], one row for each sample."""
        _check_label(jax.tree.leaves(z)[0], label)
        return (
            jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), z),
            None if label is None else jnp.repeat(label, size),
        )

    def joined(x: Array) -> Array:
        """Reshapes [num, size, ..., C] to [num, ..., size * C]."""
        if x.ndim < 3 or x.shape[1] != size:
            raise ValueError(
                f"the batch has shape {x.shape}: a GAN of packs takes [B, {size}, ...], "
                f"{size} samples in each pack"
            )
        side_by_side = jnp.moveaxis(x, 1, -2)
        return side_by_side.reshape(*side_by_side.shape[:-2], -1)

    def init_generator(key: Array, z: PyTree, label: Array | None = None) -> tuple[PyTree, PyTree]:
        return gan.generator.init(key, *of_each(z, label))

    def generate(
        params: PyTree, model_state: PyTree, z: PyTree, label: Array | None = None, **options: Any
    ) -> tuple[Array, PyTree]:
        x, model_state = gan.generator.apply(params, model_state, *of_each(z, label), **options)
        return x.reshape(-1, size, *x.shape[1:]), model_state

    def init_discriminator(
        key: Array, x: Array, label: Array | None = None
    ) -> tuple[PyTree, PyTree]:
        _check_label(x, label)
        return gan.discriminator.init(key, joined(x), label)

    def judge(
        params: PyTree, model_state: PyTree, x: Array, label: Array | None = None, **options: Any
    ) -> tuple[Array, PyTree]:
        _check_label(x, label)
        return gan.discriminator.apply(params, model_state, joined(x), label, **options)

    return GAN(
        Network(init_generator, generate),
        Network(init_discriminator, judge),
        prior,
    )


def _check_label(x: Array, label: Array | None) -> None:
    if label is not None and label.shape != x.shape[:1]:
        raise ValueError(
            f"labels have shape {label.shape} for {x.shape[0]} packs: give one label for each "
            "pack, whose samples all have that class"
        )

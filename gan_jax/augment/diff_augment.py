"""DiffAugment (Zhao et al. 2020), differentiable augmentation with a fixed strength."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp

from gan_jax.augment.images import check_image, cut_out, shifted
from gan_jax.trees import at_least_single
from gan_jax.types import Array

Policy: TypeAlias = Literal["colour", "translation", "cutout"]
POLICIES: tuple[Policy, ...] = ("colour", "translation", "cutout")


def diff_augment(key: Array, x: Array, *, policy: Sequence[Policy] = POLICIES) -> Array:
    """Returns one image after the random changes of DiffAugment (Zhao et al. 2020).

    The changes are made in the order of the list below, whatever the order in `policy`.

    - colour: brightness is changed by up to 0.5. Saturation is multiplied by a number in [0, 2],
      and contrast by a number in [0.5, 1.5]. Saturation does not change a grey image.
    - translation: a shift by whole pixels, up to 1/8 of each side. Zeros fill the gaps.
    - cutout: a square of half a side is set to 0. A part of it may lie outside the image.

    Use it as `augmentation=diff_augment`, or `partial(diff_augment, policy=("colour",))`. The steps
    apply it to real and fake samples in D's update and to fake samples in G's update, as the paper
    requires. Each of them gets its own random change.

    Args:
      key: a single key.
      x: [H, W, C] in [-1, 1]. The result may leave this range.
      policy: the changes to make.

    Raises:
      ValueError: x is not an image [H, W, C], or `policy` has an unknown name.
    """
    check_image(x)
    if isinstance(policy, str) or not set(policy) <= set(POLICIES):
        raise ValueError(
            f"policy must be a tuple of names among {', '.join(POLICIES)}, got {policy!r}"
        )
    key_colour, key_shift, key_cutout = jax.random.split(key, 3)
    y = at_least_single(x)
    if "colour" in policy:
        brightness, saturation, contrast = jax.random.uniform(key_colour, (3,), y.dtype)
        y = y + (brightness - 0.5)
        y = _about(jnp.mean(y, axis=-1, keepdims=True), y, 2 * saturation)
        y = _about(jnp.mean(y, keepdims=True), y, 0.5 + contrast)
    if "translation" in policy:
        y = shifted(key_shift, y, [_rounded(side / 8) for side in y.shape[:2]], mode="constant")
    if "cutout" in policy:
        size = jnp.array([_rounded(side / 2) for side in y.shape[:2]])
        centre = jax.random.randint(key_cutout, (2,), 0, jnp.array(y.shape[:2]) + 1 - size % 2)
        y = cut_out(y, centre - size // 2, size)
    return y.astype(x.dtype)


def _about(mean: Array, x: Array, factor: Array) -> Array:
    return mean + factor * (x - mean)


def _rounded(length: float) -> int:
    return int(length + 0.5)

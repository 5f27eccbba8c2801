"""Random changes of samples before the discriminator sees them."""

from gan_jax.augment import ada
from gan_jax.augment.adaptive import adaptive, scheduled
from gan_jax.augment.diff_augment import diff_augment
from gan_jax.augment.images import flip, shift, shift_and_flip
from gan_jax.augment.noise import instance_noise, mixed_scales

__all__ = [
    "ada",
    "adaptive",
    "diff_augment",
    "flip",
    "instance_noise",
    "mixed_scales",
    "scheduled",
    "shift",
    "shift_and_flip",
]

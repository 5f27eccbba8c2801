"""Random changes of samples before the discriminator sees them."""

from gan_jax.augment.adaptive import adaptive
from gan_jax.augment.images import flip, shift, shift_and_flip
from gan_jax.augment.noise import instance_noise, mixed_scales

__all__ = ["adaptive", "flip", "instance_noise", "mixed_scales", "shift", "shift_and_flip"]

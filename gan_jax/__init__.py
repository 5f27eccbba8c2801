"""Generative adversarial networks as pure functions.

A GAN is two pure networks, a prior, a loss and two optimizers; a training step is a pure function
`(TrainState, Batch) -> (TrainState, Metrics)`. The start is `gan_jax.types`.
"""

from gan_jax import algorithms, losses, optimizers, penalties, priors
from gan_jax.algorithms import (
    init,
    make_discriminator_step,
    make_generator_step,
    make_train_step,
    rising_decay,
    sample,
    warm_start,
)
from gan_jax.augment import instance_noise, mixed_scales
from gan_jax.networks import (
    from_equinox,
    from_linen,
    from_nnx,
    mixed_precision,
    packed,
    rematerialised,
)
from gan_jax.types import GAN, AdversarialLoss, Batch, Network, PlayerState, TrainState

__all__ = [
    "GAN",
    "AdversarialLoss",
    "Batch",
    "Network",
    "PlayerState",
    "TrainState",
    "algorithms",
    "from_equinox",
    "from_linen",
    "from_nnx",
    "init",
    "instance_noise",
    "losses",
    "make_discriminator_step",
    "make_generator_step",
    "make_train_step",
    "mixed_precision",
    "mixed_scales",
    "optimizers",
    "packed",
    "penalties",
    "priors",
    "rematerialised",
    "rising_decay",
    "sample",
    "warm_start",
]

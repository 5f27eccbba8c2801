"""Generative adversarial networks as pure functions.

A GAN is two pure networks, a prior, a loss and two optimizers. A training step is a pure function
`(TrainState, Batch) -> (TrainState, Metrics)`. Read `gan_jax.types` first.
"""

from gan_jax import algorithms, augment, losses, networks, optimizers, penalties, priors, terms
from gan_jax.algorithms import (
    adversarial,
    generate,
    init,
    make_algorithm,
    make_discriminator_step,
    make_generator_step,
    make_player_step,
    make_train_step,
    rising_decay,
    sample,
    warm_start,
)
from gan_jax.networks import (
    from_equinox,
    from_linen,
    from_nnx,
    mixed_precision,
    packed,
    rematerialised,
)
from gan_jax.types import (
    GAN,
    AdversarialLoss,
    Algorithm,
    Augmentation,
    Batch,
    Metrics,
    Network,
    Output,
    Pass,
    Penalty,
    PlayerState,
    StepFn,
    Term,
    TrainState,
    WithMemory,
)

__version__ = "0.1.0"

__all__ = [
    "GAN",
    "AdversarialLoss",
    "Algorithm",
    "Augmentation",
    "Batch",
    "Metrics",
    "Network",
    "Output",
    "Pass",
    "Penalty",
    "PlayerState",
    "StepFn",
    "Term",
    "TrainState",
    "WithMemory",
    "adversarial",
    "algorithms",
    "augment",
    "from_equinox",
    "from_linen",
    "from_nnx",
    "generate",
    "init",
    "losses",
    "make_algorithm",
    "make_discriminator_step",
    "make_generator_step",
    "make_player_step",
    "make_train_step",
    "mixed_precision",
    "networks",
    "optimizers",
    "packed",
    "penalties",
    "priors",
    "rematerialised",
    "rising_decay",
    "sample",
    "terms",
    "warm_start",
]

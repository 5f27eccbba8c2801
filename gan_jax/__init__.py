"""Generative adversarial networks as pure functions.

A GAN is two pure networks, a prior, a loss and two optimizers. A training step is a pure function
`(TrainState, Batch) -> (TrainState, Metrics)`. Read `gan_jax.types` first.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gan_jax import (
    algorithms,
    augment,
    losses,
    networks,
    nn,
    optimizers,
    parallel,
    penalties,
    priors,
    schedules,
    terms,
)
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
    "data",
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
    "metrics",
    "mixed_precision",
    "models",
    "networks",
    "nn",
    "optimizers",
    "packed",
    "parallel",
    "penalties",
    "priors",
    "rematerialised",
    "rising_decay",
    "sample",
    "schedules",
    "terms",
    "theory",
    "warm_start",
]

if TYPE_CHECKING:
    from gan_jax import data, metrics, models, theory
else:

    def __getattr__(name: str) -> Any:
        """Imports a module of `__all__` when it is first used (PEP 562)."""
        if name in __all__:
            return import_module(f"gan_jax.{name}")
        raise AttributeError(f"module 'gan_jax' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

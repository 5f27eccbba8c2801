"""Training algorithms: the objective and the update of each player, and the steps of both players.

Simultaneous and alternating gradient descent can circle an equilibrium instead of converging
(Mescheder et al. 2017, section 3). Consensus steps and unrolled steps avoid this circling. The
extragradient and lookahead methods wrap an optimizer, so they are in `gan_jax.optimizers`.
"""

from gan_jax.algorithms.alternating import (
    adversarial,
    make_algorithm,
    make_discriminator_step,
    make_generator_step,
    make_train_step,
)
from gan_jax.algorithms.consensus import make_consensus_steps
from gan_jax.algorithms.initial import init, warm_start
from gan_jax.algorithms.objectives import (
    Aux,
    Objective,
    discriminator_objective,
    generator_objective,
)
from gan_jax.algorithms.player import make_player_step, rising_decay
from gan_jax.algorithms.sampling import generate, sample
from gan_jax.algorithms.simultaneous import make_simultaneous_step
from gan_jax.algorithms.unrolled import make_unrolled_generator_step

__all__ = [
    "Aux",
    "Objective",
    "adversarial",
    "discriminator_objective",
    "generate",
    "generator_objective",
    "init",
    "make_algorithm",
    "make_consensus_steps",
    "make_discriminator_step",
    "make_generator_step",
    "make_player_step",
    "make_simultaneous_step",
    "make_train_step",
    "make_unrolled_generator_step",
    "rising_decay",
    "sample",
    "warm_start",
]

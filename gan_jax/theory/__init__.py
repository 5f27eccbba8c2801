"""The theory as functions: divergences, the optimal discriminator, densities and game dynamics.

The modules of `gan_jax.theory` do not import the training code, so tests can compare theory and
training code.
"""

from gan_jax.theory.divergences import (
    F_DIVERGENCES,
    FDivergence,
    f_divergence,
    js_divergence,
    kl_divergence,
    variational_bound,
)
from gan_jax.theory.games import (
    DIRAC_GANS,
    Game,
    bilinear,
    consensus,
    dirac_eigenvalues,
    dirac_gan,
    game_eigenvalues,
    game_jacobian,
    local_convergence,
    vector_field,
)
from gan_jax.theory.optimum import criterion, optimal_discriminator, optimal_logit, value
from gan_jax.theory.pushforward import branched_log_prob, pushforward_log_prob

__all__ = [
    "DIRAC_GANS",
    "F_DIVERGENCES",
    "FDivergence",
    "Game",
    "bilinear",
    "branched_log_prob",
    "consensus",
    "criterion",
    "dirac_eigenvalues",
    "dirac_gan",
    "f_divergence",
    "game_eigenvalues",
    "game_jacobian",
    "js_divergence",
    "kl_divergence",
    "local_convergence",
    "optimal_discriminator",
    "optimal_logit",
    "pushforward_log_prob",
    "value",
    "variational_bound",
    "vector_field",
]

"""The theory as functions: divergences, the optimal discriminator, densities and game dynamics.

The modules of `gan_jax.theory` do not import the training code, so tests can compare theory and
training code.

The density p of the data and the density q of the generator's samples are given by their logarithms
`log_p` and `log_q` [N] at nodes with `weights` [N]. `gan_jax.theory.quadrature` makes nodes and
weights. For a probability vector the weights are ones. D is given by its `logit`, where D =
sigmoid(logit). Logarithms are natural, so values are in nats. `generator_params` and
`discriminator_params` are the parameters of a game's players, any pytrees.
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

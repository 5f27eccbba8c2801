"""Two-player games as vector fields, their equilibria and the convergence of training.

A game consists of two losses. Each loss is a function of the generator's parameters theta and the
discriminator's parameters psi, which may be any pytrees. The players follow the vector field v =
(-dL_G/dtheta, -dL_D/dpsi). An equilibrium is a zero of v. If all eigenvalues of the Jacobian of v
at an equilibrium have negative real parts, gradient descent with a small enough step converges
(Mescheder, Geiger and Nowozin 2018, section 2).

>>> import jax.numpy as jnp
>>> game = dirac_gan("r1", 1.0)
>>> print(game_eigenvalues(game, jnp.float32(0.0), jnp.float32(0.0)).round(3))
[-0.5+0.j -0.5+0.j]
>>> print(local_convergence(game_eigenvalues(game, jnp.float32(0.0), jnp.float32(0.0))))
converges
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from gan_jax.theory.quadrature import standard_normal
from gan_jax.types import Array, PyTree

Loss = Callable[[PyTree, PyTree], Array]
Losses = tuple[Loss, Loss]


class Game(NamedTuple):
    """The losses of both players. Any pair of such functions is a game.

    Attributes:
      generator, discriminator: `(generator_params, discriminator_params) -> []`, the loss that the
        player minimises.
    """

    generator: Loss
    discriminator: Loss


def vector_field(
    game: Losses, generator_params: PyTree, discriminator_params: PyTree
) -> tuple[PyTree, PyTree]:
    """Returns v = (-dL_G/dtheta, -dL_D/dpsi), in the structure of the players' parameters."""
    generator_loss, discriminator_loss = game
    gradients = (
        jax.grad(generator_loss, 0)(generator_params, discriminator_params),
        jax.grad(discriminator_loss, 1)(generator_params, discriminator_params),
    )
    negative: tuple[PyTree, PyTree] = jax.tree.map(jnp.negative, gradients)
    return negative


def game_jacobian(game: Losses, generator_params: PyTree, discriminator_params: PyTree) -> Array:
    """Returns the Jacobian dv / d(theta, psi), [P, P] for P parameters of both players.

    The generator's parameters come first.
    """
    flat, unravel = ravel_pytree((generator_params, discriminator_params))
    return jax.jacfwd(lambda params: ravel_pytree(vector_field(game, *unravel(params)))[0])(flat)


def game_eigenvalues(
    game: Losses, generator_params: PyTree, discriminator_params: PyTree
) -> np.ndarray:
    """Returns the eigenvalues of `game_jacobian`, complex [P], by decreasing real part.

    It uses NumPy, so it does not work under `jit`.
    """
    jacobian = game_jacobian(game, generator_params, discriminator_params)
    values = np.linalg.eigvals(np.asarray(jacobian)).astype(complex)
    return values[np.lexsort((-values.imag, -values.real))]


def local_convergence(eigenvalues: np.ndarray, tolerance: float = 1e-6) -> str:
    """Classifies local convergence by the eigenvalues of the field's Jacobian at an equilibrium.

    Args:
      eigenvalues: [P], such as those of `game_eigenvalues`.
      tolerance: real parts up to this size count as zero.

    Returns:
      "converges" if every real part is below -tolerance, "diverges" if any is above tolerance, and
        "undecided" otherwise. If the real parts are zero, the continuous flow circles the
        equilibrium. Simultaneous gradient descent with constant step h then spirals outwards. Each
        step multiplies the distance from the equilibrium by |1 + h lambda| > 1.
    """
    real = np.real(eigenvalues)
    if np.all(real < -tolerance):
        return "converges"
    return "diverges" if np.any(real > tolerance) else "undecided"


def consensus(game: Losses, weight: float) -> Game:
    """Returns the game in which both players also minimise weight / 2 |v|^2.

    This is consensus optimisation (Mescheder et al. 2017).
    """
    generator_loss, discriminator_loss = game

    def energy(generator_params: PyTree, discriminator_params: PyTree) -> Array:
        flat, _ = ravel_pytree(vector_field(game, generator_params, discriminator_params))
        return weight / 2 * jnp.sum(jnp.square(flat))

    return Game(
        lambda theta, psi: generator_loss(theta, psi) + energy(theta, psi),
        lambda theta, psi: discriminator_loss(theta, psi) + energy(theta, psi),
    )


bilinear = Game(lambda x, y: jnp.sum(x * y), lambda x, y: -jnp.sum(x * y))
"""The game x y, minimised over x and maximised over y. Its equilibrium (0, 0) has eigenvalues
+-i."""


def _pull(logit: Array) -> Array:
    """Returns -log(1 - D), D's loss on a fake. G's minimax loss is the negative of this loss."""
    return jax.nn.softplus(logit)


_DIRAC = {
    "minimax": Game(lambda t, p: -_pull(p * t), lambda t, p: _pull(p * t)),
    "non_saturating": Game(lambda t, p: _pull(-p * t), lambda t, p: _pull(p * t)),
    "wasserstein": Game(lambda t, p: -p * t, lambda t, p: p * t),
}

DIRAC_GANS = (*_DIRAC, "wgan_gp", "instance_noise", "r1", "r2", "consensus")
"""The Dirac-GANs of Mescheder et al. 2018, section 3."""


def dirac_gan(name: str, strength: float = 1.0) -> Game:
    """Returns the Dirac-GAN, a game of the two scalars theta and psi.

    All data are 0, G's sample is theta, and D(x) = sigmoid(psi x).

    The formulas are written by hand, independently of the training code (Mescheder et al. 2018,
    definition 2.1). In that paper D is large on fakes. In this library D is large on real samples,
    so psi has the opposite sign.

    Args:
      name: one of `DIRAC_GANS`. "wgan_gp" adds a penalty to the Wasserstein game. "instance_noise",
        "r1", "r2" and "consensus" change the minimax game.
      strength: gamma, or sigma for "instance_noise". D's loss in "r1" and "r2" includes gamma/2
        psi^2. Both penalties are equal, because D's logit is linear in x. D's loss in "wgan_gp"
        includes gamma/2 (|psi| - 1)^2. Both losses in "consensus" include gamma/2 |v|^2. In
        "instance_noise", sigma is the standard deviation of the noise on data and samples. The
        other games ignore `strength`.

    Raises:
      ValueError: `name` is not in `DIRAC_GANS`.
    """
    _check_name(name)
    if name in _DIRAC:
        return _DIRAC[name]
    plain = _DIRAC["minimax"]
    if name == "consensus":
        return consensus(plain, strength)
    if name == "instance_noise":
        nodes, weights = standard_normal(31)

        def mean(function: Callable[[Array], Array]) -> Array:
            return jnp.sum(weights * function(strength * nodes))

        return Game(
            lambda t, p: -mean(lambda noise: _pull(p * (t + noise))),
            lambda t, p: mean(lambda noise: _pull(p * (t + noise)) + _pull(-p * noise)),
        )
    if name in ("r1", "r2"):
        return Game(plain.generator, lambda t, p: plain.discriminator(t, p) + strength / 2 * p**2)
    base = _DIRAC["wasserstein"]
    return Game(
        base.generator,
        lambda t, p: base.discriminator(t, p) + strength / 2 * (jnp.abs(p) - 1) ** 2,
    )


def _check_name(name: str) -> None:
    if name not in DIRAC_GANS:
        raise ValueError(f"name must be one of {', '.join(DIRAC_GANS)}, got {name!r}")


def dirac_eigenvalues(name: str, strength: float = 1.0) -> np.ndarray:
    """Returns the closed-form eigenvalues of the Dirac-GAN's Jacobian at (0, 0): complex [2].

    The formulas are those of Mescheder et al. 2018, sections 2 to 4. `name` and `strength` are as
    for `dirac_gan`.

    Raises:
      ValueError: `name` is not in `DIRAC_GANS`, or it is "wgan_gp", which has no Jacobian because
        its field jumps at psi = 0.
    """
    _check_name(name)
    half, turn = {
        "minimax": (0.0, -1 / 4),
        "non_saturating": (0.0, -1 / 4),
        "wasserstein": (0.0, -1.0),
        "r1": (-strength / 2, strength**2 / 4 - 1 / 4),
        "r2": (-strength / 2, strength**2 / 4 - 1 / 4),
        "instance_noise": (-(strength**2) / 4, strength**4 / 16 - 1 / 4),
        "consensus": (-strength / 4, -1 / 4),
    }.get(name, (np.nan, np.nan))
    if np.isnan(half):
        raise ValueError(f"the field of {name!r} has no Jacobian at the equilibrium")
    root = np.sqrt(complex(turn))
    return np.array([half + root, half - root])

"""Update rules that follow a game's vector field v. They map parameters to new parameters.

Each function takes a game and a step size eta, `step_size`, and returns an update `state -> state`.
The state is the pair (generator_params, discriminator_params). For `optimistic` the state is two
such pairs: the current pair and the previous pair. Near an equilibrium, an update converges at a
linear rate if and only if the spectral radius of its Jacobian is below one.

>>> import jax.numpy as jnp
>>> from gan_jax.theory.games import bilinear
>>> origin = (jnp.float32(0.0), jnp.float32(0.0))
>>> print(spectral_radius(extragradient(bilinear, 0.5), origin).round(4))  # sqrt(1 - 1/4 + 1/16)
0.9014
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from gan_jax.theory.games import Losses, game_jacobian, vector_field
from gan_jax.types import PyTree

Players = tuple[PyTree, PyTree]
Update = Callable[[PyTree], PyTree]


def _move(params: PyTree, step_size: float, velocity: PyTree) -> PyTree:
    return jax.tree.map(lambda p, v: p + step_size * v, params, velocity)


def simultaneous(game: Losses, step_size: float) -> Update:
    """Returns the update w + eta v(w), in which both players step from the same point."""

    def update(players: Players) -> Players:
        moved: Players = _move(players, step_size, vector_field(game, *players))
        return moved

    return update


def alternating(game: Losses, step_size: float) -> Update:
    """Returns the update in which D steps first and G then steps against the new D.

    This is Algorithm 1 with k = 1.
    """

    def update(players: Players) -> Players:
        theta, psi = players
        psi = _move(psi, step_size, vector_field(game, theta, psi)[1])
        theta = _move(theta, step_size, vector_field(game, theta, psi)[0])
        return theta, psi

    return update


def extragradient(game: Losses, step_size: float) -> Update:
    """Returns the update w + eta v(w + eta v(w)), which uses the field at the point one step ahead.

    The method is that of Korpelevich 1976.
    """

    def update(players: Players) -> Players:
        ahead = _move(players, step_size, vector_field(game, *players))
        moved: Players = _move(players, step_size, vector_field(game, *ahead))
        return moved

    return update


def optimistic(game: Losses, step_size: float) -> Update:
    """Returns the update w + 2 eta v(w) - eta v(previous w) of a state (w, previous w).

    The method is that of Daskalakis et al. 2018.
    """

    def update(state: tuple[Players, Players]) -> tuple[Players, Players]:
        players, before = state
        moved = _move(players, 2 * step_size, vector_field(game, *players))
        return _move(moved, -step_size, vector_field(game, *before)), players

    return update


def proximal(game: Losses, step_size: float, *, num_newton: int = 8) -> Update:
    """Returns the implicit update w' = w + eta v(w'), solved by `num_newton` dense Newton steps."""

    def update(players: Players) -> Players:
        flat, unravel = ravel_pytree(players)

        def newton(index: int, guess: jax.Array) -> jax.Array:
            del index
            field, _ = ravel_pytree(vector_field(game, *unravel(guess)))
            slope = jnp.eye(flat.size) - step_size * game_jacobian(game, *unravel(guess))
            return guess - jnp.linalg.solve(slope, guess - flat - step_size * field)

        solution = jax.lax.fori_loop(0, num_newton, newton, flat)
        moved: Players = unravel(solution)
        return moved

    return update


def spectral_radius(update: Update, state: PyTree) -> float:
    """Returns the largest |eigenvalue| of the update's Jacobian at a state.

    It uses NumPy, so it does not work under `jit`.
    """
    flat, unravel = ravel_pytree(state)
    jacobian = jax.jacfwd(lambda params: ravel_pytree(update(unravel(params)))[0])(flat)
    return np.abs(np.linalg.eigvals(np.asarray(jacobian))).max()

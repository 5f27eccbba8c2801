"""The Dirac-GAN as a GAN the library trains, and the linear map a step is next to a point."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import gan_jax
from gan_jax import GAN, Batch, Network

DATA = Batch(jnp.zeros((2, 1)))
"""Two real samples, both at 0."""


def dirac_gan() -> GAN:
    """G is the point theta, logit D(x) = psi x (Mescheder et al. 2018, definition 2.1).

    Under `losses.wasserstein` it is the bilinear game theta psi.
    """

    def generator(params, model_state, z, label=None, *, train, key=None):
        return jnp.ones_like(z) * params, model_state

    def discriminator(params, model_state, x, label=None, *, train, key=None):
        return params * x[:, 0], model_state

    return GAN(
        Network(lambda key, z, label=None: (jnp.zeros(()), {}), generator),
        Network(lambda key, x, label=None: (jnp.zeros(()), {}), discriminator),
        lambda key, num: jnp.zeros((num, 1)),
    )


def start(theta, psi, generator_tx, discriminator_tx=None):
    """The state at (theta, psi)."""
    discriminator_tx = discriminator_tx or generator_tx
    state = gan_jax.init(dirac_gan(), generator_tx, discriminator_tx, jax.random.key(0), DATA)
    return move(state, jnp.array([theta, psi], float), generator_tx, discriminator_tx)


def move(state, point, generator_tx, discriminator_tx):
    """The state with new parameters, its optimizers afresh."""
    players = zip(
        (state.generator, state.discriminator), (generator_tx, discriminator_tx), point, strict=True
    )
    generator, discriminator = (
        player.replace(params=params, opt_state=tx.init(params)) for player, tx, params in players
    )
    return state.replace(generator=generator, discriminator=discriminator)


def where(state):
    """(theta, psi)."""
    return np.array([state.generator.params, state.discriminator.params])


def repeated(step, num):
    """`num` steps on the same data, as one."""

    def steps(state, batch):
        return jax.lax.scan(lambda state, _: step(state, batch), state, length=num)

    return steps


def multipliers(step, state, batch=DATA):
    """The eigenvalues of the step's derivative in all that it reads and writes, at a state.

    That is: in both players' parameters and optimizer states, counters held. A fixed point draws
    its neighbours in if all are within the unit circle.
    """

    def split(state):
        players = state.generator, state.discriminator
        leaves, structure = jax.tree.flatten([(p.params, p.opt_state) for p in players])
        inexact = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
        return leaves, structure, inexact

    leaves, structure, inexact = split(state)
    flat, unravel = ravel_pytree([a for a, moves in zip(leaves, inexact, strict=True) if moves])

    def after(flat):
        moving = iter(unravel(flat))
        merged = [next(moving) if moves else a for a, moves in zip(leaves, inexact, strict=True)]
        players = (
            player.replace(params=params, opt_state=opt_state)
            for player, (params, opt_state) in zip(
                (state.generator, state.discriminator),
                jax.tree.unflatten(structure, merged),
                strict=True,
            )
        )
        generator, discriminator = players
        made, _ = step(state.replace(generator=generator, discriminator=discriminator), batch)
        return ravel_pytree([a for a, m in zip(split(made)[0], inexact, strict=True) if m])[0]

    return np.linalg.eigvals(np.asarray(jax.jit(jax.jacfwd(after))(flat)))


def radius(step, state, batch=DATA):
    """The spectral radius of `multipliers`."""
    return np.abs(multipliers(step, state, batch)).max()

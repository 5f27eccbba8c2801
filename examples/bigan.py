"""BiGAN: an encoder E learns to invert G (Donahue et al. 2017; Dumoulin et al. 2017).

D distinguishes pairs (x, E(x)) from pairs (G(z), z). G and E together are one player, with a custom
objective.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import gan_jax
from gan_jax import Algorithm, Batch, Network, losses, penalties
from gan_jax.algorithms import Aux

layers = lambda num: [nn.Dense(32), nn.relu, nn.Dense(32), nn.relu, nn.Dense(num)]  # noqa: E731
prior, (G, E, D) = gan_jax.priors.normal(2), (nn.Sequential(layers(num)) for num in (2, 2, 1))


def objective(role, params, player, opponent, batch, key):
    order = 1 if role == "discriminator" else -1
    coder, judge = (opponent.params, params)[::order]
    x, z = batch.x, gan_jax.random.draw(prior, key, batch.x)
    pairs = (x, E.apply(coder["E"], x)), (G.apply(coder["G"], z), z)
    critic = lambda pair: D.apply(judge, jnp.hstack(pair))[:, 0]  # noqa: E731
    loss = losses.minimax.discriminator(*map(critic, pairs[::order])).mean()  # swapped for G and E
    slope = penalties.r1(critic, *pairs, key) + penalties.r2(critic, *pairs, key)
    total = loss + 0.05 * slope.mean() if role == "discriminator" else loss
    return total, Aux({f"{role}_loss": loss}, player.model_state, player.memory)


def make(tx, **options) -> Algorithm:
    coder = Network(
        lambda key, z, label=None: ({"G": G.init(key, z), "E": E.init(key, z)}, {}),
        lambda params, state, z, label=None, **mode: (G.apply(params["G"], z), state),
    )
    judge = Network(lambda key, x, label=None: (D.init(key, jnp.hstack([x, x])), {}), D.apply)
    gan, roles = gan_jax.GAN(coder, judge, prior), ("discriminator", "generator")
    steps = [gan_jax.make_player_step(r, partial(objective, r), tx, **options) for r in roles]
    return gan_jax.make_algorithm(gan, partial(gan_jax.init, gan, tx, tx), *steps)


def data(key, *shape):
    a, b = jax.random.normal(key, (2, *shape))
    return jnp.stack([a, 0.3 * (a**2 - 1) + b / 2], axis=-1)


def main(num=2000):
    algorithm = make(optax.adam(optax.cosine_decay_schedule(5e-3, num), b1=0.5))
    x, z = data(jax.random.key(0), num, 1, 128), prior(jax.random.key(1), 1000)
    state = algorithm.init(jax.random.key(2), Batch(x[0, 0]))
    params = jax.jit(partial(jax.lax.scan, algorithm.step))(state, Batch(x))[0].ema_params
    error = jnp.linalg.norm(E.apply(params["E"], G.apply(params["G"], z)) - z, axis=1)
    print(f"|E(G(z)) - z| is {error.mean():.2f} on average; the mean |z| is 1.25")


if __name__ == "__main__":
    main()

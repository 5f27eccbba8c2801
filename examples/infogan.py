"""InfoGAN: D predicts a part of G's input, the code, from the samples (Chen et al. 2016)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import rel_entr

from gan_jax import GAN, Batch, Output, adversarial, from_linen, terms
from gan_jax.data.synthetic import feed, ring
from gan_jax.losses import non_saturating

DATA = ring(8, scale=0.1)  # eight Gaussians without labels, for a code of eight values


def prior(key: jax.Array, num: int) -> dict[str, jax.Array]:
    noise, code = jax.random.split(key)
    return {"noise": jax.random.normal(noise, (num, 2)), "code": jax.random.choice(code, 8, (num,))}


def joined(z: dict[str, jax.Array]) -> jax.Array:
    return jnp.concatenate([z["noise"], jax.nn.one_hot(z["code"], 8)], axis=1)


generator = nn.Sequential([joined, nn.Dense(64), nn.relu, nn.Dense(64), nn.relu, nn.Dense(2)])
judge = nn.Sequential(
    [nn.Dense(128), nn.relu, nn.Dense(9), lambda y: Output(y[:, 0], {"code": y[:, 1:]})]
)
gan = GAN(from_linen(generator), from_linen(judge), prior)
recovery = (terms.information(lambda z: z["code"]), 1.0)
make = partial(
    adversarial,
    gan,
    non_saturating,
    generator_tx=optax.adam(1e-3, b1=0.5),
    discriminator_tx=optax.adam(1e-3, b1=0.5),
    discriminator_terms=[recovery],
    generator_terms=[recovery],
)


def batch(key: jax.Array, num: int) -> Batch:
    return Batch(DATA.sample(key, num))


def main(seed: int = 0, steps: int = 2000) -> float:
    algorithm, key = make(), jax.random.key(seed)
    train = partial(jax.lax.scan, feed(algorithm.step, batch, (1, 128)), length=steps)
    state, _ = jax.jit(train)(jax.jit(algorithm.init)(key, batch(key, 128)))
    z = prior(key, 4096)
    x = algorithm.generate(state, z)
    nearest = jnp.argmin(jnp.linalg.norm(x[:, None] - DATA.modes[None], axis=2), axis=1)
    joint = jnp.zeros((8, 8)).at[nearest, z["code"]].add(1 / 4096)
    return float(rel_entr(joint, jnp.outer(joint.sum(1), joint.sum(0))).sum() / jnp.log(8))


if __name__ == "__main__":
    print(f"The nearest mode of a sample determines {main():.1%} of its code's entropy.")

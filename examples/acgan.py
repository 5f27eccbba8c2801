"""AC-GAN: G is conditioned on a class, and D also predicts the class (Odena et al. 2017)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gan_jax import GAN, Batch, Output, adversarial, from_linen, penalties, priors, terms
from gan_jax.data.synthetic import feed, ring
from gan_jax.losses import non_saturating

CENTRES = ring(8).modes  # the centres of the classes, [8, 2]


class Generator(nn.Module):
    @nn.compact
    def __call__(self, z: jax.Array, label: jax.Array) -> jax.Array:
        h = jnp.concatenate([z, jax.nn.one_hot(label, 8)], axis=1)
        return nn.Dense(2)(nn.relu(nn.Dense(64)(nn.relu(nn.Dense(64)(h)))))


class Discriminator(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> Output:
        h = nn.relu(nn.Dense(64)(nn.relu(nn.Dense(64)(x))))
        return Output(nn.Dense(1)(h)[:, 0], {"label": nn.Dense(8)(h)})


make = partial(
    adversarial,
    GAN(from_linen(Generator()), from_linen(Discriminator()), priors.normal(2)),
    non_saturating,
    generator_tx=optax.adam(1e-3, b1=0.5),
    discriminator_tx=optax.adam(1e-3, b1=0.5),
    penalties=[(penalties.r1, 0.1)],
    discriminator_terms=[(terms.classification(), 1.0)],
    generator_terms=[(terms.classification(real=False), 1.0)],
)


def batch(key: jax.Array, num: int) -> Batch:
    label = jnp.arange(num) % 8
    return Batch(jnp.asarray(CENTRES)[label] + 0.1 * jax.random.normal(key, (num, 2)), label)


def main(seed: int = 0, steps: int = 2000) -> float:
    """Returns the share of fakes that are nearest to the centre of their class."""
    algorithm, key, label = make(), jax.random.key(seed), jnp.arange(4096) % 8
    train = partial(jax.lax.scan, feed(algorithm.step, batch, (1, 128)), length=steps)
    state, _ = jax.jit(train)(jax.jit(algorithm.init)(key, batch(key, 128)))
    x = algorithm.sample(state, key, 4096, label)
    nearest = jnp.argmin(jnp.linalg.norm(x[:, None] - CENTRES[None], axis=2), axis=1)
    return float(jnp.mean(nearest == label))


if __name__ == "__main__":
    print(f"The nearest centre agrees with the label on {main():.1%} of the fakes.")

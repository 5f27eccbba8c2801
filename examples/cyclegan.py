"""CycleGAN: two translators learn from unpaired data to invert each other (Zhu et al. 2017)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gan_jax import GAN, Batch, Pass, adversarial, from_linen, losses, penalties, priors, terms
from gan_jax.data.synthetic import feed, ring, two_moons
from gan_jax.metrics.two_sample import energy_test

A, B = two_moons(0.1), ring(3, scale=0.1)  # the domains


class Translators(nn.Module):
    @nn.compact
    def __call__(self, z: jax.Array, label: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {d: nn.Dense(2)(nn.relu(nn.Dense(256)(label[of]))) for d, of in ("ab", "ba")}


class Discriminators(nn.Module):
    @nn.compact
    def __call__(self, x: dict[str, jax.Array]) -> jax.Array:  # [B, 2], one logit per network
        return jnp.concatenate([nn.Dense(1)(nn.relu(nn.Dense(256)(x[d]))) for d in "ab"], axis=1)


def cycle(seen: Pass) -> jax.Array:  # the real samples are G's inputs here
    return terms.reconstruction(seen._replace(fake=seen.generator(seen.z, seen.fake)))


make = partial(
    adversarial,
    GAN(from_linen(Translators()), from_linen(Discriminators()), priors.normal(0)),
    losses.non_saturating,
    generator_tx=optax.adam(1e-3, b1=0.5),
    discriminator_tx=optax.adam(1e-3, b1=0.5),
    penalties=[(penalties.r1, 0.1)],
    generator_terms=[(cycle, 1.0)],
)


def batch(key: jax.Array, num: int) -> Batch:
    x = {"a": A.sample(key, num), "b": B.sample(jax.random.fold_in(key, 1), num)}
    return Batch(x, x)


def main(seed: int = 0, steps: int = 3000) -> tuple[float, float]:
    algorithm, key = make(), jax.random.key(seed)
    train = partial(jax.lax.scan, feed(algorithm.step, batch, (1, 128)), length=steps)
    state, metrics = jax.jit(train)(jax.jit(algorithm.init)(key, batch(key, 128)))
    given, fresh = (batch(jax.random.fold_in(key, i), 1000).x for i in (1, 2))
    made = algorithm.sample(state, key, 1000, given)
    distances = [float(energy_test(made[d], fresh[d], key).distance) for d in made]
    return float(metrics["generator_cycle"][-100:].mean()), max(distances)


if __name__ == "__main__":
    print("Error of a cycle {:.3f}, energy distance to the other domain {:.3f}.".format(*main()))

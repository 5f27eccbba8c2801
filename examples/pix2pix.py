"""pix2pix: G fills an outline, and D judges patches of outline and image (Isola et al. 2017)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gan_jax import GAN, Batch, adversarial, from_linen, priors, terms
from gan_jax.data.synthetic import feed
from gan_jax.losses import non_saturating


class Generator(nn.Module):
    @nn.compact
    def __call__(self, z: jax.Array, label: jax.Array) -> jax.Array:
        h = jnp.concatenate([z, label.reshape(-1, 64)], axis=1)
        h = nn.relu(nn.Dense(128)(nn.relu(nn.Dense(128)(h))))
        return jnp.tanh(nn.Dense(64)(h)).reshape(label.shape)


class PatchDiscriminator(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array) -> jax.Array:
        pair = jnp.concatenate([x, label], axis=3)
        h = nn.relu(nn.Conv(32, (4, 4), strides=(2, 2), padding="VALID")(pair))
        return nn.Dense(1)(h)[..., 0]  # logits [B, 3, 3], one per patch


make = partial(
    adversarial,
    GAN(from_linen(Generator()), from_linen(PatchDiscriminator()), priors.normal(2)),
    non_saturating,
    generator_tx=optax.adam(1e-3, b1=0.5),
    discriminator_tx=optax.adam(1e-3, b1=0.5),
    generator_terms=[(terms.reconstruction, 10.0)],
)


def batch(key: jax.Array, num: int) -> Batch:
    """Returns discs [num, 8, 8, 1] with their outlines as labels."""
    key_centre, key_radius = jax.random.split(key)
    centre = jax.random.uniform(key_centre, (num, 2, 1, 1), minval=2.0, maxval=5.0)
    radius = jax.random.uniform(key_radius, (num, 1, 1, 1), minval=1.0, maxval=3.0)
    apart = jnp.linalg.norm(jnp.indices((8, 8))[None] - centre, axis=1)[..., None] - radius
    return Batch(jnp.tanh(-apart), 2 * jnp.exp(-jnp.square(apart)) - 1)


def main(seed: int = 0, steps: int = 1000) -> float:
    """Returns the mean absolute error per pixel on new pairs. Pixels are in [-1, 1]."""
    algorithm, key = make(), jax.random.key(seed)
    train = partial(jax.lax.scan, feed(algorithm.step, batch, (1, 64)), length=steps)
    state, _ = jax.jit(train)(jax.jit(algorithm.init)(key, batch(key, 64)))
    held_out = batch(key, 1000)
    return float(jnp.mean(jnp.abs(algorithm.sample(state, key, 1000, held_out.label) - held_out.x)))


if __name__ == "__main__":
    print(f"The mean absolute error per pixel is {main():.3f}.")

"""StyleGAN's mixing regularisation: two latents per image (Karras et al. 2019, section 3.1).

The layers of G are cut at a random place. The first latent styles the layers before this cut, and
the second latent styles the others. The prior returns both latents and the cut as one tree.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import gan_jax
from gan_jax import Algorithm, Batch
from gan_jax.losses import non_saturating
from gan_jax.models.mlp import mlp

LAYERS = 3


def prior(key, num):
    """Draws two latents [num, 2, 8] and a cut [num]. Half of the cuts use only the first latent."""
    key_z, key_cut = jax.random.split(key)
    cut = jax.random.randint(key_cut, (num,), 1, 2 * LAYERS - 1)
    return {"styles": jax.random.normal(key_z, (num, 2, 8)), "cut": jnp.minimum(cut, LAYERS)}


class Generator(nn.Module):
    @nn.compact
    def __call__(self, z, train=False):
        first, second = jnp.moveaxis(nn.relu(nn.Dense(32, name="mapping")(z["styles"])), 1, 0)
        x = self.param("constant", nn.initializers.normal(1.0), (1, 32))
        for layer in range(LAYERS):
            mixed = jnp.where(layer < z["cut"][:, None], first, second)
            style = nn.Dense(32, name=f"style_{layer}")(mixed if train else first)
            x = nn.leaky_relu(nn.Dense(32)(x) + style)
        return nn.Dense(2)(x)


def make(tx, **options) -> Algorithm:
    gan = mlp((2,), bounded=False)._replace(generator=gan_jax.from_linen(Generator()), prior=prior)
    return gan_jax.adversarial(gan, non_saturating, generator_tx=tx, discriminator_tx=tx, **options)


def data(key, *shape):
    angle = jax.random.uniform(key, shape, maxval=2 * jnp.pi)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def main(num=1000):
    algorithm, x = make(optax.adam(1e-3, b1=0.5)), data(jax.random.key(0), num, 1, 64)
    state = algorithm.init(jax.random.key(1), Batch(x[0, 0]))
    state, _ = jax.jit(partial(jax.lax.scan, algorithm.step))(state, Batch(x))
    radius = jnp.linalg.norm(algorithm.sample(state, jax.random.key(2), 1000), axis=1)
    print(f"Radius of the samples: {radius.mean():.2f} +- {radius.std():.2f}, of the data: 1")


if __name__ == "__main__":
    main()

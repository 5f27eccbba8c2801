"""Path length regularisation of StyleGAN2's G (Karras et al. 2020, section 3.2).

G maps z -> w -> x. The term makes |J^T y| equal for all w. J is dx/dw, and y is a random image.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import gan_jax
from gan_jax import Algorithm, Batch, losses, penalties, terms
from gan_jax.models.mlp import mlp

mapping = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(8)])
synthesis = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(64), lambda x: x.reshape(-1, 8, 8, 1)])


def split(params):
    first, second = ({"params": params[name]} for name in ("layers_0", "layers_1"))
    return partial(mapping.apply, first), partial(synthesis.apply, second)


def path(seen):
    """Returns w and the function w -> x."""
    style, image = split(seen.generator.params)
    return style(seen.z), image


def make(tx, weight=2.0, **options) -> Algorithm:
    generator = gan_jax.from_linen(nn.Sequential([mapping, synthesis]))
    gan = mlp((8, 8, 1), latent=8, width=64)._replace(generator=generator)
    term = (terms.path_length(path=path), penalties.lazy(weight, every=4))
    options |= {"penalties": [(penalties.r1, 0.5)], "generator_tx": tx, "discriminator_tx": tx}
    return gan_jax.adversarial(gan, losses.non_saturating, generator_terms=[term], **options)


def data(key, *shape):
    """Returns images [..., 8, 8, 1] of a blob at a random position."""
    place = jax.random.uniform(key, (2, *shape), minval=2.0, maxval=5.0)
    row, column = jnp.exp(-jnp.square(jnp.linspace(-place, 7 - place, 8, axis=-1)) / 2)
    return 2 * jnp.einsum("...i,...j->...ij", row, column)[..., None] - 1


def main(num=1000):
    for weight in (0.0, 2.0):
        x, algorithm = data(jax.random.key(0), num, 1, 64), make(optax.adam(2e-3, b1=0.0), weight)
        state = algorithm.init(jax.random.key(1), Batch(x[0, 0]))
        train = jax.jit(partial(jax.lax.scan, algorithm.step))
        style, image = split(train(state, Batch(x))[0].ema_params)
        w = style(jax.random.normal(jax.random.key(2), (200, 8)))
        jacobian = jax.vmap(jax.jacobian(image))(w[:, None])
        lengths = jnp.linalg.norm(jacobian.reshape(200, -1), axis=1)
        print(f"weight {weight}: |J| varies by {lengths.std() / lengths.mean():.1%}")


if __name__ == "__main__":
    main()

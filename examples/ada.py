"""ADA: the augmentation of D's inputs grows until D no longer overfits (Karras et al. 2020, section
3).

r_t is the mean sign of D's logits on real samples. If D memorises a small data set, r_t rises to 1.
While r_t is above 0.6, the probability p of augmentation rises. With fresh examples p stays at 0.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax

import gan_jax
from gan_jax import Algorithm, Batch, losses
from gan_jax.models.mlp import mlp


def noise(key, x, p):
    """Adds Gaussian noise to the example x [16] with probability p."""
    key_choice, key_noise = jax.random.split(key)
    noisy = x + 2 * jax.random.normal(key_noise, x.shape)
    return jnp.where(jax.random.bernoulli(key_choice, p), noisy, x)


def make(tx, rate=2e-3, **options) -> Algorithm:
    gan = mlp((16,), latent=8, width=64, bounded=False)
    loss, feedback = losses.non_saturating, gan_jax.augment.adaptive(noise, rate=rate)
    return gan_jax.adversarial(
        gan, loss, generator_tx=tx, discriminator_tx=tx, augmentation=feedback, **options
    )


def data(key, *shape, examples=None):
    """Returns samples [..., 16] of a normal distribution. With `examples`, they are drawn from a
    fixed set of this size."""
    if examples is None:
        return jax.random.normal(key, (*shape, 16))
    return jax.random.choice(key, data(jax.random.key(examples), examples), shape)


def main(num=1500):
    for examples in (32, None):
        algorithm = make(optax.adam(1e-3, b1=0.5))
        x = data(jax.random.key(0), num, 1, 64, examples=examples)
        state = algorithm.init(jax.random.key(1), Batch(x[0, 0]))
        _, metrics = jax.jit(partial(jax.lax.scan, algorithm.step))(state, Batch(x))
        means = [metrics[f"augmentation_{name}"][-500:].mean() for name in ("p", "r_t")]
        print(f"{examples or 'fresh'} examples: p {means[0]:.2f}, r_t {means[1]:.2f}")


if __name__ == "__main__":
    main()

"""What `mixture_2d` and `mixture_table` share: distributions in the plane, networks, figures."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli, many
from gan_jax import GAN, TrainState, priors, sample
from gan_jax.data.synthetic import DISTRIBUTIONS, Distribution, standardised
from gan_jax.metrics.modes import mode_coverage
from gan_jax.metrics.two_sample import energy_test
from gan_jax.models.mlp import mlp
from gan_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Recipe(many.Rules):
    """What is learned, by which networks and game, for how long, how often."""

    data: Literal["ring", "grid", "cascade", "swiss_roll", "two_moons", "spiral"] = "ring"
    """The distribution of the real samples."""
    latent: int = 2
    """Dimensions of z."""
    latent_scale: float = 4.0
    """Standard deviation of z: the wider, the less of it lies on the way from mode to mode."""
    width: int = 64
    """Units in a hidden layer of either network."""
    generator_depth: int = 4
    """Hidden layers of G."""
    discriminator_depth: int = 4
    """Hidden layers of D."""
    generator_slope: float = 0.0
    """Of G's leaky ReLUs below 0; 0: ReLUs."""


def check(recipe: Recipe) -> None:
    """Raises `UserError` for values that no run could use."""
    many.check(recipe)
    counts = ("latent", "width", "generator_depth", "discriminator_depth")
    cli.check_at_least(recipe, **dict.fromkeys(counts, 1))
    cli.check_above_zero(recipe, "latent_scale")


def data(recipe: Recipe) -> tuple[Distribution, float]:
    """The distribution in units of its root mean square, and that unit in the data's own."""
    return standardised(DISTRIBUTIONS[recipe.data]())


def build(recipe: Recipe, distribution: Distribution) -> many.Game:
    """The game that the settings describe."""

    def of_depth(depth: int) -> GAN:
        return mlp(
            (2,),
            width=recipe.width,
            depth=depth,
            bounded=False,
            generator_slope=recipe.generator_slope,
        )

    gan = GAN(
        of_depth(recipe.generator_depth).generator,
        of_depth(recipe.discriminator_depth).discriminator,
        priors.normal(recipe.latent, recipe.latent_scale),
    )
    return many.play(recipe, gan, distribution, (2,))


def measure(distribution: Distribution, x: Array, key: Array) -> dict[str, Array]:
    """The figures of samples x [N, 2], each [].

    Keys: `captured`, `high_quality` and `reverse_kl` of `mode_coverage`, if there are modes;
    `energy_distance` and its `p_value`, against as many fresh draws.
    """
    key_real, key_test = jax.random.split(key)
    tested = energy_test(x, distribution.sample(key_real, len(x)), key_test)
    figures = {"energy_distance": tested.distance, "p_value": tested.p_value}
    if len(distribution.modes):
        modes = mode_coverage(
            x, *(jnp.asarray(a, x.dtype) for a in (distribution.modes, distribution.scale))
        )
        figures |= modes._asdict()
    return figures


def figures_of(
    recipe: Recipe, game: many.Game, distribution: Distribution, states: TrainState
) -> dict[str, dict[str, list[float]]]:
    """The figures seed by seed, of the GANs and of a sampler that is perfect."""
    keys = jax.vmap(jax.random.key)(jnp.arange(recipe.seeds))

    def of_both(each: tuple[TrainState, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        state, key = each
        key_gan, key_perfect, key_measure = jax.random.split(key, 3)
        made = sample(game.gan, state, key_gan, recipe.num_samples)
        perfect = distribution.sample(key_perfect, recipe.num_samples)
        return (
            measure(distribution, made, key_measure),
            measure(distribution, perfect, key_measure),
        )

    # One after the other: the test holds all distances between the samples.
    found = jax.jit(lambda *each: jax.lax.map(of_both, each))(states, keys)
    return {
        who: {name: np.asarray(values, float).tolist() for name, values in figures.items()}
        for who, figures in zip(("gan", "perfect_sampler"), found, strict=True)
    }
